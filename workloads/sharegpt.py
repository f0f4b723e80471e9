"""Conversations (ShareGPT JSON) as requests or sessions."""

from __future__ import annotations

import itertools
import json
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from hardware_profiles.errors import UserError
from workloads.arrivals import Horizon, arrival_times, parse_arrival
from workloads.lengths import parse_length
from workloads.options import PLAIN_BLOCK_TOKENS, ReadOptions
from workloads.streams import stream
from workloads.synthetic import sessions_from_turns
from workloads.tables import first_line, json_lines, open_text
from workloads.trace import ReadReport, Trace


def read_sharegpt(path: Path, options: ReadOptions) -> Trace:
    """ShareGPT JSON (a list, or one conversation per line): human and gpt messages in ``conversations``.

    By default the first question and answer of each conversation make one request, as in ``vllm bench serve``;
    ``sessions`` makes a session of every conversation, with pauses from ``think_s``. A message's ``tokens`` field is
    its length; without it characters divided by ``characters_per_token``, with a warning. There are no arrival times:
    ``arrival`` is needed.
    """
    if options.arrival is None:
        raise UserError(
            f"{path}: conversations have no arrival times; give an arrival process "
            "(arrival=poisson and rate_per_s=5; --trace-arrival poisson --trace-rate 5, in apex-sim traces without trace-)"
        )
    conversations = [_pairs(path, i, item, options) for i, item in enumerate(_conversations(path))]
    estimated = sum(pair[2] for pairs in conversations for pair in pairs)
    notes: tuple[str, ...] = ()
    if estimated:
        text = f"{estimated} lengths estimated at {options.characters_per_token:g} characters per token"
        warnings.warn(f"{path}: {text}; give a tokens field for exact ones", stacklevel=2)
        notes = (text,)
    dropped = {"no human-gpt pair": sum(not pairs for pairs in conversations)}
    conversations = [pairs for pairs in conversations if pairs]
    if not conversations:
        raise UserError(f"{path}: no conversation has a human message followed by a gpt message")
    num_pairs = sum(map(len, conversations))
    if options.sessions:
        trace = _conversation_sessions(conversations, options)
    else:
        dropped["later turn"] = num_pairs - len(conversations)
        trace = _first_turns(conversations, options)
    report = ReadReport(
        format="sharegpt",
        rows_read=num_pairs + dropped["no human-gpt pair"],
        emitted=len(trace),
        dropped={reason: count for reason, count in dropped.items() if count},
        notes=notes,
    )
    return replace(trace, name=path.stem, source=str(path), report=report)


Pair = tuple[int, int, int]
"""Question tokens, answer tokens, how many of the two are estimates."""


def _first_turns(conversations: list[list[Pair]], options: ReadOptions) -> Trace:
    process = parse_arrival(options.arrival)
    horizon = Horizon(num=len(conversations))
    first = np.array([pairs[0] for pairs in conversations], dtype=np.int64)
    return Trace(
        arrival_s=arrival_times(process, stream(options.seed, "arrivals"), options.rate_per_s, horizon),
        input_tokens=first[:, 0],
        output_tokens=first[:, 1],
        concurrency=process.concurrency,
    )


def _conversation_sessions(conversations: list[list[Pair]], options: ReadOptions) -> Trace:
    if options.think_s is None:
        raise UserError("sessions of conversations need think_s, a distribution of pauses ('exponential(mean=30)')")
    process = parse_arrival(options.arrival)
    horizon = Horizon(num=len(conversations))
    flat = np.array([pair for pairs in conversations for pair in pairs], dtype=np.int64)
    think = parse_length(options.think_s, what="think_s")
    return sessions_from_turns(
        starts=arrival_times(process, stream(options.seed, "arrivals"), options.rate_per_s, horizon),
        turns=np.array([len(pairs) for pairs in conversations], dtype=np.int64),
        think_s=think.draw(stream(options.seed, "think_s"), len(flat)),
        question=flat[:, 0],
        output=flat[:, 1],
        block=options.block_tokens or PLAIN_BLOCK_TOKENS,
    )


def _conversations(path: Path) -> Iterable[Any]:
    if first_line(path).startswith("{"):
        return [item for _, item in json_lines(path)]
    with open_text(path) as file:
        try:
            items = json.load(file)
        except json.JSONDecodeError as error:
            raise UserError(f"{path}: line {error.lineno}: is not JSON: {error.msg}") from None
    return items if isinstance(items, list) else [items]


def _pairs(path: Path, index: int, item: Any, options: ReadOptions) -> list[Pair]:
    """Question-answer pairs of one conversation; messages that are neither, or out of turn, are passed over."""
    messages = item.get("conversations", item.get("messages")) if isinstance(item, dict) else None
    if not isinstance(messages, list) or not all(isinstance(m, dict) for m in messages):
        raise UserError(f"{path}: conversation {index + 1} has no list 'conversations' of {{from, value}} messages")
    pairs: list[Pair] = []
    for question, answer in itertools.pairwise(messages):
        if _speaker(question) in ("human", "user") and _speaker(answer) in ("gpt", "assistant", "chatgpt", "bing"):
            (asked, guess_in), (said, guess_out) = (
                _message_tokens(path, index, m, options) for m in (question, answer)
            )
            if asked and said:
                pairs.append((asked, said, guess_in + guess_out))
    return pairs


def _speaker(message: Mapping[str, Any]) -> str:
    return str(message.get("from", message.get("role", "")))


def _message_tokens(path: Path, index: int, message: Mapping[str, Any], options: ReadOptions) -> tuple[int, bool]:
    tokens = message.get("tokens")
    if tokens is None:
        text = message.get("value", message.get("content"))
        if not isinstance(text, str):
            raise UserError(f"{path}: conversation {index + 1}: a message has neither 'tokens' nor text in 'value'")
        return (max(1, round(len(text) / options.characters_per_token)) if text else 0), True
    if isinstance(tokens, list):
        return len(tokens), False
    if not isinstance(tokens, int) or isinstance(tokens, bool) or tokens < 0:
        raise UserError(f"{path}: conversation {index + 1}: tokens is {tokens!r}; it must be a whole number")
    return tokens, False
