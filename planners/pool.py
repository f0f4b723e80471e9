"""Runs candidates, in this process or in several; results never depend on how many."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Self

from hardware_profiles.schema import Cluster
from planners.pools import AnyDeployment, build_shared, first_of, simulate_any
from planners.space import Candidate, SearchSpace
from simulator.workers import Workers
from workloads.model import ModelSpec
from workloads.slo import Slo
from workloads.trace import Trace

RATE_TOLERANCE = 0.02
"""The search for the highest rate stops when its bracket is this narrow."""
AT_ONCE = 2.0**20
"""A trace played so much faster arrives all at once."""


@dataclass(frozen=True, slots=True)
class Measured:
    """What a simulation of a candidate said; ``metrics`` are fields of the run's summary."""

    metrics: dict[str, Any]
    max_num_seqs: int
    max_num_batched_tokens: int

    FIELDS: ClassVar[tuple[str, ...]] = (
        "duration",
        "drain_s",
        "completed",
        "failed",
        "request_throughput",
        "request_goodput",
        "slo_attainment",
        "output_throughput",
        "output_throughput_per_gpu",
        "mean_ttft_ms",
        "median_ttft_ms",
        "p95_ttft_ms",
        "p99_ttft_ms",
        "mean_ttft_ms_low",
        "mean_ttft_ms_high",
        "mean_tpot_ms",
        "median_tpot_ms",
        "p95_tpot_ms",
        "p99_tpot_ms",
        "mean_tpot_ms_low",
        "mean_tpot_ms_high",
        "p99_itl_ms",
        "mean_e2el_ms",
        "p95_e2el_ms",
        "mean_queue_ms",
        "usd_per_hour",
        "usd_per_month",
        "usd_per_request",
        "usd_per_million_output_tokens",
        "break_even_usd_per_million_input_tokens",
        "break_even_usd_per_million_output_tokens",
        "joules_per_output_token",
        "facility_kwh_per_million_output_tokens",
        "gco2e_per_request",
        "gco2e_per_million_output_tokens",
        "average_power_w",
        "utilisation",
        "mfu",
        "peak_kv_usage",
        "num_preemptions",
        "num_gpus",
        "provenance",
        "weaker_parts",
    )


@dataclass(frozen=True, slots=True)
class _Job:
    """What every worker needs once."""

    model: ModelSpec
    cluster: Cluster
    space: SearchSpace
    slo: Slo | None
    traces: dict[str, Trace]
    seed: int
    built: dict[Candidate, AnyDeployment] = field(default_factory=dict, compare=False)
    """Deployments by candidate: their physics is compiled, and what it has memoised is kept."""

    def deployment(self, candidate: Candidate) -> AnyDeployment:
        """The candidate's deployment, built once per process."""
        known = self.built.get(candidate)
        if known is None:
            known = self.built[candidate] = build_shared(self.model, self.cluster, self.space, candidate, self.built)
        return known

    def measure(self, which: str, candidate: Candidate, rate_factor: float = 1.0) -> Measured:
        """Simulate a candidate on one of the traces, played ``rate_factor`` times as fast."""
        deployment = self.deployment(candidate)
        trace = self.traces[which]
        if rate_factor != 1.0:
            trace = trace.scale_rate(rate_factor)
        summary = simulate_any(deployment, trace, self.slo, self.seed).summary
        if self.slo is None:  # nothing to miss: every completed request is a good one
            summary = summary | {"request_goodput": summary["request_throughput"]}
        engine = first_of(deployment).engine
        return Measured(
            {name: summary[name] for name in Measured.FIELDS}, engine.max_num_seqs, engine.max_num_batched_tokens
        )

    def max_rate(self, which: str, candidate: Candidate) -> float:
        """Highest mean rate [1/s] at which the trace, played faster or slower, still meets the SLO; 0 if none does,
        infinite when even all requests at once do.

        The share of good requests falls with the rate but for noise; bisection ends between a rate that meets the SLO
        and one within RATE_TOLERANCE above it that does not.
        """
        assert self.slo is not None
        wanted = self.slo.attainment

        def meets(factor: float) -> bool:
            return (self.measure(which, candidate, factor).metrics["slo_attainment"] or 0.0) >= wanted

        if meets(AT_ONCE):
            return math.inf
        low, high = (1.0, 2.0) if meets(1.0) else (0.5, 1.0)
        while low >= 1.0 and meets(high):
            low, high = high, 2 * high
        while low < 1.0 and not meets(low):
            low, high = low / 2, low
            if low < 1 / AT_ONCE:
                return 0.0
        while high / low > 1 + RATE_TOLERANCE:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if meets(middle) else (low, middle)
        return self.traces[which].request_rate_per_s * low


_JOB: _Job | None = None


def _start_worker(job: _Job) -> None:
    global _JOB
    _JOB = job


def _work(task: tuple[str, str, Candidate]) -> Measured | float:
    assert _JOB is not None
    what, which, candidate = task
    return _JOB.max_rate(which, candidate) if what == "max_rate" else _JOB.measure(which, candidate)


class Evaluator:
    """Evaluates candidates in order; a pool of processes is started only when it pays."""

    POOL_PAYS = 20_000
    """Requests to simulate below which starting processes costs more than it gains."""

    def __init__(
        self,
        model: ModelSpec,
        cluster: Cluster,
        space: SearchSpace,
        slo: Slo | None,
        traces: dict[str, Trace],
        seed: int,
        jobs: int,
        progress: Callable[[int, int], None] | None,
        built: dict[Candidate, AnyDeployment] | None = None,
    ) -> None:
        """``built``: deployments that are there already; those built here join them."""
        self._job = _Job(model, cluster, space, slo, traces, seed, {} if built is None else built)
        self._jobs = jobs
        self._progress = progress
        self._pool: Workers | None = None
        self._done = self._expected = 0

    def run(self, which: str, candidates: Sequence[Candidate]) -> list[Measured]:
        """Simulate the candidates on the trace of that name."""
        work = len(candidates) * len(self._job.traces[which])
        results = self._map([("measure", which, c) for c in candidates], work)
        return [r for r in results if isinstance(r, Measured)]

    def max_rates(self, which: str, candidates: Sequence[Candidate]) -> list[float]:
        """Highest rates within the SLO on the trace of that name [1/s]."""
        work = 10 * len(candidates) * len(self._job.traces[which])
        results = self._map([("max_rate", which, c) for c in candidates], work)
        return [r for r in results if isinstance(r, float)]

    def _map(self, tasks: list[tuple[str, str, Candidate]], work: int) -> list[Measured | float]:
        """Results in the order of the tasks; the longest (deep pipelines) start first."""
        self._expected += len(tasks)
        order = sorted(range(len(tasks)), key=lambda i: -tasks[i][2].pp)
        results: dict[int, Measured | float] = {}
        for index, result in zip(order, self._results([tasks[i] for i in order], work), strict=True):
            results[index] = result
            self._done += 1
            if self._progress is not None:
                self._progress(self._done, self._expected)
        return [results[index] for index in range(len(tasks))]

    def _results(self, tasks: list[tuple[str, str, Candidate]], work: int) -> Iterable[Measured | float]:
        if self._jobs > 1 and len(tasks) > 1 and (self._pool is not None or work > self.POOL_PAYS):
            if self._pool is None:
                self._pool = Workers(self._jobs, _start_worker, (replace(self._job, built={}),))
            return self._pool.map(_work, tasks)
        _start_worker(self._job)
        return map(_work, tasks)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: Any) -> None:
        """Stop the processes; at once when an exception ends the search."""
        if self._pool is not None:
            self._pool.__exit__(*error)
