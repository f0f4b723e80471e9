"""A curve over users as text, JSON and CSV."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

from apex_sim.load_report import about, page_of
from apex_sim.text import milliseconds, number, share, table
from hardware_profiles.errors import UserError

if TYPE_CHECKING:
    from apex_sim.concurrency import ConcurrencyCurve

MOST = 1000
"""Concurrencies in one curve."""
EACH = 10
"""Requests that each user should send; benchmarks of serving send so many per user (InferenceMAX, from memory)."""
MEANS = ("output_throughput_per_user", "running", "waiting", "kv_usage", "max_num_seqs")
"""Columns of the curve's table that are not in the summary."""


def parse_concurrencies(text: str, flag: str = "--concurrencies") -> list[int]:
    """Users from ``1,2,4,8``, ``1:64`` (doubling), ``1:64:x4`` (times four) or ``8:64:8`` (with a step), low end included."""
    found: list[int] = []
    for part in text.split(","):
        low, *rest = part.split(":")
        at, high = _users(low, text, flag), _users(rest[0], text, flag) if rest else None
        if high is None:
            found.append(at)
            continue
        step = rest[1] if len(rest) == 2 else "x2"
        times = step.startswith("x")
        by = _users(step.removeprefix("x"), text, flag)
        if len(rest) > 2 or high <= at or (times and by < 2):
            raise _wrong(text, flag)
        while at <= high and len(found) <= MOST:
            found.append(at)
            at = at * by if times else at + by
    if len(found) > MOST:
        raise _wrong(text, flag)
    return sorted(set(found))


def _users(word: str, text: str, flag: str) -> int:
    if not (word.isascii() and word.isdigit() and len(word) < 10 and int(word) > 0):
        raise _wrong(text, flag)
    return int(word)


def _wrong(text: str, flag: str) -> UserError:
    return UserError(
        f"{flag} is {text!r}; give at most {MOST:,} whole numbers of users from 1, as 1,2,4,8 or 1:64:x2 (from, to, factor) or "
        "8:64:8 (from, to, step)"
    )


def concurrency_text(curve: ConcurrencyCurve) -> str:
    """The curve in a screenful: a row per number of users, the knee, what keeps the SLO, what runs out."""
    first = next(iter(curve.results.values()))
    goal, priced = first.slo, bool(curve.table["usd_per_million_output_tokens"].notna().all())
    header = ["users", "served/s", "TTFT p50", "p95", "TPOT p50", "p95", "out tok/s", "per GPU", "per user"]
    header += (["in SLO"] if goal is not None else []) + ["running", "waiting", "KV"] + (["$/1M out"] if priced else [])
    rows = []
    for users, m in zip(curve.table.index, curve.table.to_dict("records"), strict=True):
        row = [f"{users:,}", number(m["request_throughput"])]
        row += [milliseconds(m[f"{which}_{name}_ms"]) for name in ("ttft", "tpot") for which in ("median", "p95")]
        row += [number(m[f"output_throughput{of}"]) for of in ("", "_per_gpu", "_per_user")]
        row += [share(m["slo_attainment"])] if goal is not None else []
        row += [number(m["running"]), number(m["waiting"]), share(m["kv_usage"])]
        rows.append(row + ([number(m["usd_per_million_output_tokens"])] if priced else []))
    load = f"in closed loops of {users_words(curve)}"
    return page_of(first, load, table(header, rows, left=0), findings(curve))


def users_words(curve: ConcurrencyCurve) -> str:
    """How many users there are."""
    users = list(curve.results)
    return _of(users[0]) if len(users) == 1 else f"{users[0]:,} to {_of(users[-1])}"


def _of(users: int) -> str:
    return "1 user" if users == 1 else f"{users:,} users"


def findings(curve: ConcurrencyCurve) -> list[tuple[str, str]]:
    """What the curve says: (label, words)."""
    users, knee = list(curve.results), curve.knee
    words = f"{_of(knee)}: of those tried, throughput over mean E2E is highest there"
    if len(users) == 1:
        words = "one concurrency has none; give several"
    elif knee == users[-1]:
        words = f"not reached with {_of(knee)}: throughput over mean E2E still rises; try more users"
    elif knee == users[0]:
        words = f"{_of(knee)}{'' if knee == 1 else ' or fewer'}: throughput over mean E2E only falls"
    found = [("most", _most(curve)), ("knee", words)]
    goal = next(iter(curve.results.values())).slo
    if goal is not None and curve.slo_concurrency is None:
        found.append(("SLO", f"{goal}: kept with no number of users tried"))
    elif goal is not None:
        more = "the most tried" if curve.slo_concurrency == users[-1] else "of those tried, with all below"
        found.append(("SLO", f"{goal}: kept up to {_of(curve.slo_concurrency or 0)}, {more}"))
    reached = "" if curve.limit.reached else "not reached: "
    found.append(("limit", f"{reached}with {_of(users[-1])} {curve.limit.why}"))
    return [*found, *_short(curve)]


def _most(curve: ConcurrencyCurve) -> str:
    """The ends of the trade-off."""
    gpu, user = curve.table["output_throughput_per_gpu"], curve.table["output_throughput_per_user"]
    best = int(gpu.idxmax())
    words = f"{number(float(gpu.max()))} output tok/s per GPU with {_of(best)}"
    if math.isfinite(seen := float(user.loc[best])):
        fastest = int(user.idxmax())
        sees = "who sees" if best == 1 else "each of whom sees"
        words += f", {sees} {number(seen)} tok/s"
        words += f"; with {_of(fastest)} {number(float(user.max()))} tok/s" if fastest != best else ""
    return words


def _short(curve: ConcurrencyCurve) -> list[tuple[str, str]]:
    """That users send too few requests each for their number to count."""
    most, requests = max(curve.results), len(next(iter(curve.results.values())).trace)
    if requests >= EACH * most:
        return []
    words = f"with {_of(most)} each sends {number(requests / most)} requests: the start and the end of the run count; "
    return [("note", f"{words}{EACH * most:,} requests show the steady state")]


def concurrency_dict(curve: ConcurrencyCurve) -> dict[str, Any]:
    """Everything, for machines; ``concurrencies`` has the summary of each run and means over the time in which users send."""
    import dataclasses

    return {
        **about(next(iter(curve.results.values()))),
        "knee_concurrency": curve.knee,
        "slo_concurrency": curve.slo_concurrency,
        "limit": dataclasses.asdict(curve.limit),
        "concurrencies": [
            {"concurrency": users, **result.summary, **{n: _plain(curve.table[n].loc[users].item()) for n in MEANS}}
            for users, result in curve.results.items()
        ],
    }


def _plain(value: float) -> float | None:
    """JSON has no NaN: a user of one-token answers sees no rate."""
    return value if math.isfinite(value) else None
