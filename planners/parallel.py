"""The parallel plan: enumerate, drop what does not fit, bound the rest by physics, simulate what can win, explain it all.

The search is in waves, and what a wave keeps depends only on results, never on which worker was faster: any number of
jobs gives the same plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np

from hardware_profiles.errors import UserError, unknown_name
from hardware_profiles.schema import Cluster
from hardware_profiles.terms import usd_per_device_hour
from planners import reasons
from planners.bounds import Bounds
from planners.demand import WorkloadStats
from planners.fitting import does_not_fit
from planners.outcome import (
    OBJECTIVES,
    TIE,
    Entry,
    Objective,
    PlanResult,
    choose,
    excess,
    front_of,
    front_point,
    missing,
    score,
)
from planners.pareto import pareto_front
from planners.pool import RATE_TOLERANCE, Evaluator, Measured
from planners.pools import AnyDeployment, bound_any, build_any, check_built, enumerate_pools
from planners.space import Candidate, SearchSpace, enumerate_layouts, limit_variants
from simulator.accounting.rates import Rates, power_known
from simulator.deployment import Deployment
from simulator.physics.power import idle_w_of, power_fit_of
from workloads.model import ModelSpec
from workloads.slo import Slo
from workloads.trace import Trace

__all__ = ["OBJECTIVES", "Entry", "Objective", "PlanResult", "busiest_stretch", "plan_parallel"]

SCREEN_REQUESTS = 2000
"""Traces longer than this are screened on their busiest stretch of so many requests."""
MOST_FULL = 24
"""Layouts that get the whole trace, at most."""
WAVE = 4
"""Full runs between two looks at what can still win."""
NEAR_MISS = 0.10
"""Other batch limits are tried on cheaper plans that miss the wanted attainment by no more than this."""
SCREEN_SLACK = 0.8
"""A stretch starts from an empty system, so the whole trace misses at least about as many of its requests; this share is
taken as certain (caches may be warm, replicas take turns differently)."""
RATE_FINALISTS = 3
"""Plans whose highest rate is searched on the whole trace."""


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

    ``find_max_rate``: also find the highest rate within the SLO; with the objective goodput the plan with the highest
    one wins, with any other the winner at the trace's own rate stays the winner.
    Raises UserError when no layout fits, or when none can meet the SLO (naming the best that can be had).
    """
    if objective not in OBJECTIVES:
        raise unknown_name("objective", objective, OBJECTIVES)
    if objective in ("cost", "request-cost") and usd_per_device_hour(cluster.device, cluster.terms) is None:
        raise UserError(
            f"{cluster.device.name} has no price in its profile, so --objective {objective} has no meaning; give "
            "--usd-per-gpu-hour or choose another objective"
        )
    if objective in ("energy", "kwh", "carbon") and not power_known(cluster.device):
        raise UserError(
            f"{cluster.device.name} has neither tdp_w nor power in its profile, so --objective {objective} has no meaning; "
            "give one of them in a device file or choose another objective"
        )
    if find_max_rate:
        _check_rate(trace, slo)
    space = space or SearchSpace()
    search = _Search(model, cluster, trace, slo, space, objective, top, jobs, seed, progress)
    with search.evaluator:
        return search.run(find_max_rate)


def _check_rate(trace: Trace, slo: Slo | None) -> None:
    if slo is None:
        raise UserError(
            "--max-rate looks for the highest rate within an SLO; give --slo, for example ttft=1s,tpot=50ms"
        )
    if trace.concurrency is not None:
        raise UserError(
            f"--max-rate needs arrival times to play faster; {trace.name} is a closed loop of {trace.concurrency} clients. "
            "Compare concurrencies instead, or give --rate"
        )
    if trace.duration_s <= 0:
        raise UserError(
            f"--max-rate needs arrivals spread over time; all {len(trace)} requests of {trace.name} arrive at once"
        )


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
        self.deployments: dict[Candidate, AnyDeployment] = {}
        self.stats = WorkloadStats.of(trace)
        self.rates = Rates.of(cluster)
        self.stretch_rate: dict[Candidate, float] = {}
        """Highest rates within the SLO on the busiest stretch [1/s]."""

    def run(self, find_max_rate: bool) -> PlanResult:
        """All waves."""
        self._enumerate()
        possible = self._bound()
        plain = [e for e in possible if e.candidate.pp == 1] or possible
        self._screen(plain)
        self._full(self._first_wave(plain))
        deep = [e for e in possible if e.screen is None and self._worth_a_run(e)]
        self._screen(deep)
        self._extend([e for e in possible if e.screen is not None])
        self._full(self._screen_variants())
        by_rate = find_max_rate and self.objective == "goodput"
        if find_max_rate:
            self._max_rates(by_rate)
        return self._decide(by_rate)

    def _key(self, measured: Measured | None) -> tuple[float, ...]:
        return (math.inf,) if measured is None else score(measured, self.slo, self.objective)

    # -- wave 0: what fits -----------------------------------------------------------------------------------------

    def _enumerate(self) -> None:
        candidates = enumerate_layouts(self.model, self.cluster, self.space)
        if self.space.pools:
            candidates += enumerate_pools(self.model, self.cluster, self.space)
        for candidate in candidates:
            self._add(Entry(candidate))
        if not self.deployments:
            raise does_not_fit(self.model, self.cluster, self.space, self.entries)

    def _add(self, entry: Entry) -> bool:
        """Build an entry's deployment; False (and why) when it does not fit."""
        self.entries.append(entry)
        try:
            deployment = build_any(self.model, self.cluster, self.space, entry.candidate)
            check_built(deployment)
        except UserError as error:
            entry.status, entry.reason = "unfit", str(error)
            return False
        self.deployments[entry.candidate] = deployment
        entry.bounds = bound_any(deployment, self.stats, self.slo)
        return True

    # -- wave 1: bounds --------------------------------------------------------------------------------------------

    def _bound(self) -> list[Entry]:
        alive = [e for e in self.entries if e.status != "unfit"]
        for entry in alive:
            self._rule_out(entry)
        possible = [e for e in alive if e.status != "bounded"]
        if not possible:
            self._refuse(alive)
        return possible

    def _rule_out(self, entry: Entry) -> bool:
        assert entry.bounds is not None
        reason = reasons.out_of_reach(entry.bounds, self.slo, self.trace.request_rate_per_s)
        if reason:
            entry.status, entry.reason = "bounded", reason
        return bool(reason)

    def _refuse(self, alive: Sequence[Entry]) -> None:
        """No candidate survives the bounds: say what the best of them can do, from runs of the nearest."""
        nearest = sorted(alive, key=self._distance)
        self._full(nearest[:WAVE])
        raise self._miss(self._nearest(nearest[:WAVE]))

    def _distance(self, entry: Entry) -> tuple[float, float, float]:
        """Order of candidates that the bounds rule out: reachable attainment, load, unloaded latency against the limits."""
        bounds, slo = entry.bounds, self.slo
        assert bounds is not None and slo is not None
        ratios = [
            latency / limit
            for latency, limit in ((bounds.median_ttft_s, slo.ttft_s), (bounds.median_tpot_s, slo.tpot_s))
            if limit is not None
        ]
        reachable = min(bounds.attainment, bounds.loaded_attainment)
        return (-reachable, -min(1.0, bounds.loaded_attainment), max(ratios, default=0.0))

    def _nearest(self, missed: Sequence[Entry]) -> Entry:
        """Of runs that all miss the SLO, the one with most requests in it, then with the latencies nearest to it."""
        slo = self.slo
        assert slo is not None
        return min(
            missed, key=lambda e: (missing(e.measured, slo), excess(e.measured, slo)) if e.measured else (2.0, 0.0)
        )

    def _miss(self, entry: Entry) -> UserError:
        assert entry.measured is not None
        m = entry.measured.metrics
        rate = entry.max_rate_per_s
        highest = "" if rate is None else f"; its highest rate within it is {rate:.3g} req/s" if rate else ""
        offered = self.trace.request_rate_per_s
        at = f" at {offered:.3g} req/s" if math.isfinite(offered) and self.trace.concurrency is None else ""
        return UserError(
            f"no layout of {self.model.name} on {self.cluster.name} meets --slo {self.slo}: the best, "
            f"{entry.candidate.layout}, serves {100 * (m['slo_attainment'] or 0):.1f}% of the requests within it{at} (p95 "
            f"TTFT {m['p95_ttft_ms']:.0f} ms, p95 TPOT {m['p95_tpot_ms']:.1f} ms, p95 E2E {m['p95_e2el_ms']:.0f} ms"
            f"{highest}). Loosen the SLO, lower the rate, or add devices"
        )

    # -- wave 2: screening -----------------------------------------------------------------------------------------

    def _screen(self, entries: Sequence[Entry]) -> None:
        """Simulate the busiest stretch; for a short trace that is all of it."""
        for entry, measured in zip(entries, self.evaluator.run("screen", [e.candidate for e in entries]), strict=True):
            entry.screen = measured
            if self.short is self.trace:
                entry.measured = measured

    def _hopeless(self, entry: Entry) -> bool:
        """The stretch alone has more misses than the whole trace may have."""
        if self.slo is None or entry.screen is None:
            return False
        misses = (1 - (entry.screen.metrics["slo_attainment"] or 0.0)) * len(self.short)
        allowed = (1 - self.slo.attainment) * len(self.trace)
        return misses * SCREEN_SLACK > allowed + 1e-9

    # -- wave 3: the whole trace -----------------------------------------------------------------------------------

    def _full(self, entries: Sequence[Entry]) -> None:
        todo = [e for e in entries if e.measured is None]
        for entry, measured in zip(todo, self.evaluator.run("full", [e.candidate for e in todo]), strict=True):
            entry.measured = measured

    def _first_wave(self, possible: Sequence[Entry]) -> list[Entry]:
        """Those within the SLO on the busiest stretch: the best by the objective, and two more of the Pareto front."""
        ranked = sorted((e for e in possible if not self._hopeless(e)), key=lambda e: self._key(e.screen))
        if not ranked:
            return sorted(possible, key=lambda e: self._key(e.screen))[:1]
        sure = [e for e in ranked if not self._key(e.screen)[0]] or ranked[:1]
        chosen = sure[: max(self.top, WAVE)]
        front = pareto_front([front_point(e.screen) for e in sure if e.screen])
        return chosen + [sure[i] for i in front if sure[i] not in chosen][:2]

    def _extend(self, possible: Sequence[Entry]) -> None:
        """Run whatever can still beat the best, nearest to the SLO first, until nothing can."""
        waiting = sorted((e for e in possible if not self._hopeless(e)), key=lambda e: self._key(e.screen))
        while True:
            best = self._leader()
            waiting = [e for e in waiting if e.measured is None and self._can_beat(e, best)]
            room = MOST_FULL - sum(e.measured is not None for e in possible)
            if not waiting or room <= 0:
                break
            self._full(waiting[: min(WAVE, room)])
        for entry in waiting:
            entry.reason = f"not run on the whole trace: {MOST_FULL} layouts were ahead of it"

    def _leader(self) -> Measured | None:
        """The best full run so far, if it meets the SLO."""
        full = [e for e in self.entries if e.measured is not None]
        best = choose(full, self.slo, self.objective).measured if full else None
        return None if best is None or missing(best, self.slo) else best

    def _worth_a_run(self, entry: Entry) -> bool:
        """Pipelines take longest to simulate (an event per pass): only those that can still win are."""
        best = self._leader()
        if self._can_beat(entry, best):
            return True
        assert best is not None
        entry.status = "bounded"
        name, _, words = OBJECTIVES[self.objective]
        entry.reason = (
            f"not simulated: at best {reasons.figure(self._at_best(entry))} {words} by its bounds, "
            f"another layout has {reasons.figure(best.metrics[name])} on {best.metrics['num_gpus']} GPU"
            + ("s" if best.metrics["num_gpus"] > 1 else "")
        )
        return False

    def _can_beat(self, entry: Entry, best: Measured | None) -> bool:
        """By its bounds the entry may be better than ``best`` in the objective, or equal on fewer devices."""
        if best is None:
            return True
        name, larger, _ = OBJECTIVES[self.objective]
        known, hoped = best.metrics[name], self._at_best(entry)
        if not known:
            return True
        gain = hoped / known - 1 if larger else 1 - hoped / known
        return bool(gain > TIE or (gain > -TIE and entry.candidate.num_devices < best.metrics["num_gpus"]))

    def _at_best(self, entry: Entry) -> float:
        """The objective as good as physics allows."""
        bounds, candidate = entry.bounds, entry.candidate
        assert bounds is not None
        if not bounds.served:
            return 0.0 if self.objective == "goodput" else math.inf
        if self.objective == "ttft":
            return 1e3 * bounds.p95_ttft_s
        if self.objective == "tpot":
            return 1e3 * bounds.p95_tpot_s
        if self.objective == "goodput":
            good = min(bounds.attainment, bounds.loaded_attainment) * len(self.trace)
            return good / bounds.duration_s
        return self._least(bounds, candidate)

    def _least(self, bounds: Bounds, candidate: Candidate) -> float:
        """Least dollars, joules, kWh or emissions per token or request: all devices are held for the least duration, those
        of one stage at the power of a device that waits."""
        device, rates = self.cluster.device, self.rates
        least_w = min(idle_w_of(device), power_fit_of(device).base_w)
        device_s = candidate.num_devices * bounds.duration_s
        joules = least_w * candidate.num_devices / candidate.pp * bounds.duration_s
        if self.objective == "energy":
            return joules / bounds.output_tokens
        if self.objective == "kwh":
            return 1e6 * rates.facility_kwh(device_s, joules) / bounds.output_tokens
        if self.objective == "carbon":
            return 1e6 * rates.gco2e(device_s, joules) / bounds.output_tokens
        usd = rates.usd(device_s, joules)
        assert usd is not None
        return usd / bounds.served if self.objective == "request-cost" else 1e6 * usd / bounds.output_tokens

    # -- wave 4: batch limits ----------------------------------------------------------------------------------------

    def _screen_variants(self) -> list[Entry]:
        """Other batch limits for the two best layouts and for two that would be better did they meet the SLO.

        Those that get nearer to the SLO or improve the objective join the final.
        """
        better: list[Entry] = []
        for base in self._bases():
            deployment = self.deployments[base.candidate]
            if not isinstance(deployment, Deployment):
                continue  # batch limits of pools are the engine's
            variants = limit_variants(deployment, base.candidate, self.space)
            runnable = [e for e in map(Entry, variants) if self._add(e) and not self._rule_out(e)]
            self._screen(runnable)
            for entry in runnable:
                assert entry.screen is not None and base.screen is not None
                if self._key(entry.screen)[:2] < self._key(base.screen)[:2]:
                    better.append(entry)
                elif not missing(entry.screen, self.slo):
                    words = reasons.compare(entry.screen, base.screen, self.objective)
                    entry.reason = f"no gain over the default limits: {words}"
                if entry not in better:
                    entry.measured = None
        better = [e for e in better if not self._hopeless(e)]
        return sorted(better, key=lambda e: self._key(e.screen))[:WAVE]

    def _bases(self) -> list[Entry]:
        """Layouts whose batch limits are worth a try."""
        full = sorted((e for e in self.entries if e.measured), key=lambda e: self._key(e.measured))
        leader = self._leader()
        bases = full[:2]
        near = [e for e in full[2:] if e.measured and 0 < missing(e.measured, self.slo) <= NEAR_MISS]
        if leader is not None:
            near = [e for e in near if self._key(e.measured)[1:3] < self._key(leader)[1:3]]
        return bases + near[:2]

    # -- wave 5: highest rate --------------------------------------------------------------------------------------

    def _max_rates(self, by_rate: bool) -> None:
        """Highest rates of the best plans; when the highest rate decides, of all that may have it."""
        full = sorted((e for e in self.entries if e.measured), key=lambda e: self._key(e.measured))
        entries = full[: max(1, min(self.top, RATE_FINALISTS))]
        if by_rate:
            entries = self._fastest()
            self._full(entries)
        for entry, rate in zip(entries, self.evaluator.max_rates("full", [e.candidate for e in entries]), strict=True):
            entry.max_rate_per_s = rate

    def _fastest(self) -> list[Entry]:
        """The layouts with the highest rates on the busiest stretch, in waves by falling capacity bound."""
        waiting = [e for e in self.entries if e.screen is not None and e.bounds is not None and not self._hopeless(e)]
        if not waiting:
            return [e for e in self.entries if e.measured][:1]
        waiting.sort(key=lambda e: -e.bounds.capacity_per_s if e.bounds else 0.0)
        found: list[tuple[float, int, Entry]] = []
        while waiting:
            wave, waiting = waiting[:WAVE], waiting[WAVE:]
            rates = self.evaluator.max_rates("screen", [e.candidate for e in wave])
            self.stretch_rate |= {e.candidate: rate for e, rate in zip(wave, rates, strict=True)}
            found += [(-rate, len(found) + i, entry) for i, (rate, entry) in enumerate(zip(rates, wave, strict=True))]
            found.sort(key=lambda item: item[:2])
            least = -found[min(len(found), RATE_FINALISTS) - 1][0]
            waiting = [e for e in waiting if e.bounds and (len(found) < RATE_FINALISTS or self._reach(e) > least)]
        for entry in self.entries:
            if entry.screen is not None and entry.bounds and entry.candidate not in self.stretch_rate:
                entry.reason = f"its capacity, at most {entry.bounds.capacity_per_s:.3g} req/s, rules out a higher rate"
        return [entry for _, _, entry in found[:RATE_FINALISTS]]

    def _reach(self, entry: Entry) -> float:
        """A rate of the busiest stretch the entry will not exceed: its capacity, stretched by the time the SLO gives."""
        assert entry.bounds is not None and self.slo is not None
        stretch = bound_any(self.deployments[entry.candidate], WorkloadStats.of(self.short), None)
        slack_s = max(self.slo.ttft_s or 0.0, self.slo.e2e_s or 0.0)
        busy_s = self.slo.attainment * len(self.short) / stretch.capacity_per_s
        return math.inf if slack_s >= busy_s else stretch.capacity_per_s / (1 - slack_s / busy_s)

    # -- decision --------------------------------------------------------------------------------------------------

    def _decide(self, by_rate: bool) -> PlanResult:
        full = [e for e in self.entries if e.measured is not None]

        best = choose(full, self.slo, self.objective)
        if by_rate:
            rated = [e for e in full if e.max_rate_per_s is not None]
            best = min(
                rated, key=lambda e: (self._key(e.measured)[0], -(e.max_rate_per_s or 0.0), self._key(e.measured))
            )
        assert best.measured is not None
        if missing(best.measured, self.slo):
            raise self._miss(self._nearest(full))
        front = front_of(self.entries, self.slo)
        for entry in self.entries:
            if entry.status in ("unfit", "bounded"):
                continue
            if entry.measured is not None:
                self._settle(entry, best, any(entry is other for other in front), by_rate)
            else:
                self._settle_screened(entry, best)
        counts = {
            "enumerated": len(self.entries),
            "fit": sum(e.status != "unfit" for e in self.entries),
            "within the bounds": sum(e.status not in ("unfit", "bounded") for e in self.entries),
            "simulated in full": len(full),
        }
        return PlanResult(
            model=self.model,
            cluster=self.cluster,
            trace=self.trace,
            slo=self.slo,
            objective=self.objective,
            space=self.space,
            entries=self.entries,
            best=best,
            seed=self.seed,
            by_rate=by_rate,
            counts=counts,
        )

    def _settle(self, entry: Entry, best: Entry, on_front: bool, by_rate: bool) -> None:
        """Status and reason of a fully simulated entry."""
        assert entry.measured is not None and best.measured is not None
        if entry is best:
            entry.status, entry.reason = "best", f"best by {OBJECTIVES[self.objective][2]}"
            if by_rate:
                entry.reason = f"highest rate within the SLO: {reasons.figure(entry.max_rate_per_s)} req/s"
        elif missing(entry.measured, self.slo):
            entry.status, entry.reason = "missed", reasons.missed(entry.measured)
        else:
            entry.status = "pareto" if on_front else "met"
            words = reasons.compare(entry.measured, best.measured, self.objective)
            entry.reason = self._slower(entry, best) if by_rate else words

    @property
    def _where(self) -> str:
        """What a screening ran on, in words; nothing when that was the whole trace."""
        return "" if self.short is self.trace else f"on the busiest {len(self.short):,} requests "

    def _slower(self, entry: Entry, best: Entry) -> str:
        """Why an entry is not the one with the highest rate."""
        where, mine, top = "", entry.max_rate_per_s, best.max_rate_per_s
        if mine is None:
            where = self._where
            mine, top = self.stretch_rate.get(entry.candidate), self.stretch_rate.get(best.candidate)
        if mine is None or top is None:
            return entry.reason or reasons.compare(entry.measured, best.measured, self.objective)  # type: ignore[arg-type]
        if mine * (1 + RATE_TOLERANCE) >= top:
            return (
                f"{where}ties within the search's {RATE_TOLERANCE:.0%}: {reasons.figure(mine)} req/s within the SLO against "
                f"{reasons.figure(top)}"
            )
        return f"{where}its highest rate within the SLO is {reasons.figure(mine)} req/s against {reasons.figure(top)}"

    def _settle_screened(self, entry: Entry, best: Entry) -> None:
        """Reason of an entry that was run on the busiest stretch only."""
        assert entry.screen is not None and best.measured is not None
        stretch = self._where
        if self._hopeless(entry) or missing(entry.screen, self.slo):
            entry.reason = reasons.missed(entry.screen, stretch)
        elif entry.candidate in self.stretch_rate:
            entry.reason = self._slower(entry, best)
        elif not entry.reason and best.screen is not None:
            entry.reason = stretch + reasons.compare(entry.screen, best.screen, self.objective)


def busiest_stretch(trace: Trace, requests: int) -> Trace:
    """The ``requests`` consecutive requests that offer the most tokens per second, moved to time 0.

    Traces whose requests wait for others are cut at the front instead. An output token counts as four prompt tokens.
    """
    if len(trace) <= requests:
        return trace
    if trace.concurrency is not None or trace.previous is not None:
        return trace.head(requests)
    tokens = np.concatenate(([0.0], np.cumsum(trace.input_tokens + 4.0 * trace.output_tokens)))
    starts = np.arange(0, len(trace) - requests + 1, max(1, requests // 8))
    spans = trace.arrival_s[starts + requests - 1] - trace.arrival_s[starts]
    rates = (tokens[starts + requests] - tokens[starts]) / np.maximum(spans, 1e-9)
    start = int(starts[int(np.argmax(rates))])
    first_s, last_s = (float(trace.arrival_s[row]) for row in (start, start + requests - 1))
    part = trace.slice_time(first_s, math.nextafter(last_s, math.inf))
    return part if len(part) < 2 * requests else trace.head(requests)
