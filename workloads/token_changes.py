"""What a technique does to token counts, as changes of a trace: longer or shorter prompts and outputs, images, thinking."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TypedDict

import numpy as np

from hardware_profiles.errors import UserError
from workloads.streams import stream
from workloads.trace import FloatArray, IntArray, Trace

LONGEST_TOKENS = 10**9
"""Longest request that a change may make; no model reads as much."""


class TokenSettings(TypedDict, total=False):
    """Changes under the names they have in the API, the command line and workload files; None or absent: none."""

    scale_input: float | None
    scale_output: float | None
    extra_input: int | None
    extra_input_share: float | None
    thinking_share: float | None
    thinking_requests: float | None
    max_input: int | None
    max_output: int | None


TOKEN_KEYS: dict[str, str] = {
    "scale_input": "factor on prompt tokens (in a session: on what each turn adds)",
    "scale_output": "factor on output tokens",
    "extra_input": "tokens added to every prompt: an image, a video, a document",
    "extra_input_share": "share of the requests that get extra_input, at random; default 1",
    "thinking_share": "share of the output tokens that are thinking; with thinking_requests",
    "thinking_requests": "share of the requests that think, at random; the others lose their thinking tokens",
    "max_input": "longest prompt; the first tokens stay",
    "max_output": "longest output",
}
"""Keys in workload files, what they mean."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenChanges:
    """Changes of token counts, done in this order: factors, thinking, extra tokens, limits. Counts stay at least 1.

    Prompts are cut and lengthened at their end, so shared prefixes stay shared as far as they reach. In a session the prompt of
    a later turn is the history, as changed, and what the turn adds.
    """

    scale_input: float | None = None
    scale_output: float | None = None
    extra_input: int | None = None
    extra_input_share: float | None = None
    thinking_share: float | None = None
    thinking_requests: float | None = None
    max_input: int | None = None
    max_output: int | None = None
    seed: int = 0
    """Of which requests think and which have extra tokens."""

    def __post_init__(self) -> None:
        for name in ("scale_input", "scale_output"):
            _check(name, getattr(self, name), "a number above 0", lambda v: v > 0)
        for name in ("extra_input_share", "thinking_requests"):
            _check(name, getattr(self, name), "a share from 0 to 1", lambda v: 0 <= v <= 1)
        _check("thinking_share", self.thinking_share, "a share of at least 0 and below 1", lambda v: 0 <= v < 1)
        for name, least in (("extra_input", 0), ("max_input", 1), ("max_output", 1)):
            rule = f"a whole number of tokens, at least {least} and at most {LONGEST_TOKENS:,}"
            _check(name, getattr(self, name), rule, lambda v, n=least: v == int(v) and n <= v <= LONGEST_TOKENS)
        if (self.thinking_share is None) != (self.thinking_requests is None):
            raise UserError("thinking_share and thinking_requests go together: how long thinking is, and how many do")
        if self.extra_input_share is not None and self.extra_input is None:
            raise UserError("extra_input_share says who gets extra tokens; give extra_input, how many")

    @property
    def is_none(self) -> bool:
        """Whether nothing changes."""
        return all(getattr(self, f.name) is None for f in fields(self) if f.name != "seed")

    def __str__(self) -> str:
        given = ((f.name, getattr(self, f.name)) for f in fields(self) if f.name != "seed")
        return ", ".join(f"{name} {value:g}" for name, value in given if value is not None)


def change_tokens(trace: Trace, changes: TokenChanges) -> Trace:
    """The trace with its token counts changed; arrivals, sessions and the number of requests stay."""
    if changes.is_none:
        return trace
    output = _outputs(trace, changes)
    own = trace.input_tokens - _history(trace)
    added = _scaled("scale_input", own, changes.scale_input) + _extra(len(trace), changes)
    prompt = _prompts(trace, added, output, changes.max_input)
    longest = int((prompt + output).max())
    if longest > LONGEST_TOKENS:
        raise UserError(
            f"{trace.name}: {changes} makes a request of {longest:,} tokens; the limit is {LONGEST_TOKENS:,}. Use less"
        )
    ids, offsets = trace.prefix_ids, trace.prefix_offsets
    if ids is not None and offsets is not None:
        ids, offsets = _prefixes(trace, prompt, output)
    return replace(
        trace,
        input_tokens=prompt,
        output_tokens=output,
        prefix_ids=ids,
        prefix_offsets=offsets,
        source=f"{trace.source}; {changes}",
    )


def _check(name: str, value: object, rule: str, holds: object) -> None:
    if value is None:
        return
    number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not (number and callable(holds) and holds(value)):
        shown = f"{value:g}" if isinstance(value, int | float) and not isinstance(value, bool) else repr(value)
        raise UserError(f"{name} is {shown}; it must be {rule}")


def _scaled(name: str, tokens: IntArray, factor: float | FloatArray | None) -> IntArray:
    """Counts times a factor, to the nearest token, at least 1."""
    if factor is None:
        return tokens
    scaled = np.floor(tokens * (float(factor) if isinstance(factor, int) else factor) + 0.5)
    if scaled.max() > LONGEST_TOKENS:
        raise UserError(f"{name} makes {scaled.max():.3g} tokens of a request; the limit is {LONGEST_TOKENS:,}")
    counts: IntArray = np.maximum(1, scaled.astype(np.int64))
    return counts


def _outputs(trace: Trace, changes: TokenChanges) -> IntArray:
    output = _scaled("scale_output", trace.output_tokens, changes.scale_output)
    if changes.thinking_share is not None and changes.thinking_requests is not None:
        thinks = stream(changes.seed, "thinking").random(len(trace)) < changes.thinking_requests
        output = _scaled("thinking_share", output, np.where(thinks, 1.0, 1.0 - changes.thinking_share))
    return output if changes.max_output is None else np.minimum(output, changes.max_output)


def _extra(count: int, changes: TokenChanges) -> IntArray:
    """Tokens added to each prompt."""
    if changes.extra_input is None:
        return np.zeros(count, dtype=np.int64)
    share = 1.0 if changes.extra_input_share is None else changes.extra_input_share
    drawn = stream(changes.seed, "extra_input").random(count) < share
    return drawn.astype(np.int64) * int(changes.extra_input)


def _history(trace: Trace) -> IntArray:
    """Tokens of each prompt that the turn before it has left: its prompt and output, where the prompt holds them."""
    if trace.previous is None:
        return np.zeros(len(trace), dtype=np.int64)
    left = np.where(trace.previous >= 0, (trace.input_tokens + trace.output_tokens)[trace.previous], 0)
    return np.where(trace.input_tokens > left, left, 0)


def _prompts(trace: Trace, added: IntArray, output: IntArray, longest: int | None) -> IntArray:
    """Prompts from what each turn adds and what the turns before it have left."""
    limit = LONGEST_TOKENS if longest is None else int(longest)
    if trace.previous is None:
        return added if longest is None else np.minimum(added, limit)
    prompts = added.tolist()
    outputs, previous, follows = output.tolist(), trace.previous.tolist(), (_history(trace) > 0).tolist()
    for row, before in enumerate(previous):
        if follows[row]:
            prompts[row] += prompts[before] + outputs[before]
        prompts[row] = min(prompts[row], LONGEST_TOKENS + 1 if longest is None else limit)
    return np.asarray(prompts, dtype=np.int64)


def _prefixes(trace: Trace, prompt: IntArray, output: IntArray) -> tuple[IntArray, IntArray]:
    """Prefix ids of the changed streams, as (ids, offsets)."""
    assert trace.prefix_ids is not None and trace.prefix_offsets is not None
    block = trace.prefix_block_tokens
    same = prompt == trace.input_tokens
    kept = np.minimum(prompt, trace.input_tokens) // block
    room = np.where(same, -(-(prompt + output) // block), kept)
    counts = np.minimum(np.diff(trace.prefix_offsets), room)
    if trace.previous is not None:
        return _session_prefixes(trace, prompt, output, counts)
    ends = np.repeat(trace.prefix_offsets[:-1] + counts, np.diff(trace.prefix_offsets))
    ids = trace.prefix_ids[np.arange(len(trace.prefix_ids)) < ends]
    return ids, np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))


def _session_prefixes(trace: Trace, prompt: IntArray, output: IntArray, counts: IntArray) -> tuple[IntArray, IntArray]:
    """A later turn begins with the changed stream of the turn before it and goes on with its own pieces.

    Where a stream had identities to its end it has them still: new pieces get new ones, so that the next turn finds them.
    """
    assert trace.previous is not None and trace.prefix_ids is not None
    block, history = trace.prefix_block_tokens, _history(trace)
    fresh = int(trace.prefix_ids.max(initial=-1)) + 1
    streams: list[IntArray] = []
    for row, before in enumerate(trace.previous.tolist()):
        ids = trace.prefix_of(row)
        own = ids[: counts[row]] if history[row] == 0 else _own_pieces(trace, prompt, output, row, int(history[row]))
        if history[row] > 0:
            left = int(prompt[before] + output[before])
            head = streams[before][: min(left, int(prompt[row])) // block]
            own = np.concatenate((head, own)) if len(head) == left // block else head
        was, tokens = int(trace.input_tokens[row] + trace.output_tokens[row]), int(prompt[row] + output[row])
        own = own[: -(-tokens // block)]
        end = -(-tokens // block) if len(ids) >= -(-was // block) else tokens // block
        if len(ids) >= was // block and len(own) < end:
            own = np.concatenate((own, np.arange(fresh, fresh + end - len(own), dtype=np.int64)))
            fresh = int(own[-1]) + 1
        streams.append(own)
    offsets = np.concatenate(([0], np.cumsum([len(ids) for ids in streams], dtype=np.int64)))
    return np.concatenate(streams), offsets


def _own_pieces(trace: Trace, prompt: IntArray, output: IntArray, row: int, history: int) -> IntArray:
    """Identities that a later turn keeps of what it adds: all of them where only its history has changed."""
    assert trace.previous is not None
    block, before = trace.prefix_block_tokens, int(trace.previous[row])
    own = trace.prefix_of(row)[history // block :]
    room = int(prompt[row]) - int(prompt[before] + output[before])
    added = int(trace.input_tokens[row]) - history
    return own if room == added else own[: max(0, min(added, room)) // block]
