"""Families of candidates with techniques: what belongs to one, and what its bounds rule out.

Candidates that differ only in drafts and in how they share prefixes are a family. Its bounds hold for all of it
(:class:`planners.draft_bounds.Freedom`), so a family that cannot win is dropped as one.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from hardware_profiles.errors import UserError
from planners.draft_bounds import FIXED, Freedom
from planners.limits import Bounds
from planners.outcome import Entry, Status
from planners.pools import bound_any, build_any, build_shared, check_built, family_of
from planners.reasons import out_of_reach
from planners.space import Candidate, SearchSpace

if TYPE_CHECKING:
    from planners.search import Search


@dataclass(slots=True, eq=False)
class Family:
    """Candidates of one layout and format; ``base`` has neither drafts nor a way of sharing prefixes of its own."""

    base: Candidate
    members: list[Entry]
    bounds: Bounds
    is_bounded: bool = False
    """``bounds`` are its own, not those of the arrivals alone."""


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


def families_of(plain: Iterable[Candidate], space: SearchSpace) -> dict[Candidate, list[Entry]]:
    """Base of a family -> its members, of all that plain candidates become with techniques."""
    found: dict[Candidate, list[Entry]] = {}
    for candidate in (c for p in plain for c in with_techniques(p, space)):
        found.setdefault(family_of(candidate, space), []).append(Entry(candidate))
    return found


def is_open(entry: Entry) -> bool:
    """Neither run nor ruled out."""
    return entry.screen is None and entry.status == "screened"


class Bounding:
    """Bounds of families and of candidates, worked out once, and the fate of those that they rule out."""

    def __init__(self, search: Search) -> None:
        self.search, self.space = search, search.space
        self.freedom = Freedom(
            drafts=max((c.queries - 1 for c in self.space.drafts.values()), default=0),
            prefixes=any(cache not in ("", "off") for cache in self.space.caches),
        )

    def family(self, family: Family) -> bool:
        """Bounds of a family; False, and its members' fate, when it does not fit or cannot meet the SLO."""
        search = self.search
        family.is_bounded = True
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
        for entry in filter(is_open, family.members):
            entry.bounds = family.bounds
        if reason:
            self._mark(family.members, "bounded", reason)
        return not reason

    def entry(self, entry: Entry) -> bool:
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

    def _mark(self, entries: list[Entry], status: Status, reason: str) -> None:
        for entry in filter(is_open, entries):
            entry.status, entry.reason = status, reason

    def leave(self, item: Entry | Family, reason: str) -> None:
        """What is not simulated, and why."""
        members = [item] if isinstance(item, Entry) else item.members
        self._mark(members, "bounded", reason)
