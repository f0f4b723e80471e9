"""The waves of a search for the parallel plan: which candidates are bounded, screened, run in full, varied.

What a wave keeps depends only on results, never on which worker was faster: any number of jobs gives the same plan.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace

from hardware_profiles.errors import UserError
from hardware_profiles.schema import Cluster
from planners import reasons
from planners.demand import WorkloadStats
from planners.fates import Fates
from planners.fitting import does_not_fit
from planners.hope import Hopes
from planners.misses import NothingMeets, distance, nearest, no_layout
from planners.outcome import Entry, Objective, PlanResult, choose, front_point, missing, score
from planners.pareto import pareto_front
from planners.pool import Evaluator, Measured
from planners.pools import AnyDeployment, bound_any, build_shared, check_built, enumerate_pools
from planners.rates import find_max_rates
from planners.space import Candidate, SearchSpace, enumerate_layouts, limit_variants
from planners.stretch import busiest_stretch
from planners.technique_families import plain_space
from planners.technique_search import TechniqueSearch
from planners.technique_ties import polish
from simulator.accounting.rates import Rates
from simulator.deployment import Deployment
from workloads.model import ModelSpec
from workloads.slo import Slo
from workloads.trace import Trace

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


class Search:
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
        self.entries: list[Entry] = []
        self.deployments: dict[Candidate, AnyDeployment] = {}
        traces = {"screen": self.short, "full": trace}
        self.evaluator = Evaluator(model, cluster, space, slo, traces, seed, jobs, progress, built=self.deployments)
        self.stats = WorkloadStats.of(trace, seed)
        self.hopes = Hopes(objective, cluster, trace, Rates.of(cluster))
        where = "" if self.short is trace else f"on the busiest {len(self.short):,} requests "
        self.fates = Fates(objective, slo, where)

    def run(self, find_max_rate: bool) -> PlanResult:
        """All waves."""
        by_rate = find_max_rate and self.objective == "goodput"
        self._enumerate()
        techniques = TechniqueSearch(self) if self.space.has_techniques else None
        possible = self._bound(sole=techniques is None)
        plain = [e for e in possible if e.candidate.pp == 1] or possible
        self.screen(plain)
        self.full(self._first_wave(plain))
        deep = [e for e in possible if e.screen is None and self._worth_a_run(e)]
        self.screen(deep)
        if techniques is not None:
            techniques.find(by_rate)
            possible = self._alive()
        self._extend([e for e in possible if e.screen is not None])
        if techniques is not None and not by_rate:
            polish(techniques)
        self.full(self._screen_variants())
        if find_max_rate:
            find_max_rates(self, by_rate)
        return self._decide(by_rate)

    def key(self, measured: Measured | None) -> tuple[float, ...]:
        return (math.inf,) if measured is None else score(measured, self.slo, self.objective)

    # -- wave 0: what fits -----------------------------------------------------------------------------------------

    def _enumerate(self) -> None:
        space = plain_space(self.space)
        candidates = enumerate_layouts(self.model, self.cluster, space)
        if space.pools:
            candidates += enumerate_pools(self.model, self.cluster, space)
        for candidate in candidates:
            self._add(Entry(replace(candidate, cache=space.caches[0])))
        if not self.deployments and not self.space.has_techniques:
            raise does_not_fit(self.model, self.cluster, self.space, self.entries)

    def _add(self, entry: Entry) -> bool:
        """Build an entry's deployment; False (and why) when it does not fit."""
        self.entries.append(entry)
        try:
            deployment = build_shared(self.model, self.cluster, self.space, entry.candidate, self.deployments)
            check_built(deployment)
        except UserError as error:
            entry.status, entry.reason = "unfit", str(error)
            return False
        self.deployments[entry.candidate] = deployment
        entry.bounds = bound_any(deployment, self.stats, self.slo)
        return True

    # -- wave 1: bounds --------------------------------------------------------------------------------------------

    def _bound(self, sole: bool) -> list[Entry]:
        """Plain candidates that may meet the SLO; ``sole``: there are no others."""
        alive = [e for e in self.entries if e.bounds is not None]
        for entry in alive:
            self.rule_out(entry)
        possible = [e for e in alive if e.status != "bounded"]
        if not possible and sole:
            self._refuse(alive)
        return possible

    def _alive(self) -> list[Entry]:
        """What was run, or may be, techniques included. Raises when nothing fits, or nothing can meet the SLO."""
        if not self.deployments:
            raise does_not_fit(self.model, self.cluster, self.space, self.entries)
        possible = [e for e in self.entries if e.status not in ("unfit", "bounded")]
        if not possible:
            self._refuse([e for e in self.entries if e.status == "bounded" and e.candidate in self.deployments])
        return possible

    def rule_out(self, entry: Entry) -> bool:
        assert entry.bounds is not None
        reason = reasons.out_of_reach(entry.bounds, self.slo, self.trace.request_rate_per_s)
        if reason:
            entry.status, entry.reason = "bounded", reason
        return bool(reason)

    def _refuse(self, alive: Sequence[Entry]) -> None:
        """No candidate survives the bounds: say what the best of them can do, from runs of the nearest."""
        assert self.slo is not None
        slo = self.slo
        tried = sorted(alive, key=lambda e: distance(e, slo))[:WAVE]
        self.full(tried)
        for entry in tried:
            assert entry.measured is not None
            entry.reason = f"{entry.reason}; simulated: {reasons.missed(entry.measured)}"
        raise self._miss(tried)

    def _miss(self, missed: Sequence[Entry], by_rate: bool = False) -> NothingMeets:
        """The nearest, and what it would take; its highest rate where that costs few runs."""
        assert self.slo is not None
        best = nearest(missed, self.slo)
        spread = self.trace.concurrency is None and self.trace.duration_s > 0
        if best.max_rate_per_s is None and spread and self.short is self.trace:
            best.max_rate_per_s = self.evaluator.max_rates("full", [best.candidate])[0]
        alive = [e for e in self.entries if e.best_known is not None or e.status in ("unfit", "bounded")]
        self.fates.settle(alive, best, by_rate)
        error = no_layout(best, self.model, self.cluster, self.trace, self.slo)
        return NothingMeets(str(error), self._result(best, by_rate))

    # -- wave 2: screening -----------------------------------------------------------------------------------------

    def screen(self, entries: Sequence[Entry]) -> None:
        """Simulate the busiest stretch; for a short trace that is all of it."""
        for entry, measured in zip(entries, self.evaluator.run("screen", [e.candidate for e in entries]), strict=True):
            entry.screen = measured
            if self.short is self.trace:
                entry.measured = measured

    def hopeless(self, entry: Entry) -> bool:
        """The stretch alone has more misses than the whole trace may have."""
        if self.slo is None or entry.screen is None:
            return False
        misses = (1 - (entry.screen.metrics["slo_attainment"] or 0.0)) * len(self.short)
        allowed = (1 - self.slo.attainment) * len(self.trace)
        return misses * SCREEN_SLACK > allowed + 1e-9

    # -- wave 3: the whole trace -----------------------------------------------------------------------------------

    def full(self, entries: Sequence[Entry]) -> None:
        todo = [e for e in entries if e.measured is None]
        for entry, measured in zip(todo, self.evaluator.run("full", [e.candidate for e in todo]), strict=True):
            entry.measured = measured

    def _first_wave(self, possible: Sequence[Entry]) -> list[Entry]:
        """Those within the SLO on the busiest stretch: the best by the objective, and two more of the Pareto front."""
        ranked = sorted((e for e in possible if not self.hopeless(e)), key=lambda e: self.key(e.screen))
        if not ranked:
            return sorted(possible, key=lambda e: self.key(e.screen))[:1]
        sure = [e for e in ranked if not self.key(e.screen)[0]] or ranked[:1]
        chosen = sure[: max(self.top, WAVE)]
        front = pareto_front([front_point(e.screen) for e in sure if e.screen])
        return chosen + [sure[i] for i in front if sure[i] not in chosen][:2]

    def _extend(self, possible: Sequence[Entry]) -> None:
        """Run whatever can still beat the best, nearest to the SLO first, until nothing can."""
        waiting = sorted((e for e in possible if not self.hopeless(e)), key=lambda e: self.key(e.screen))
        while True:
            best = self.leader()
            waiting = [e for e in waiting if e.measured is None and self.hopes.can_beat(e, best)]
            waiting = [e for e in waiting if not (e.candidate.has_techniques(self.space) and self._as_others(e))]
            room = MOST_FULL - sum(e.measured is not None for e in possible)
            if not waiting or room <= 0:
                break
            self.full(waiting[: min(WAVE, room)])
        for entry in waiting:
            entry.reason = f"not run on the whole trace: {MOST_FULL} layouts were ahead of it"

    def _as_others(self, entry: Entry) -> bool:
        """It misses the SLO on the stretch by more than one that missed it on the whole trace as well."""
        missed = [e.screen for e in self.entries if e.measured and e.screen and missing(e.measured, self.slo)]
        least = min((missing(screen, self.slo) for screen in missed), default=math.inf)
        return entry.screen is not None and missing(entry.screen, self.slo) > least

    def leader(self) -> Measured | None:
        """The best full run so far, if it meets the SLO."""
        entry = self.leader_entry()
        return None if entry is None else entry.measured

    def leader_entry(self) -> Entry | None:
        """The candidate of that run."""
        full = [e for e in self.entries if e.measured is not None]
        best = choose(full, self.slo, self.objective) if full else None
        return None if best is None or best.measured is None or missing(best.measured, self.slo) else best

    def _worth_a_run(self, entry: Entry) -> bool:
        """Pipelines take longest to simulate (an event per pass): only those that can still win are."""
        best = self.leader()
        if self.hopes.can_beat(entry, best):
            return True
        assert best is not None
        entry.status = "bounded"
        entry.reason = self.hopes.no_better(entry, best)
        return False

    # -- wave 4: batch limits ----------------------------------------------------------------------------------------

    def _screen_variants(self) -> list[Entry]:
        """Other batch limits for the two best layouts and for two that would be better did they meet the SLO; where techniques
        are searched for the best alone, if there is one.

        Those that get nearer to the SLO or improve the objective join the final.
        """
        better: list[Entry] = []
        for base in self._bases():
            deployment = self.deployments[base.candidate]
            if not isinstance(deployment, Deployment):
                continue  # batch limits of pools are the engine's
            variants = limit_variants(deployment, base.candidate, self.space)
            runnable = [e for e in map(Entry, variants) if self._add(e) and not self.rule_out(e)]
            self.screen(runnable)
            for entry in runnable:
                assert entry.screen is not None and base.screen is not None
                if self.key(entry.screen)[:2] < self.key(base.screen)[:2]:
                    better.append(entry)
                elif not missing(entry.screen, self.slo):
                    words = reasons.compare(entry.screen, base.screen, self.objective)
                    entry.reason = f"no gain over the default limits: {self.fates.both()}{words}"
                if entry not in better:
                    entry.measured = None
        better = [e for e in better if not self.hopeless(e)]
        return sorted(better, key=lambda e: self.key(e.screen))[:WAVE]

    def _bases(self) -> list[Entry]:
        """Layouts whose batch limits are worth a try."""
        full = sorted((e for e in self.entries if e.measured), key=lambda e: self.key(e.measured))
        leader = self.leader()
        most = 1 if self.space.has_techniques else 2
        bases = full[:most]
        near = [e for e in full[most:] if e.measured and 0 < missing(e.measured, self.slo) <= NEAR_MISS]
        if leader is not None:
            near = [e for e in near if self.key(e.measured)[1:3] < self.key(leader)[1:3]]
        return bases + ([] if self.space.has_techniques and leader is not None else near[:2])

    # -- decision --------------------------------------------------------------------------------------------------

    def _decide(self, by_rate: bool) -> PlanResult:
        full = [e for e in self.entries if e.measured is not None]

        best = choose(full, self.slo, self.objective)
        if by_rate:
            rated = [e for e in full if e.max_rate_per_s is not None]
            best = min(rated, key=lambda e: (self.key(e.measured)[0], -(e.max_rate_per_s or 0.0), self.key(e.measured)))
        assert best.measured is not None
        if missing(best.measured, self.slo):
            raise self._miss(full, by_rate)
        self.fates.settle(self.entries, best, by_rate)
        return self._result(best, by_rate)

    def _result(self, best: Entry, by_rate: bool) -> PlanResult:
        full = [e for e in self.entries if e.measured is not None]
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
