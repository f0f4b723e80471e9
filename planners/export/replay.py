"""The plan's own trace as a file that ``vllm bench serve`` replays at its times, with its lengths and shared prefixes."""

from __future__ import annotations

import json
import shlex

import numpy as np

from planners.export.flags import check_flags, parse
from planners.export.shell import url_line
from workloads.trace import Trace

BLOCK_TOKENS = 512
"""Tokens per piece where no prefixes are shared: as in Mooncake's traces."""
MOST_IDS = 2_000_000
"""Pieces of a file that is still handy (some 15 MB): our choice."""
TRACE, SCRIPT = "trace.jsonl", "replay.sh"
SINCE = "0.24"
"""vLLM with the dataset timed_trace: in 0.24.0, not in 0.21.0 (the releases read)."""


def why_not(trace: Trace) -> str | None:
    """Why a trace cannot be replayed; None where it can."""
    if trace.concurrency is not None or trace.previous is not None:
        return "requests wait for answers (closed loop, sessions)"
    if _num_pieces(trace).sum() > MOST_IDS:
        return f"its prompts have more than {MOST_IDS:,} pieces"
    return None


def _num_pieces(trace: Trace) -> np.ndarray:
    """int64[n]: pieces of every prompt."""
    block = trace.prefix_block_tokens or BLOCK_TOKENS
    return -(-trace.input_tokens // block)


def trace_lines(trace: Trace) -> str:
    """JSON lines in Mooncake's format: ``timestamp`` [ms] from the first arrival, lengths, an id for every piece of the prompt.

    Pieces that the trace has no ids for are shared with nobody."""
    pieces = _num_pieces(trace)
    fresh = 0 if trace.prefix_ids is None else int(trace.prefix_ids.max(initial=-1)) + 1
    lines = []
    for i, count in enumerate(pieces.tolist()):
        known: list[int] = []
        if trace.prefix_ids is not None and trace.prefix_offsets is not None:
            begin, end = trace.prefix_offsets[i : i + 2].tolist()
            known = trace.prefix_ids[begin : min(end, begin + count)].tolist()
        own = list(range(fresh, fresh + count - len(known)))
        fresh += len(own)
        row = {
            "timestamp": round(1e3 * float(trace.arrival_s[i] - trace.arrival_s[0]), 3),
            "input_length": int(trace.input_tokens[i]),
            "output_length": int(trace.output_tokens[i]),
            "hash_ids": known + own,
        }
        lines.append(json.dumps(row))
    return "\n".join(lines) + "\n"


def replay_words(model: str, trace: Trace, seed: int) -> tuple[str, ...]:
    """The command; ``$URL`` is the server's address."""
    words = ["vllm", "bench", "serve", "--base-url", "$URL", "--model", model, "--dataset-name", "timed_trace"]
    words += ["--dataset-path", TRACE, "--timed-trace-sec-multiplier", "0.001"]
    words += ["--timed-trace-chunk-hash-size", str(trace.prefix_block_tokens or BLOCK_TOKENS)]
    words += ["--num-prompts", str(len(trace)), "--seed", str(max(0, seed)), "--ignore-eos"]
    words += ["--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,95,99"]
    return (*words, "--save-result", "--result-filename", "replayed.json")


def replay_files(model: str, trace: Trace, seed: int, one_address: bool = True) -> dict[str, str]:
    """The trace and the script that replays it; nothing where that cannot be done.

    ``one_address``: a server on this machine gets all requests."""
    if why_not(trace) is not None:
        return {}
    words = replay_words(model, trace, seed)
    command = " ".join('"$URL"' if word == "$URL" else shlex.quote(word) for word in words)
    head = [
        "#!/bin/sh",
        f"# Replays the plan's own trace (vLLM {SINCE} or later): sh {SCRIPT} http://HOST:8000, in this folder",
        "# What to expect is under 'planned' in expected.json.",
    ]
    lines = [*head, url_line(SCRIPT, not one_address), f"exec {command}"]
    files = {TRACE: trace_lines(trace), SCRIPT: "\n".join(lines) + "\n"}
    _check(files, words, trace)
    return files


def _check(files: dict[str, str], words: tuple[str, ...], trace: Trace) -> None:
    """Read both back."""
    assert not check_flags("vllm-bench", SINCE, words), "replay.sh"
    assert parse("vllm-bench", words)["num_requests"] == len(trace), "replay.sh"
    rows = [json.loads(line) for line in files[TRACE].splitlines()]
    for name, column in (("input_length", trace.input_tokens), ("output_length", trace.output_tokens)):
        assert [row[name] for row in rows] == column.tolist(), f"{TRACE}: {name}"
