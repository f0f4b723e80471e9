"""Techniques in the search: candidates beside the plain layouts, best first by their bounds, few of them simulated.

A family (:mod:`planners.technique_families`) that cannot win is dropped as one; what is left is bounded one by one, and
simulated while it can beat the best plan so far.
"""

from __future__ import annotations

from dataclasses import replace
from heapq import heapify, heappop, heappush
from typing import TYPE_CHECKING

from planners.limits import SHORTEST_S, Bounds, anything
from planners.outcome import Entry
from planners.pool import Measured
from planners.pools import family_of
from planners.space import Candidate
from planners.technique_families import Bounding, Family, families_of, is_open
from workloads.trace import Trace

if TYPE_CHECKING:
    from planners.search import Search

MOST_RUN = 12
"""Candidates with techniques that are simulated, at most."""
PATIENCE = 6
"""After so many misses in a row those that are less likely to meet the SLO are left out."""
WAVE = 4
"""Runs between two looks at what can still win."""
OTHERS_AHEAD = f"not simulated: {MOST_RUN} candidates with techniques were ahead of it by their bounds"
NEARER_MISSED = f"not simulated: {PATIENCE} candidates that are nearer to the SLO by their bounds missed it"
"""Why a candidate that its bounds do not rule out was left out."""
_Node = tuple[float, float, float, int, "Entry | Family"]
"""Order of the queue, then what stands there."""


class TechniqueSearch:
    """The waves of a search that are about techniques."""

    def __init__(self, search: Search) -> None:
        self.search, self.space = search, search.space
        self.bounding = Bounding(search)
        plain = [entry.candidate for entry in search.entries]
        self.by_base = families_of(plain, self.space)
        self.entries = [entry for members in self.by_base.values() for entry in members]
        search.entries += self.entries
        self.order = {id(entry): number for number, entry in enumerate(self.entries)}
        self.queue: list[_Node] = []
        self.ties: list[Entry | Family] = []
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
        queue = self.queue = [self._node(Family(base, members, unknown)) for base, members in self.by_base.items()]
        heapify(queue)
        self._tour()
        self.runs = 0
        while queue:
            self.run(self._next_wave())

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
        self.run([e for e in tried if self.bounding.entry(e) and (self.by_rate or self._may_beat(e, best))])

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
                self.bounding.leave(item, self._out_of_turn(node[0] > 0))
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

    def _open(self, item: Entry | Family) -> list[Entry]:
        """One step towards a run: bounds of a family, its members, bounds of a member. What is ready to be run."""
        if isinstance(item, Entry):
            return [item]
        if not item.is_bounded:
            if self.bounding.family(item):
                heappush(self.queue, self._node(item))
            return []
        for entry in item.members:
            if is_open(entry) and self.bounding.entry(entry):
                heappush(self.queue, self._node(entry))
        return []

    def _node(self, item: Entry | Family) -> _Node:
        """Best first; those that are as good by their latency, then in order."""
        bounds, number = item.bounds, self.number(item)
        assert bounds is not None
        if self.by_rate:
            return 0.0, -bounds.capacity_per_s, bounds.mean_e2e_s, number, item
        rank = self.search.hopes.rank(self.stand_in(item))
        strain = self._strain(bounds)
        return (0.0, rank, strain, number, item) if strain < self.likely else (strain, rank, 0.0, number, item)

    def number(self, item: Entry | Family) -> int:
        """Its place among all, a family's that of its first member."""
        return self.order[id(item if isinstance(item, Entry) else item.members[0])]

    def _strain(self, bounds: Bounds) -> float:
        """How far the SLO is from what the bounds, stretched by the load, make likely; above 1: a miss is. For the order of
        runs only."""
        slo = self.search.slo
        if slo is None:
            return 0.0
        free = max(1.0 - bounds.load * self.burst, 1e-3)
        pairs = ((bounds.p95_ttft_s, slo.ttft_s), (bounds.p95_tpot_s, slo.tpot_s), (bounds.mean_e2e_s, slo.e2e_s))
        return max((seconds / free / limit for seconds, limit in pairs if limit is not None), default=0.0)

    def _may_beat(self, item: Entry | Family, best: Measured | None) -> bool:
        return self.search.hopes.can_beat(self.stand_in(item), best)

    def stand_in(self, item: Entry | Family) -> Entry:
        """An entry with the item's bounds."""
        return item if isinstance(item, Entry) else Entry(item.base, bounds=item.bounds)

    # -- runs ----------------------------------------------------------------------------------------------------------

    def run(self, wave: list[Entry]) -> None:
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


def was_left_out(entry: Entry) -> bool:
    """Not run although its bounds did not rule it out: nobody knows how good it is."""
    return entry.status == "bounded" and entry.reason in (OTHERS_AHEAD, NEARER_MISSED)


def _tokens_per_s(trace: Trace) -> float:
    return float(trace.input_tokens.sum() + 4.0 * trace.output_tokens.sum()) / max(trace.duration_s, SHORTEST_S)
