"""Techniques in the search: candidates beside the plain layouts, best first by their bounds, few of them simulated.

Candidates that differ only in drafts and in how they share prefixes are a family. Its bounds hold for all of it
(:class:`planners.draft_bounds.Freedom`), so a family that cannot win is dropped as one; what is left is bounded one by one,
and simulated while it can beat the best plan so far.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from hardware_profiles.errors import UserError
from planners.bounds import Bounds, nothing_served
from planners.demand import WorkloadStats
from planners.draft_bounds import FIXED, Freedom
from planners.outcome import TIE, Entry, ties_with
from planners.pool import Measured
from planners.pools import bound_any, build_any, build_shared, check_built, family_of
from planners.reasons import out_of_reach
from planners.space import Candidate, SearchSpace
from workloads.trace import Trace

if TYPE_CHECKING:
    from planners.search import Search

MOST_RUN = 12
"""Candidates with techniques that are simulated, at most."""
PATIENCE = 6
"""After so many misses in a row those that are less likely to meet the SLO are left out."""
MOST_TIES = 4
"""Of those that can only tie with the best plan, on as many devices: so many are simulated for their latency."""
WAVE = 4
"""Runs between two looks at what can still win."""
SHORTEST_S = 1e-9
"""A run takes longer."""
OTHERS_AHEAD = f"not simulated: {MOST_RUN} candidates with techniques were ahead of it by their bounds"
NEARER_MISSED = f"not simulated: {PATIENCE} candidates that are nearer to the SLO by their bounds missed it"
"""Why a candidate that its bounds do not rule out was left out."""
UNKNOWN, FAMILY, OWN = range(3)
"""What an entry's bounds rest on: the arrivals alone, its family, itself."""


def plain_space(space: SearchSpace) -> SearchSpace:
    """Without the formats that are to be chosen: candidates with those come later."""
    if "quantization" not in space.searched:
        return space
    return replace(space, quantizations=space.quantizations[:1], kv_cache_dtypes=space.kv_cache_dtypes[:1])


def with_techniques(plain: Candidate, space: SearchSpace) -> list[Candidate]:
    """A plain candidate with every combination of what is searched, itself left out; drafts not in pipelines."""
    formats = [(plain.quantization, plain.kv_cache_dtype)]
    if "quantization" in space.searched:
        formats = [(name or "", kv) for name in space.quantizations for kv in space.kv_cache_dtypes]
    drafts = ["", *(space.drafts if plain.pp == 1 else ())]
    found = [
        replace(plain, quantization=name, kv_cache_dtype=kv, draft=draft, cache=cache)
        for name, kv in formats
        for cache in space.caches
        for draft in drafts
    ]
    return [candidate for candidate in found if candidate != plain]


_Node = tuple[float, float, float, int, "Entry | _Family"]
"""Order of the queue, then what stands there."""


@dataclass(slots=True, eq=False)
class _Family:
    """Candidates of one layout and format; ``base`` has neither drafts nor a way of sharing prefixes of its own."""

    base: Candidate
    members: list[Entry]
    bounds: Bounds
    level: int = UNKNOWN


class TechniqueSearch:
    """The waves of a search that are about techniques."""

    def __init__(self, search: Search) -> None:
        self.search, self.space = search, search.space
        self.freedom = Freedom(
            drafts=max((c.queries - 1 for c in self.space.drafts.values()), default=0),
            prefixes=any(cache not in ("", "off") for cache in self.space.caches),
        )
        plain = [entry.candidate for entry in search.entries]
        self.by_base: dict[Candidate, list[Entry]] = {}
        for candidate in (c for p in plain for c in with_techniques(p, self.space)):
            self.by_base.setdefault(family_of(candidate, self.space), []).append(Entry(candidate))
        self.entries = [entry for members in self.by_base.values() for entry in members]
        search.entries += self.entries
        self.order = {id(entry): number for number, entry in enumerate(self.entries)}
        self.queue: list[_Node] = []
        self.ties: list[Entry | _Family] = []
        """What can tie with the best plan so far, but not beat it."""
        self.runs = self.misses = 0
        """Candidates run, and those of the latest that missed the SLO, one after the other."""
        self.by_rate = False
        self.likely = 1.0
        """Below this strain no run has missed the SLO."""
        self.burst = _tokens_per_s(search.short) / _tokens_per_s(search.trace)

    # -- what can win ------------------------------------------------------------------------------------------------

    def find(self, by_rate: bool) -> None:
        """Simulate all that can beat the best plan; ``by_rate``: those of the highest capacity."""
        self.by_rate = by_rate
        unknown = anything(self.search.stats)
        queue = self.queue = [self._node(_Family(base, members, unknown)) for base, members in self.by_base.items()]
        heapify(queue)
        self._tour()
        self.runs = 0
        while queue:
            self._run(self._next_wave())

    def _tour(self) -> None:
        """Each choice once by itself on the best layout so far, where it can win there: bounds that are loose would try a few
        choices only."""
        leader = self.search.leader_entry()
        if leader is None or leader.candidate.has_techniques(self.space):
            return
        first = {member.candidate: member for members in self.by_base.values() for member in members}
        plain, drafts = leader.candidate, list(self.space.drafts)
        middles = {
            label.rpartition(" ")[0]: label for label in drafts if self.space.drafts[label].num_speculative_tokens <= 3
        }
        changed = [replace(plain, quantization=name or "") for name in self.space.quantizations]
        changed += [replace(plain, kv_cache_dtype=kind) for kind in self.space.kv_cache_dtypes]
        changed += [replace(plain, draft=label) for label in middles.values()]
        changed += [replace(plain, cache=cache) for cache in self.space.caches]
        tried = [first[candidate] for candidate in changed if candidate in first]
        best = leader.measured
        self._run([e for e in tried if self._bound_entry(e) and (self.by_rate or self._may_beat(e, best))])

    def _next_wave(self) -> list[Entry]:
        """The nearest candidates that can beat the best plan, one of each family; empty when none is left."""
        wave: list[Entry] = []
        later: list[_Node] = []
        families: set[Candidate] = set()
        best = None if self.by_rate else self.search.leader()
        while self.queue and len(wave) < WAVE:
            node = heappop(self.queue)
            item = node[-1]
            if not self._may_beat(item, best):
                self.ties.append(item)
            elif node != (fresh := self._node(item)):
                heappush(self.queue, fresh)  # what was run since has made it less likely
            elif self.runs + len(wave) >= MOST_RUN or (self.misses >= PATIENCE and node[0] > 0):
                self._leave(item, self._out_of_turn(node[0] > 0))
            elif isinstance(item, Entry) and family_of(item.candidate, self.space) in families:
                later.append(node)
            else:
                wave += self._open(item)
                families |= {family_of(entry.candidate, self.space) for entry in wave}
        for node in later:
            heappush(self.queue, node)
        return wave

    def _out_of_turn(self, unlikely: bool) -> str:
        if unlikely and self.misses >= PATIENCE:
            return NEARER_MISSED
        return OTHERS_AHEAD

    def _open(self, item: Entry | _Family) -> list[Entry]:
        """One step towards a run: bounds of a family, its members, bounds of a member. What is ready to be run."""
        if isinstance(item, Entry):
            return [item]
        if item.level == UNKNOWN:
            if self._bound_family(item):
                heappush(self.queue, self._node(item))
            return []
        for entry in item.members:
            if _is_open(entry) and self._bound_entry(entry):
                heappush(self.queue, self._node(entry))
        return []

    def _node(self, item: Entry | _Family) -> _Node:
        """Best first; those that are as good by their latency, then in order."""
        entry = item if isinstance(item, Entry) else item.members[0]
        bounds = item.bounds
        assert bounds is not None
        number = self.order[id(entry)]
        if self.by_rate:
            return 0.0, -bounds.capacity_per_s, bounds.mean_e2e_s, number, item
        rank = self.search.hopes.rank(self._stand_in(item))
        strain = self._strain(bounds)
        return (0.0, rank, strain, number, item) if strain < self.likely else (strain, rank, 0.0, number, item)

    def _strain(self, bounds: Bounds) -> float:
        """How far the SLO is from what the bounds, stretched by the load, make likely; above 1: a miss is. For the order of
        runs only."""
        slo = self.search.slo
        if slo is None:
            return 0.0
        free = max(1.0 - bounds.load * self.burst, 1e-3)
        pairs = ((bounds.p95_ttft_s, slo.ttft_s), (bounds.p95_tpot_s, slo.tpot_s), (bounds.mean_e2e_s, slo.e2e_s))
        return max((seconds / free / limit for seconds, limit in pairs if limit is not None), default=0.0)

    def _may_beat(self, item: Entry | _Family, best: Measured | None) -> bool:
        return self.search.hopes.can_beat(self._stand_in(item), best)

    def _stand_in(self, item: Entry | _Family) -> Entry:
        """An entry with the item's bounds."""
        return item if isinstance(item, Entry) else Entry(item.base, bounds=item.bounds)

    # -- bounds --------------------------------------------------------------------------------------------------------

    def _bound_family(self, family: _Family) -> bool:
        """Bounds of a family; False, and its members' fate, when it does not fit or cannot meet the SLO."""
        search = self.search
        family.level = FAMILY
        try:
            deployment = search.deployments.get(family.base) or build_any(
                search.model, search.cluster, self.space, family.base
            )
            check_built(deployment)
        except UserError as error:
            self._mark(family.members, "unfit", str(error))
            return False
        search.deployments[family.base] = deployment
        freedom = self.freedom if family.base.pp == 1 else replace(self.freedom, drafts=0)
        family.bounds = bound_any(deployment, search.stats, search.slo, freedom)
        reason = out_of_reach(family.bounds, search.slo, search.trace.request_rate_per_s)
        for entry in filter(_is_open, family.members):
            entry.bounds = family.bounds
        if reason:
            self._mark(family.members, "bounded", reason)
        return not reason

    def _bound_entry(self, entry: Entry) -> bool:
        """Bounds of a candidate itself; False when it does not fit or cannot meet the SLO."""
        search = self.search
        try:
            deployment = build_shared(search.model, search.cluster, self.space, entry.candidate, search.deployments)
            check_built(deployment)
        except UserError as error:
            self._mark([entry], "unfit", str(error))
            return False
        search.deployments[entry.candidate] = deployment
        entry.bounds = bound_any(deployment, search.stats, search.slo, FIXED)
        return not search.rule_out(entry)

    def _mark(self, entries: list[Entry], status: str, reason: str) -> None:
        for entry in filter(_is_open, entries):
            entry.status, entry.reason = status, reason  # type: ignore[assignment]

    def _leave(self, item: Entry | _Family, reason: str) -> None:
        """What is not simulated, and why."""
        members = [item] if isinstance(item, Entry) else item.members
        self._mark(members, "bounded", reason)

    # -- runs ----------------------------------------------------------------------------------------------------------

    def _run(self, wave: list[Entry]) -> None:
        """Screen a wave, and run its best in full when it is ahead of the best plan so far."""
        search = self.search
        if not wave:
            return
        self.runs += len(wave)
        search.screen(wave)
        for entry in wave:
            if search.hopeless(entry):
                assert entry.bounds is not None
                self.misses += 1
                self.likely = min(self.likely, self._strain(entry.bounds))
            else:
                self.misses = 0
        ahead = [e for e in wave if e.measured is None and not search.hopeless(e) and self._ahead(e)]
        search.full(sorted(ahead, key=lambda e: search.key(e.screen))[:1])

    def _ahead(self, entry: Entry) -> bool:
        """Better on the stretch than the best plan so far."""
        search, best = self.search, self.search.leader_entry()
        return best is None or best.screen is None or search.key(entry.screen) < search.key(best.screen)

    # -- what can tie ----------------------------------------------------------------------------------------------------

    def polish(self) -> None:
        """Of what ties with the best plan at most, on as many devices: what may be faster is run, a few at least."""
        search, left = self.search, list(self.ties)
        runs = 0
        while left:
            best = search.leader()
            left, out = self._split(left, best)
            for item in out:
                self._leave(item, search.hopes.no_better(self._stand_in(item), best) if best is not None else "")
            if best is None or not left:
                break
            left.sort(key=lambda item: (self._latency(item), self._node(item)[3]))
            if runs >= MOST_TIES:
                for item in left:
                    self._leave(
                        item, f"ties at best on as many GPUs; not simulated: {MOST_TIES} that may be faster were"
                    )
                break
            wave: list[Entry] = []
            while left and len(wave) < WAVE:
                item = left.pop(0)
                if isinstance(item, Entry):
                    wave.append(item)
                elif item.level == UNKNOWN:
                    left += [item] if self._bound_family(item) else []
                else:
                    left += [entry for entry in item.members if _is_open(entry) and self._bound_entry(entry)]
                left.sort(key=lambda item: (self._latency(item), self._node(item)[3]))
            runs += len(wave)
            self._run(wave)

    def _latency(self, item: Entry | _Family) -> float:
        assert item.bounds is not None
        return item.bounds.mean_e2e_s

    def _split(
        self, items: list[Entry | _Family], best: Measured | None
    ) -> tuple[list[Entry | _Family], list[Entry | _Family]]:
        """(those that may tie with the best plan and be faster, the others)."""
        if best is None:
            return items, []
        hopes, metrics = self.search.hopes, best.metrics
        may: list[Entry | _Family] = []
        out: list[Entry | _Family] = []
        for item in items:
            entry = self._stand_in(item)
            ties = ties_with(hopes.at_best(entry), metrics[hopes.field]) or hopes.can_beat(entry, best)
            faster = self._latency(item) * 1e3 < (1 - TIE) * metrics["mean_e2el_ms"]
            devices = entry.candidate.num_devices == metrics["num_gpus"]
            (may if ties and faster and devices else out).append(item)
        return may, out


def was_left_out(entry: Entry) -> bool:
    """Not run although its bounds did not rule it out: nobody knows how good it is."""
    return entry.status == "bounded" and entry.reason in (OTHERS_AHEAD, NEARER_MISSED)


def _is_open(entry: Entry) -> bool:
    """Neither run nor ruled out."""
    return entry.screen is None and entry.status == "screened"


def _tokens_per_s(trace: Trace) -> float:
    return float(trace.input_tokens.sum() + 4.0 * trace.output_tokens.sum()) / max(trace.duration_s, SHORTEST_S)


def anything(stats: WorkloadStats) -> Bounds:
    """What holds for every candidate: all requests are served, none before it arrives."""
    return replace(
        nothing_served(),
        capacity_per_s=math.inf,
        attainment=1.0,
        loaded_attainment=1.0,
        median_ttft_s=0.0,
        median_tpot_s=0.0,
        p95_ttft_s=0.0,
        p95_tpot_s=0.0,
        mean_e2e_s=0.0,
        duration_s=max(stats.duration_s, SHORTEST_S),
        served=stats.requests,
        output_tokens=int(stats.outputs.sum()),
    )
