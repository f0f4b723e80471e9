"""The metrics a run can have measured: their names, and what a simulation says about each."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from simulator import clock
from simulator.result import SimulationResult, weighted_percentile
from simulator.uncertainty import load_class
from simulator.validation.run import MeasuredRun

Floats = npt.NDArray[np.float64]

LATENCIES = ("ttft", "tpot", "itl", "e2e", "queue")
STATISTICS = {"mean": None, "p50": 50.0, "p90": 90.0, "p95": 95.0, "p99": 99.0}


@dataclass(frozen=True)
class View:
    """A finished simulation, seen through the window of a measured run."""

    run: MeasuredRun
    result: SimulationResult
    weights: Floats
    """float64[n]: how many requests of the real run each simulated one stands for; 0 outside the window."""
    own_kv_blocks: int
    """KV blocks the simulator itself works out, also where the run states the measured number."""

    @cached_property
    def chosen(self) -> npt.NDArray[np.bool_]:
        """bool[n]: completed requests of the window."""
        chosen: npt.NDArray[np.bool_] = (self.weights > 0) & self.result.completed
        return chosen

    def statistic(self, latency: str, percent: float | None) -> float:
        """Mean or percentile of a latency [s] over the requests of the window (ITL: over their gaps)."""
        if latency == "itl":
            values, weights = self.gaps
        else:
            values, weights = self._column(f"{latency}_s"), self.weights[self.chosen]
            known = ~np.isnan(values)
            values, weights = values[known], weights[known]
        if not len(values):
            return math.nan
        if percent is None:
            return float(np.average(values, weights=weights))
        if np.all(weights == weights[0]):
            return float(np.percentile(values, percent))
        return weighted_percentile(values, np.maximum(1, np.rint(8 * weights)).astype(np.int64), (percent,))[0]

    def by_token(self, seconds: str, percent: float | None, *, first: bool) -> float:
        """Mean or percentile over requests of a time [s] per output token, each request weighted by those tokens.

        first: whether the first token counts as one of them.
        """
        tokens = self._column("output_tokens") - (0 if first else 1)
        weights = self.weights[self.chosen] * tokens
        used = weights > 0
        if not used.any():
            return math.nan
        values = self._column(seconds)[used] * (1.0 if seconds == "tpot_s" else 1.0 / tokens[used])
        if percent is None:
            return float(np.average(values, weights=weights[used]))
        return weighted_percentile(values, np.maximum(1, np.rint(weights[used])).astype(np.int64), (percent,))[0]

    def _column(self, name: str) -> Floats:
        column = self.result.column
        if name == "queue_s":
            return np.asarray(column("scheduled_s") - column("arrival_s"))[self.chosen]
        return np.asarray(column(name), dtype=np.float64)[self.chosen]

    @cached_property
    def gaps(self) -> tuple[Floats, Floats]:
        """Gaps between tokens [s] and how often each occurs, of the whole run: harnesses pool those of all requests, also
        where throughput and energy are those of a steady state."""
        parts = [replica.gaps.weighted() for replica in self.result.record.replicas]
        return np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]).astype(np.float64)

    def _tokens_until(self, time_s: float) -> float:
        """Output tokens that all requests have emitted by ``time_s``; each request's tokens are evenly spread."""
        column, done = self.result.column, self.result.completed
        first, finish = column("first_token_s")[done], column("finish_s")[done]
        gaps = column("output_tokens")[done] - 1
        progress = np.clip((time_s - first) / np.maximum(finish - first, 1e-12), 0.0, 1.0)
        return float((gaps * progress).sum() + (first <= time_s).sum())

    @cached_property
    def span_s(self) -> tuple[float, float]:
        """Begin and end of the window [s]."""
        column, done = self.result.column, self.result.completed
        if not self.run.window.steady:
            return float(np.min(self._column("arrival_s"))), float(np.max(self._column("finish_s")))
        places = min(self.result.deployment.engine.max_num_seqs * self.run.dp, int(done.sum()))
        firsts, ends = np.sort(column("first_token_s")[done]), np.sort(column("finish_s")[done])
        begin = float(firsts[places - 1])
        end = float(ends[max(0, len(ends) - places - 2)])
        return (begin, end) if end > begin else (float(firsts[0]), float(ends[-1]))

    @property
    def duration_s(self) -> float:
        """Length of the window [s]."""
        return self.span_s[1] - self.span_s[0]

    @cached_property
    def output_tokens(self) -> float:
        """Tokens emitted in the window."""
        if self.run.window.steady:
            begin, end = (self._tokens_until(t) for t in self.span_s)
            return end - begin
        return float(self._column("output_tokens").sum())

    @cached_property
    def energy_j(self) -> float:
        """Energy of the run's devices in the window [J]."""
        begin, end = self.span_s
        total = 0.0
        for replica in self.result.record.replicas:
            rows = np.frombuffer(replica.timeline.rows).reshape(-1, replica.timeline.COLUMNS)
            counters = replica.counters
            time = np.append(np.insert(rows[:, 0], 0, 0.0), max(end, rows[-1, 0] if len(rows) else 0.0))
            joules = np.append(np.insert(rows[:, 4], 0, 0.0), counters.joules)
            busy = np.append(np.insert(rows[:, 5], 0, 0.0), counters.busy_ticks / clock.TICKS_PER_S)
            spent, worked = (np.interp(end, time, y) - np.interp(begin, time, y) for y in (joules, busy))
            total += float(spent + self.result.replica_idle_w * max(0.0, end - begin - worked))
        return total

    @property
    def implied_tok_s(self) -> float:
        """Throughput that the mean latencies of a closed loop imply (Little): places x tokens / (TTFT + (tokens - 1) TPOT)."""
        tokens = float(self._column("output_tokens").mean())
        e2e_s = self.statistic("ttft", None) + (tokens - 1) * self.statistic("tpot", None)
        return (self.run.workload.concurrency or math.nan) * tokens / e2e_s


def _input_tokens(view: View) -> float:
    return float(view._column("input_tokens").sum())


SCALARS: Mapping[str, Callable[[View], float]] = {
    "output_tok_s": lambda v: v.output_tokens / v.duration_s,
    "output_tok_s_per_gpu": lambda v: v.output_tokens / v.duration_s / v.run.gpus,
    "input_tok_s": lambda v: _input_tokens(v) / v.duration_s,
    "total_tok_s": lambda v: (_input_tokens(v) + v.output_tokens) / v.duration_s,
    "req_s": lambda v: float(v.chosen.sum()) / v.duration_s,
    "implied_tok_s": lambda v: v.implied_tok_s,
    "implied_tok_s_per_gpu": lambda v: v.implied_tok_s / v.run.gpus,
    "duration_s": lambda v: v.span_s[1] - float(np.nanmin(v.result.column("arrival_s"))),
    "energy_per_token_j": lambda v: v.energy_j / v.output_tokens,
    "power_w": lambda v: v.energy_j / v.duration_s,
    "power_w_per_gpu": lambda v: v.energy_j / v.duration_s / v.run.gpus,
    "kv_blocks": lambda v: float(v.own_kv_blocks),
    "kv_tokens": lambda v: float(v.own_kv_blocks * v.result.deployment.engine.block_size),
    "peak_running": lambda v: float(v.result.summary["peak_running"]),
    "num_preemptions": lambda v: float(v.result.summary["num_preemptions"]),
    "prompt_time_ms": lambda v: 1e3 * float(v._column("ttft_s").max()),
    "token_time_ms": lambda v: 1e3 * v.statistic("tpot", None),
}
"""Metrics that are no statistic of a latency."""


def _by_token(seconds: str, percent: float | None, first: bool) -> Callable[[View], float]:
    return lambda v: 1e3 * v.by_token(seconds, percent, first=first)


BY_TOKEN: Mapping[str, Callable[[View], float]] = {
    f"{name}_{stat}_ms": _by_token(seconds, percent, first)
    for name, seconds, first in (("e2e_per_token", "e2e_s", True), ("tpot_by_gap", "tpot_s", False))
    for stat, percent in STATISTICS.items()
}
"""As GuideLLM defines them: E2E / output tokens, weighted by tokens; TPOT, weighted by gaps between tokens."""


def metric_names() -> list[str]:
    """All metrics a run may have."""
    return [f"{name}_{stat}_ms" for name in LATENCIES for stat in STATISTICS] + list(SCALARS)


def split_latency(metric: str) -> tuple[str, str] | None:
    """``ttft_p90_ms`` -> (ttft, p90); None for metrics that are no statistic of a latency."""
    latency, _, rest = metric.partition("_")
    statistic = rest.removesuffix("_ms")
    return (latency, statistic) if latency in LATENCIES and statistic in STATISTICS else None


def predicted(metric: str, view: View) -> float:
    """What the simulation says about a metric, in the metric's unit."""
    parts = split_latency(metric)
    if parts is not None:
        return 1e3 * view.statistic(parts[0], STATISTICS[parts[1]])
    return (BY_TOKEN.get(metric) or SCALARS[metric])(view)


def class_of(view: View) -> dict[str, str]:
    """What kind of prediction this is: where the kernels come from, dense or MoE, how loaded the run was."""
    step_model = view.result.deployment.step_model
    return {
        "provenance": step_model.provenance,
        "experts": "moe" if view.result.deployment.model.is_moe else "dense",
        "load": load_of(view),
    }


def load_of(view: View) -> str:
    """How loaded the run was, over the requests of the window: see :func:`simulator.uncertainty.load_class`."""
    engine = view.result.deployment.engine
    front_s = engine.request_fixed_s + engine.request_token_s * float(view._column("input_tokens").mean())
    return load_class(
        closed=view.run.workload.concurrency is not None or view.result.trace.duration_s == 0.0,
        queue_mean_s=view.statistic("queue", None),
        queue_p90_s=view.statistic("queue", 90.0) - front_s,
        tpot_mean_s=view.statistic("tpot", None),
        e2e_mean_s=view.statistic("e2e", None),
    )
