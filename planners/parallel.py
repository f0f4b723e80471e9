"""The parallel plan: enumerate, drop what does not fit, bound the rest by physics, simulate what can win, explain it all.

The search is in waves, and what a wave keeps depends only on results, never on which worker was faster: any number of
jobs gives the same plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from hardware_profiles.errors import UserError, unknown_name
from hardware_profiles.schema import Cluster
from planners.bounds import Bounds, bound
from planners.demand import WorkloadStats
from planners.launch import vllm_command
from planners.pareto import pareto_front
from planners.pool import Evaluator, Measured
from planners.space import Candidate, SearchSpace, build, enumerate_layouts, limit_variants
from simulator.deployment import Deployment
from workloads.model import ModelSpec
from workloads.slo import Slo
from workloads.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

Objective = Literal["cost", "goodput", "ttft", "tpot", "energy"]
Status = Literal["best", "pareto", "met", "missed", "screened", "bounded", "unfit"]

OBJECTIVES: dict[Objective, tuple[str, bool, str]] = {
    "cost": ("usd_per_million_output_tokens", False, "$/1M output tokens"),
    "goodput": ("request_goodput", True, "good requests/s"),
    "ttft": ("p95_ttft_ms", False, "p95 TTFT [ms]"),
    "tpot": ("p95_tpot_ms", False, "p95 TPOT [ms]"),
    "energy": ("joules_per_output_token", False, "J/output token"),
}
"""Objective -> (field of the summary, larger is better, words)."""

FRONT = (("p95_ttft_ms", 1), ("p95_tpot_ms", 1), ("request_goodput", -1), ("usd_per_million_output_tokens", 1),
         ("joules_per_output_token", 1))  # fmt: skip
"""What the Pareto front is over: latency, goodput, dollars, joules; -1: larger is better."""

SCREEN_REQUESTS = 2000
"""Layouts are screened on the busiest stretch of so many requests before the whole trace is run."""
FINALISTS = 6
"""Screened layouts that get the whole trace, at least."""
TIE = 0.005
"""Relative difference below which two values of the objective count as equal."""
CLEAR_MISS = 0.10
"""A layout that misses the wanted attainment by more than this on the busiest stretch is not run on the whole trace."""


@dataclass(slots=True)
class Entry:
    """One candidate and what became of it."""

    candidate: Candidate
    status: Status = "screened"
    reason: str = ""
    bounds: Bounds | None = None
    screen: Measured | None = None
    measured: Measured | None = None
    max_rate_per_s: float | None = None

    @property
    def best_known(self) -> Measured | None:
        """The full run if there is one, else the screening."""
        return self.measured or self.screen


@dataclass(eq=False)
class PlanResult:
    """Outcome of a search. ``entries`` in order of enumeration, every candidate accounted for."""

    model: ModelSpec
    cluster: Cluster
    trace: Trace
    slo: Slo | None
    objective: Objective
    space: SearchSpace
    entries: list[Entry]
    best: Entry
    seed: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    """How many candidates were enumerated, fitted, survived the bounds, were simulated in full."""

    def __repr__(self) -> str:
        return (
            f"<PlanResult: {self.model.name} on {self.cluster.name}, best by {self.objective}: {self.best.candidate.layout}, "
            f"of {len(self.entries)} candidates>"
        )

    def deployment(self, entry: Entry | None = None) -> Deployment:
        """The deployment of an entry (default: the best)."""
        return build(self.model, self.cluster, self.space, (entry or self.best).candidate)

    @cached_property
    def launch_command(self) -> str:
        """The vLLM command of the best plan."""
        return vllm_command(self.deployment())

    @cached_property
    def pareto(self) -> list[Entry]:
        """Fully simulated entries that nothing beats in latency, goodput, dollars and joules together."""
        full = [entry for entry in self.entries if entry.measured is not None]
        return [full[i] for i in pareto_front([front_point(e.measured) for e in full if e.measured])]

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per candidate: layout, settings, status, reason, metrics (full run, else screening)."""
        import pandas as pd

        counts = ("max_num_seqs", "max_num_batched_tokens", "completed", "failed", "num_gpus", "num_preemptions")
        return pd.DataFrame(self.rows()).astype(dict.fromkeys(counts, "Int64"))

    def rows(self) -> list[dict[str, Any]]:
        """The table as plain dicts."""
        front = {id(entry) for entry in self.pareto}
        return [self._row(entry, id(entry) in front) for entry in self.entries]

    def _row(self, entry: Entry, on_front: bool) -> dict[str, Any]:
        candidate, known = entry.candidate, entry.best_known
        row: dict[str, Any] = {
            "layout": candidate.layout,
            "tp": candidate.tp,
            "pp": candidate.pp,
            "dp": candidate.dp,
            "ep": candidate.ep,
            "num_gpus": candidate.num_devices,
            "quantization": candidate.quantization or None,
            "kv_cache_dtype": candidate.kv_cache_dtype,
            "max_num_seqs": candidate.max_num_seqs if known is None else known.max_num_seqs,
            "max_num_batched_tokens": candidate.max_num_batched_tokens
            if known is None
            else known.max_num_batched_tokens,
            "status": entry.status,
            "pareto": on_front,
            "reason": entry.reason,
            "simulated": "full" if entry.measured else "screen" if entry.screen else None,
            "capacity_bound_per_s": entry.bounds.capacity_per_s if entry.bounds else None,
            "max_rate_per_s": entry.max_rate_per_s,
        }
        metrics = {} if known is None else known.metrics
        return row | {name: metrics.get(name) for name in Measured.FIELDS if name not in row}


def front_point(measured: Measured) -> tuple[float, ...]:
    """Coordinates on the Pareto front, smaller is better; a metric the profile cannot give counts as equal."""
    return tuple(sign * (measured.metrics[name] or 0.0) for name, sign in FRONT)


def plan_parallel(
    *,
    model: ModelSpec,
    cluster: Cluster,
    trace: Trace,
    slo: Slo | None,
    space: SearchSpace | None = None,
    objective: Objective = "cost",
    find_max_rate: bool = False,
    top: int = 5,
    jobs: int = 1,
    seed: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> PlanResult:
    """Search for the best way to serve ``trace`` with ``model`` on ``cluster`` within ``slo``.

    Raises UserError when no layout fits, or when none can meet the SLO (naming the best that can be had).
    """
    if objective not in OBJECTIVES:
        raise unknown_name("objective", objective, OBJECTIVES)
    if objective == "cost" and cluster.device.price is None:
        raise UserError(
            f"{cluster.device.name} has no price in its profile, so --objective cost has no meaning; add one or choose "
            "another objective"
        )
    space = space or SearchSpace()
    search = _Search(model, cluster, trace, slo, space, objective, top, jobs, seed, progress)
    try:
        return search.run(find_max_rate)
    finally:
        search.evaluator.close()


class _Search:
    """One search; its methods are its waves, in order."""

    def __init__(
        self,
        model: ModelSpec,
        cluster: Cluster,
        trace: Trace,
        slo: Slo | None,
        space: SearchSpace,
        objective: Objective,
        top: int,
        jobs: int,
        seed: int,
        progress: Callable[[int, int], None] | None,
    ) -> None:
        self.model, self.cluster, self.trace, self.slo = model, cluster, trace, slo
        self.space, self.objective, self.top, self.seed = space, objective, top, seed
        self.short = busiest_stretch(trace, SCREEN_REQUESTS)
        self.evaluator = Evaluator(
            model, cluster, space, slo, {"screen": self.short, "full": trace}, seed, jobs, progress
        )
        self.entries: list[Entry] = []
        self.deployments: dict[Candidate, Deployment] = {}

    def run(self, find_max_rate: bool) -> PlanResult:
        """All waves."""
        self._enumerate()
        self._bound()
        self._screen([e for e in self.entries if e.status == "screened"])
        finalists = self._select()
        variants = self._screen_variants(finalists)
        self._full(finalists + variants)
        if find_max_rate:
            self._max_rates()
        return self._decide(find_max_rate)

    # -- wave 0: what fits -----------------------------------------------------------------------------------------

    def _enumerate(self) -> None:
        for candidate in enumerate_layouts(self.model, self.cluster, self.space):
            entry = Entry(candidate)
            self.entries.append(entry)
            try:
                deployment = build(self.model, self.cluster, self.space, candidate)
                _ = deployment.memory, deployment.step_model
            except UserError as error:
                entry.status, entry.reason = "unfit", str(error)
                continue
            self.deployments[candidate] = deployment
        if not self.deployments:
            reasons = [e for e in self.entries if e.reason]
            largest = max(reasons, key=lambda e: (e.candidate.num_devices, e.candidate.tp), default=None)
            raise UserError(
                f"{self.model.name} does not fit on {self.cluster.name} in any layout. "
                f"{largest.candidate.layout + ': ' + largest.reason if largest else 'TP divides no head count'}"
            )

    # -- wave 1: bounds --------------------------------------------------------------------------------------------

    def _bound(self) -> None:
        stats = WorkloadStats.of(self.trace)
        alive = [e for e in self.entries if e.candidate in self.deployments]
        for entry in alive:
            entry.bounds = bound(self.deployments[entry.candidate], stats, self.slo)
        survivors = []
        for entry in alive:
            reason = self._impossible(entry)
            if reason:
                entry.status, entry.reason = "bounded", reason
            else:
                survivors.append(entry)
        if not survivors:
            self._refuse(alive)

    def _impossible(self, entry: Entry) -> str:
        """Why physics rules the candidate out under the SLO, or ''."""
        bounds, slo = entry.bounds, self.slo
        assert bounds is not None
        if slo is None:
            return ""
        if bounds.attainment < slo.attainment - 1 / 64:
            return (
                f"even unloaded only {100 * bounds.attainment:.0f}% of requests could meet the SLO (median TTFT at least "
                f"{1e3 * bounds.median_ttft_s:.0f} ms, TPOT {1e3 * bounds.median_tpot_s:.1f} ms)"
            )
        if bounds.load > 1 and (slo.ttft_s is not None or slo.e2e_s is not None):
            return f"capacity is at most {bounds.capacity_per_s:.3g} req/s, the workload offers {self._offered():.3g}"
        return ""

    def _offered(self) -> float:
        return self.trace.request_rate_per_s

    def _refuse(self, alive: Sequence[Entry]) -> None:
        """No candidate survives the bounds: say what the best of them could do, from a simulation of it."""
        near = max(alive, key=lambda e: min(1.0, 1 / max(e.bounds.load, 1e-9)) * e.bounds.attainment if e.bounds else 0)
        near.screen = self.evaluator.run("screen", [near.candidate])[0]
        raise UserError(self._miss_message(near, near.screen))

    def _miss_message(self, entry: Entry, measured: Measured) -> str:
        m = measured.metrics
        return (
            f"no layout of {self.model.name} on {self.cluster.name} meets --slo {self.slo}: the best, "
            f"{entry.candidate.layout}, serves {100 * (m['slo_attainment'] or 0):.1f}% of the requests within it (p95 TTFT "
            f"{m['p95_ttft_ms']:.0f} ms, p95 TPOT {m['p95_tpot_ms']:.1f} ms, p95 E2E {m['p95_e2el_ms']:.0f} ms at "
            f"{self._offered():.3g} req/s). Loosen the SLO, lower the rate, or add devices"
        )

    # -- wave 2: screening -----------------------------------------------------------------------------------------

    def _screen(self, entries: Sequence[Entry]) -> None:
        for entry, measured in zip(entries, self.evaluator.run("screen", [e.candidate for e in entries]), strict=True):
            entry.screen = measured

    def _score(self, measured: Measured) -> tuple[float, ...]:
        """Sort key, smaller is better: meeting the SLO first, then the objective, then fewer devices, then latency."""
        name, larger, _ = OBJECTIVES[self.objective]
        value = measured.metrics[name]
        value = math.inf if value is None or value != value else _coarse(value) * (-1 if larger else 1)
        attainment = measured.metrics["slo_attainment"]
        missing = 0.0 if self.slo is None else max(0.0, self.slo.attainment - (attainment or 0.0))
        ttft = _coarse(measured.metrics["p95_ttft_ms"] or 0.0, 10 * TIE)
        return (missing, value, measured.metrics["num_gpus"], ttft)

    def _select(self) -> list[Entry]:
        """Layouts for the whole trace: the best by the objective, and the front of the screening."""
        screened = [e for e in self.entries if e.screen is not None]
        ranked = sorted(screened, key=lambda e: self._score(e.screen))  # type: ignore[arg-type]
        chosen = ranked[: max(self.top, FINALISTS)]
        if self.slo is not None:
            wanted = self.slo.attainment - CLEAR_MISS
            hopeful = [e for e in ranked if e.screen and (e.screen.metrics["slo_attainment"] or 0.0) >= wanted]
            chosen = hopeful[: max(self.top, FINALISTS)] or ranked[:1]
        front = pareto_front([front_point(e.screen) for e in screened if e.screen])
        extra = [screened[i] for i in front if screened[i] not in chosen]
        extra = [e for e in extra if self.slo is None or self._score(e.screen)[0] <= CLEAR_MISS]  # type: ignore[arg-type]
        for entry in screened:
            if entry not in chosen and entry not in extra:
                entry.reason = self._screen_reason(entry, ranked[0])
        return chosen + sorted(extra, key=lambda e: self._score(e.screen))[:2]  # type: ignore[arg-type]

    def _screen_reason(self, entry: Entry, leader: Entry) -> str:
        assert entry.screen is not None and leader.screen is not None
        m = entry.screen.metrics
        if self.slo is not None and self._score(entry.screen)[0] > CLEAR_MISS:
            return (
                f"on the busiest {len(self.short):,} requests only {100 * (m['slo_attainment'] or 0):.0f}% meet the SLO "
                f"(p95 TTFT {m['p95_ttft_ms']:.0f} ms, TPOT {m['p95_tpot_ms']:.1f} ms)"
            )
        return f"screened: {self._compare(entry.screen, leader.screen)} of {leader.candidate.layout}"

    def _compare(self, measured: Measured, leader: Measured) -> str:
        name, _, words = OBJECTIVES[self.objective]
        mine, best = measured.metrics, leader.metrics
        text = f"{_figure(mine[name])} {words} against {_figure(best[name])}"
        if mine[name] is None or best[name] is None or _coarse(mine[name]) != _coarse(best[name]):
            return text
        more = ("num_gpus", "GPUs") if mine["num_gpus"] != best["num_gpus"] else ("p95_ttft_ms", "ms p95 TTFT")
        return f"no better ({text}), {_figure(mine[more[0]])} {more[1]} against {_figure(best[more[0]])}"

    def _compare_rates(self, entry: Entry, best: Entry) -> str:
        """Why the best won by its highest rate, or '' when rates do not decide."""
        mine, leading = entry.max_rate_per_s, best.max_rate_per_s
        if self.objective != "goodput" or leading is None:
            return ""
        if mine is None:
            return f"its highest rate was not searched; {best.candidate.layout} serves {_figure(leading)} req/s"
        return f"serves at most {_figure(mine)} req/s within the SLO, against {_figure(leading)}"

    # -- wave 3: batch limits of the best layouts ------------------------------------------------------------------

    def _screen_variants(self, finalists: Sequence[Entry]) -> list[Entry]:
        """Other batch limits for the two best layouts; those that meet the SLO or the objective better join the final."""
        variants: list[Entry] = []
        for entry in finalists[:2]:
            deployment = self.deployments[entry.candidate]
            variants += [Entry(c) for c in limit_variants(deployment, entry.candidate, self.space)]
        for entry in list(variants):
            try:
                self.deployments[entry.candidate] = build(self.model, self.cluster, self.space, entry.candidate)
                _ = self.deployments[entry.candidate].memory
            except UserError as error:
                entry.status, entry.reason = "unfit", str(error)
        self.entries += variants
        runnable = [e for e in variants if e.status != "unfit"]
        self._screen(runnable)
        better = []
        for entry in runnable:
            base = next(e for e in finalists if replace(entry.candidate, max_num_seqs=None, max_num_batched_tokens=None)
                        == e.candidate)  # fmt: skip
            assert entry.screen is not None and base.screen is not None
            if self._score(entry.screen)[:2] < self._score(base.screen)[:2]:
                better.append(entry)
            else:
                entry.reason = f"screened: {self._compare(entry.screen, base.screen)} with the default limits"
        better.sort(key=lambda e: self._score(e.screen))  # type: ignore[arg-type]
        for entry in better[2:]:
            assert entry.screen is not None and better[0].screen is not None
            entry.reason = f"screened: {self._compare(entry.screen, better[0].screen)} with other limits"
        return better[:2]

    # -- wave 4: the whole trace -----------------------------------------------------------------------------------

    def _full(self, entries: Sequence[Entry]) -> None:
        if len(self.short) == len(self.trace):
            for entry in entries:
                entry.measured = entry.screen
            return
        for entry, measured in zip(entries, self.evaluator.run("full", [e.candidate for e in entries]), strict=True):
            entry.measured = measured

    # -- wave 5: highest rate --------------------------------------------------------------------------------------

    def _max_rates(self) -> None:
        if self.slo is None:
            raise UserError("--max-rate looks for the highest rate within an SLO; give --slo")
        full = sorted((e for e in self.entries if e.measured), key=lambda e: self._score(e.measured))  # type: ignore[arg-type]
        entries = full[: max(1, min(self.top, 4))]
        for entry, rate in zip(entries, self.evaluator.max_rates([e.candidate for e in entries]), strict=True):
            entry.max_rate_per_s = rate

    # -- decision --------------------------------------------------------------------------------------------------

    def _decide(self, by_rate: bool) -> PlanResult:
        full = [e for e in self.entries if e.measured is not None]
        slo = self.slo

        def key(entry: Entry) -> tuple[float, ...]:
            assert entry.measured is not None
            score = self._score(entry.measured)
            if not (by_rate and self.objective == "goodput"):
                return score
            if entry.max_rate_per_s is None:
                return (score[0], math.inf, *score[1:])
            return (score[0], -_coarse(entry.max_rate_per_s), *score[1:])

        ranked = sorted(full, key=key)
        best = ranked[0]
        assert best.measured is not None
        met = slo is None or (best.measured.metrics["slo_attainment"] or 0.0) >= slo.attainment
        if not met:
            raise UserError(self._miss_message(best, best.measured))
        front = pareto_front([front_point(e.measured) for e in full if e.measured])
        for index, entry in enumerate(full):
            self._settle(entry, best, index in front)
        counts = {
            "enumerated": len(self.entries),
            "fit": sum(e.status != "unfit" for e in self.entries),
            "screened": sum(e.screen is not None for e in self.entries),
            "simulated in full": len(full),
        }
        return PlanResult(
            model=self.model,
            cluster=self.cluster,
            trace=self.trace,
            slo=slo,
            objective=self.objective,
            space=self.space,
            entries=self.entries,
            best=best,
            seed=self.seed,
            counts=counts,
        )

    def _settle(self, entry: Entry, best: Entry, on_front: bool) -> None:
        """Status and reason of a fully simulated entry."""
        assert entry.measured is not None and best.measured is not None
        m, slo = entry.measured.metrics, self.slo
        if entry is best:
            entry.status, entry.reason = "best", f"best by {OBJECTIVES[self.objective][2]}"
        elif slo is not None and (m["slo_attainment"] or 0.0) < slo.attainment:
            entry.status = "missed"
            entry.reason = (
                f"only {100 * (m['slo_attainment'] or 0):.1f}% of requests meet the SLO (p95 TTFT {m['p95_ttft_ms']:.0f} ms, "
                f"TPOT {m['p95_tpot_ms']:.1f} ms)"
            )
        else:
            entry.status = "pareto" if on_front else "met"
            entry.reason = self._compare_rates(entry, best) or self._compare(entry.measured, best.measured)


def _coarse(value: float, tie: float = TIE) -> float:
    """Grid on which nearly equal values are equal: a plan is not better for the drain of its last requests."""
    if value == math.inf:
        return math.inf
    return float(round(math.log(value) / tie)) if value > 0 else -math.inf


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"


def busiest_stretch(trace: Trace, requests: int) -> Trace:
    """The ``requests`` consecutive requests that offer the most tokens per second, moved to time 0.

    Traces whose requests wait for others are cut at the front instead.
    """
    if len(trace) <= requests:
        return trace
    if trace.concurrency is not None or trace.previous is not None:
        return trace.head(requests)
    tokens = np.cumsum(trace.input_tokens + 4.0 * trace.output_tokens)
    starts = np.arange(0, len(trace) - requests, max(1, requests // 4))
    spans = trace.arrival_s[starts + requests] - trace.arrival_s[starts]
    rates = (tokens[starts + requests] - tokens[starts]) / np.maximum(spans, 1e-9)
    start = int(starts[int(np.argmax(rates))])
    return trace.slice_time(float(trace.arrival_s[start]), float(trace.arrival_s[start + requests]))
