"""The requests of a measured run: read, or drawn from the distributions it states, with the weight of each."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from hardware_profiles.errors import UserError
from simulator.validation.run import Lengths, Stage, Window, Workload
from workloads.arrivals import Horizon, arrival_times, parse_arrival
from workloads.lengths import Length, parse_length
from workloads.readers import read_trace
from workloads.streams import stream
from workloads.trace import FloatArray, IntArray, Trace

SHORTER = 4
"""``fast`` divides the requests and the duration of a stage by this: rates and batches stay as they were."""
SHORT_STAGE = 400
"""Requests up to which a stage is left as it is."""
LOOP_ROUNDS = 4
"""Requests per place of a closed loop that ``fast`` keeps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """A trace, the stage of every request, and how many requests of the real run each one stands for."""

    trace: Trace
    stage: IntArray
    order: IntArray
    """int64[n]: position in the real run (a shortened one leaves gaps)."""
    weight: FloatArray

    def weights(self, window: Window) -> FloatArray:
        """float64[n]: the weight of every request in the window, 0 outside it."""
        inside = np.ones(len(self.trace), dtype=bool)
        if window.stage is not None:
            inside &= self.stage == window.stage
        if window.first is not None:
            inside &= self.order < window.first
        inside &= self.order >= window.skip_first
        return np.where(inside, self.weight, 0.0)


def is_random(workload: Workload) -> bool:
    """Whether another seed would send other requests."""
    if workload.requests is not None or workload.trace is not None:
        return False
    lengths = (workload.input_len, workload.output_len)
    open_load = workload.concurrency is None and (bool(workload.stages) or workload.rate_per_s is not None)
    return any(isinstance(n, str | tuple) for n in lengths) or (open_load and workload.arrival != "constant")


def _runs_in_step(workload: Workload) -> bool:
    """A closed loop of equal requests: its first rounds differ from later ones, so that fewer would be another run."""
    return isinstance(workload.input_len, int) and isinstance(workload.output_len, int)


def mean_length(length: Lengths | None) -> float | None:
    """Mean of a token count; None when it is not stated."""
    if length is None:
        return None
    return float(_draw(length, stream(0, "mean"), 20_000).mean())


def _draw(length: Lengths, rng: np.random.Generator, n: int) -> IntArray:
    if isinstance(length, tuple):
        values = np.asarray(length, dtype=np.float64)
        return Length(text="values", kind="empirical", values=values).tokens(rng, n)
    return parse_length(length).tokens(rng, n)


def traffic_of(workload: Workload, *, seed: int = 0, fast: bool = False, block_tokens: int = 16) -> Traffic:
    """The requests of a workload. Long stages and loops are shortened under ``fast``: see ``shortened``."""
    if workload.requests is not None or workload.trace is not None:
        trace = workload.requests if workload.requests is not None else read_trace(str(workload.trace))
        if workload.concurrency is not None:
            trace = replace(trace, concurrency=workload.concurrency, arrival_s=np.zeros(len(trace)))
        return _traffic(trace)
    if workload.stages:
        return _staged(workload, seed, fast, block_tokens)
    return _traffic(_single(workload, seed, fast, block_tokens))


def _traffic(trace: Trace) -> Traffic:
    n = len(trace)
    return Traffic(trace=trace, stage=np.zeros(n, dtype=np.int64), order=np.arange(n), weight=np.ones(n))


def _single(workload: Workload, seed: int, fast: bool, block_tokens: int) -> Trace:
    count = workload.num_requests
    if count is None:
        raise UserError("workload: num_requests is missing; say how many requests were sent")
    places = workload.concurrency
    if places is not None and fast and not _runs_in_step(workload):
        count = min(count, max(LOOP_ROUNDS * places, 32))
    if workload.rate_per_s is not None and places is None:
        process = parse_arrival(workload.arrival)
        arrival_s = arrival_times(process, stream(seed, "arrivals"), workload.rate_per_s, Horizon(num=count))
    else:
        arrival_s = np.zeros(count)
    return _with_prompts(workload, arrival_s, np.arange(count), seed, block_tokens, concurrency=places)


def shortened(stage: Stage, protected: int) -> tuple[int, float, float]:
    """(requests, seconds, weight of a request) of a stage under ``fast``.

    The first ``protected`` requests (the prompts that no cache knows yet) are all kept; each of the others stands for
    several, so that means and percentiles keep the proportion of cold and warm requests.
    """
    if stage.num_requests <= SHORT_STAGE:
        return stage.num_requests, stage.duration_s, 1.0
    rest = max(1, round((stage.num_requests - protected) / SHORTER))
    count = protected + rest
    return count, stage.duration_s * count / stage.num_requests, (stage.num_requests - protected) / rest


def _staged(workload: Workload, seed: int, fast: bool, block_tokens: int) -> Traffic:
    rng = stream(seed, "arrivals")
    arrivals, stages, orders, weights = [], [], [], []
    begin_s, sent = 0.0, 0
    for index, stage in enumerate(workload.stages):
        protected = min((workload.distinct_prompts or 0) if index == 0 else 0, stage.num_requests - 1)
        count, duration_s, weight = stage.num_requests, stage.duration_s, 1.0
        if fast:
            count, duration_s, weight = shortened(stage, protected)
        arrivals.append(begin_s + _within(workload.arrival, rng, count, duration_s))
        stages.append(np.full(count, index))
        orders.append(sent + np.arange(count))
        weights.append(np.where(np.arange(count) < protected, 1.0, weight))
        begin_s += duration_s + stage.pause_s
        sent += stage.num_requests
    arrival_s = np.concatenate(arrivals)
    trace = _with_prompts(workload, arrival_s, np.arange(len(arrival_s)), seed, block_tokens)
    return Traffic(
        trace=trace, stage=np.concatenate(stages), order=np.concatenate(orders), weight=np.concatenate(weights)
    )


def _within(arrival: str, rng: np.random.Generator, count: int, duration_s: float) -> FloatArray:
    """``count`` arrivals within a stage."""
    if arrival == "constant":
        return (np.arange(count) + 1.0) * duration_s / count
    if arrival != "poisson":
        raise UserError(f"workload: arrival of stages is {arrival!r}; use poisson or constant")
    gaps = np.cumsum(rng.exponential(1.0, count))
    return np.asarray(gaps / gaps[-1] * duration_s)


def _with_prompts(
    workload: Workload,
    arrival_s: FloatArray,
    rows: npt.NDArray[np.int64],
    seed: int,
    block_tokens: int,
    concurrency: int | None = None,
) -> Trace:
    """Lengths, and the identity of prompts where they repeat or begin alike."""
    if workload.input_len is None or workload.output_len is None:
        missing = "input_len" if workload.input_len is None else "output_len"
        raise UserError(f"workload: {missing} is missing; state the lengths, or give a trace")
    pool = workload.distinct_prompts or len(rows)
    inputs = _draw(workload.input_len, stream(seed, "input_len"), pool)[rows % pool]
    outputs = _draw(workload.output_len, stream(seed, "output_len"), pool)[rows % pool]
    ids, offsets, size = _prompt_ids(workload, inputs, rows % pool, block_tokens)
    return Trace(
        arrival_s=arrival_s,
        input_tokens=inputs,
        output_tokens=outputs,
        prefix_ids=ids,
        prefix_offsets=offsets,
        prefix_block_tokens=size,
        concurrency=concurrency,
        name="measured run",
    )


def _prompt_ids(
    workload: Workload, inputs: IntArray, prompt: IntArray, block: int
) -> tuple[IntArray | None, IntArray | None, int]:
    """Prefix identities: a common beginning, and whole prompts where they come from a pool."""
    shared = workload.shared_prefix_tokens // block
    if workload.distinct_prompts is None and not shared:
        return None, None, 0
    whole = workload.distinct_prompts is not None
    blocks = -(-inputs // block) if whole else np.minimum(inputs // block, shared)
    offsets = np.concatenate(([0], np.cumsum(blocks)))
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], blocks)
    longest = int(blocks.max())
    ids = shared + np.repeat(prompt, blocks) * longest + position
    return np.where(position < shared, position, ids), offsets, block
