"""The ML.ENERGY benchmark: all requests sent at once, the batch kept full, natural answer lengths, power from NVML.

What a run did is known from the benchmark's source (github.com/ml-energy/benchmark, mlenergy/llm/benchmark.py): every
request asks for temperature 0.8 and top-p 0.95; energy and throughput are those between the moment when ``max_num_seqs``
requests have a first token and the one when all but ``max_num_seqs + 1`` have ended; inter-token latencies are pooled over
the whole run, its end included, where the batch empties.

Answer lengths come from the quantiles of each run. Prompt lengths are not published: one assumption per task.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from simulator.validation.rows import Row
from simulator.validation.run import MeasuredRun, Window, Workload
from simulator.validation.sources.common import cluster_of, figures, given, model_of, version_of
from workloads.lengths import parse_length
from workloads.streams import stream
from workloads.trace import FloatArray, IntArray, Trace

PROMPTS = {
    "gpqa": "lognormal(median=270, sigma=0.45)",
    "sourcegraph-fim": "lognormal(median=1500, sigma=0.8, max=12000)",
}
"""Assumed prompt lengths [tokens]: a multiple-choice question with its choices; a completion with the code around it."""
CHAT = "lm-arena-chat"
MESSAGE = "lognormal(mean=120, cv=2, max=8000)"
REPLY = "lognormal(mean=400, cv=0.8, max=4000)"
AGAIN = 0.4
"""Assumed conversations: tokens of a user's message and of the reply before it, and how often another turn follows. Every
turn is a request of its own whose prompt is all that came before; turns of one conversation are sent side by side, so that
the prefix cache holds most of a later turn. One set for all models and devices: the share of further turns is the one with
which prompts of 500 tokens, 300 of them not shared, fill the KV cache with as many requests as were running (H100)."""
QUANTILES = {"out_p10": 0.10, "out_p50": 0.50, "out_p90": 0.90, "out_p99": 0.99}
SHORTEST_SHARE = 0.25
"""Of the 10 % quantile: the shortest answer."""
BENDS = np.linspace(-2.0, 3.0, 101)
"""Exponents tried between quantiles: 1 joins them by lines, 0 by lines in the logarithm."""
BLOCK_TOKENS = 16
LONGEST_PROMPT = 16_000
"""Below the context length of every run with room for the answer [tokens]."""
MEMORY_SHARE = 0.95
"""Of the GPU memory for the engine; a constant of the benchmark's server command."""
SEED = 0


def read(path: Path, rows: Sequence[Row]) -> list[MeasuredRun]:
    """One run per row."""
    return [_run(row) for row in rows]


def _run(row: Row) -> MeasuredRun:
    task, gpus = row.text("task"), row.whole("num_gpus") or 1
    seqs = int(row.need("max_num_seqs"))
    tp = row.whole("tensor_parallel") or 1
    ep = row.whole("expert_parallel") or 1
    dp = row.whole("data_parallel") or 1
    model, packed = model_of(row.text("model_id"))
    skip = _skip(row, task, dp)
    return MeasuredRun(
        id=f"{task}/{row.text('model_id')}/{row.text('gpu')} x{gpus}/tp{tp}-ep{ep}-dp{dp}/{seqs}-{_requests(row)}",
        source="mlenergy",
        model=model,
        cluster=cluster_of(row.text("gpu"), gpus),
        engine_version=".".join(map(str, version_of(row.text("engine").rpartition(" ")[2]))) or None,
        tp=max(tp, ep) if dp == 1 else tp,
        dp=dp,
        ep=ep,
        settings=given(
            max_num_seqs=seqs,
            max_num_batched_tokens=row.whole("max_num_batched_tokens"),
            max_model_len=row.whole("max_model_len"),
            async_scheduling=row.flag("async_scheduling"),
            quantization=packed,
            sampling="top-p",
            gpu_memory_utilization=MEMORY_SHARE,
        ),
        workload=Workload() if skip else Workload(requests=_trace(row, task)),
        window=Window(steady=True),
        measured=figures(
            itl_p50_ms=row.number("median_itl_ms"),
            output_tok_s=row.number("output_throughput_tok_s"),
            energy_per_token_j=row.number("energy_per_token_j"),
            power_w_per_gpu=row.number("avg_power_w_per_gpu"),
        ),
        skip=skip,
        tags={"workload": task, "batch": str(seqs)},
        place=row.place,
    )


def _requests(row: Row) -> int | None:
    """How many requests the run sent; None where that is not published."""
    sent = row.whole("hist_requests")
    if sent is not None:
        return sent
    unique = row.whole("unique_requests")
    return None if unique is None else round(unique * (row.number("request_repeats") or 1.0))


def _skip(row: Row, task: str, dp: int) -> str | None:
    if task not in PROMPTS and task != CHAT:
        return f"task {task}: its prompts (images, video) are not simulated"
    if _requests(row) is None:
        return "the number of requests is not published"
    return "data parallel replicas share expert layers, which is not simulated" if dp > 1 else None


def _trace(row: Row, task: str) -> Trace:
    """The requests of a run. Where more were sent than there are prompts, prompts repeat and the cache knows them."""
    count = int(_requests(row) or 1)
    unique = min(row.whole("unique_requests") or count, count)
    if task == CHAT:
        inputs, conversation = _conversations(unique)
    else:
        inputs = parse_length(PROMPTS[task]).tokens(stream(SEED, "input_len"), unique)
        conversation = np.arange(unique)
    rows = np.arange(count) % unique
    ids, offsets = _identities(inputs[rows], conversation[rows])
    return Trace(
        arrival_s=np.zeros(count),
        input_tokens=inputs[rows],
        output_tokens=stream(SEED, "output_len").permutation(_answers(row, count)),
        prefix_ids=ids,
        prefix_offsets=offsets,
        prefix_block_tokens=BLOCK_TOKENS,
        name="ML.ENERGY run",
    )


def _conversations(turns: int) -> tuple[IntArray, IntArray]:
    """Prompt lengths of ``turns`` successive turns, and the conversation each belongs to."""
    rng = stream(SEED, "turns")
    first = np.concatenate(([True], rng.random(turns - 1) >= AGAIN))
    message = parse_length(MESSAGE).tokens(stream(SEED, "input_len"), turns)
    reply = np.where(first, 0, parse_length(REPLY).tokens(stream(SEED, "replies"), turns))
    said = np.cumsum(message + reply)
    conversation = np.cumsum(first) - 1
    before = (said - message - reply)[first][conversation]
    return np.minimum(said - before, LONGEST_PROMPT), conversation


def _identities(inputs: IntArray, conversation: IntArray) -> tuple[IntArray, IntArray]:
    """Identities of the whole blocks of every prompt: prompts of one conversation begin alike."""
    blocks = inputs // BLOCK_TOKENS
    offsets = np.concatenate(([0], np.cumsum(blocks)))
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], blocks)
    return np.repeat(conversation, blocks) * (LONGEST_PROMPT // BLOCK_TOKENS + 1) + position, offsets


def _answers(row: Row, count: int) -> IntArray:
    """int64[count]: lengths spread evenly over the published quantiles, with the published mean.

    Between two quantiles lengths follow a power law; its exponent, one for all pieces, is the one that gives the mean.
    """
    mean = row.need("avg_output_len")
    limit = row.number("max_output_tokens") or 10 * mean
    points = {share: value for column, share in QUANTILES.items() if (value := row.number(column))}
    if len(points) < 2:
        return np.full(count, max(1, round(mean)), dtype=np.int64)
    shares = np.array([0.0, *points, 1.0])
    top = min(limit, 2.0 * max(points.values()))
    values = np.array([SHORTEST_SHARE * min(points.values()), *points.values(), max(top, *points.values())])
    at = (np.arange(count) + 0.5) / count
    best: FloatArray = min(
        (_between(at, shares, values, bend) for bend in BENDS), key=lambda lengths: abs(lengths.mean() - mean)
    )
    lengths: IntArray = np.maximum(1, np.rint(np.minimum(best * mean / best.mean(), limit))).astype(np.int64)
    return lengths


def _between(at: FloatArray, shares: FloatArray, values: FloatArray, bend: float) -> npt.NDArray[np.float64]:
    """Quantile function through (shares, values), linear in value**bend (in the logarithm for 0)."""
    if abs(bend) < 1e-9:
        return np.exp(np.interp(at, shares, np.log(values)))
    return np.asarray(np.interp(at, shares, values**bend) ** (1.0 / bend))
