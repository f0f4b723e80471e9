"""Lines of the plan about techniques that were searched: what each choice led to, and what the plan rests on."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from planners.outcome import OBJECTIVES, Entry, PlanResult
from planners.reasons import figure
from planners.space import Candidate
from planners.technique_search import was_left_out

ORDER = {"best": 0, "pareto": 1, "met": 2, "missed": 3, "screened": 4, "bounded": 5, "unfit": 6}
"""How far candidates got."""
LONGEST = 110
"""Characters of a reason that are printed; JSON and CSV have all."""


def technique_settings(candidate: Candidate) -> list[str]:
    """Drafts and ways of sharing prefixes of a candidate, as the tables have them."""
    parts = [f"draft={candidate.draft.replace(' ', ':')}"] if candidate.draft else []
    return [*parts, f"prefix-cache={candidate.cache}"] if candidate.cache else parts


def technique_lines(result: PlanResult) -> list[str]:
    """The best plan with each choice, and the assumptions; nothing when no technique was searched."""
    lines = []
    choices = list(_choices(result))
    if choices:
        lines += ["", "best with each choice:"]
        lines += [f"  {words}: {_fate(result, has)}" for words, has in choices]
    if result.space.assumptions:
        lines += ["", "what the choices rest on:", *(f"  {line}" for line in result.space.assumptions)]
    return lines


def _choices(result: PlanResult) -> Iterator[tuple[str, Callable[[Candidate], bool]]]:
    """(name, whether a candidate has it) of everything that could be chosen."""
    space = result.space
    if "quantization" in space.searched:
        for name in space.quantizations:
            yield name or "weights as stored", lambda c, name=name: c.quantization == (name or "")  # type: ignore[misc]
        for kind in space.kv_cache_dtypes if len(space.kv_cache_dtypes) > 1 else ():
            yield f"KV {kind}", lambda c, kind=kind: c.kv_cache_dtype == kind  # type: ignore[misc]
    if "speculative" in space.searched:
        yield "no drafts", lambda c: not c.draft
        for drafter in dict.fromkeys(label.rpartition(" ")[0] for label in space.drafts):
            yield f"drafts of {drafter}", lambda c, drafter=drafter: c.draft.rpartition(" ")[0] == drafter  # type: ignore[misc]
    for cache in space.caches if len(space.caches) > 1 else ():
        yield f"prefix-cache {cache}", lambda c, cache=cache: c.cache == cache  # type: ignore[misc]


def _fate(result: PlanResult, has: Callable[[Candidate], bool]) -> str:
    """The nearest to winning of those that have a choice."""
    having = [e for e in result.entries if has(e.candidate)]
    entry = min(having, key=lambda e: _rank(result, e))
    left_out = sum(map(was_left_out, having))
    name, _, unit = OBJECTIVES[result.objective]
    words = " ".join([entry.candidate.layout, *_formats(entry.candidate), *technique_settings(entry.candidate)])
    if entry.status in ("best", "pareto", "met") and entry.measured is not None:
        others = f"; {left_out} more that may be better were not simulated" if left_out else ""
        return f"{words}, {figure(entry.measured.metrics[name])} {unit}" + (
            ", the plan" if entry is result.best else others
        )
    reason = entry.reason if len(entry.reason) <= LONGEST else entry.reason[: LONGEST - 4].rstrip() + " ..."
    return f"{words}: {reason}"


def _formats(candidate: Candidate) -> list[str]:
    return [candidate.quantization] * bool(candidate.quantization) + (
        [f"kv-{candidate.kv_cache_dtype}"] if candidate.kv_cache_dtype != "auto" else []
    )


def _rank(result: PlanResult, entry: Entry) -> tuple[float, float]:
    name, larger, _ = OBJECTIVES[result.objective]
    known = entry.best_known
    value = None if known is None else known.metrics[name]
    if value is None or value != value:
        return ORDER[entry.status], 0.0
    return ORDER[entry.status] if entry.status not in ("pareto", "met") else 1, -value if larger else value
