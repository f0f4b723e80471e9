"""What ``apex-sim gpus`` answers when no fleet serves the workload: throughputs, and what the nearest types lack."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from apex_sim.text import number, share, table
from hardware_profiles.errors import UserError
from planners.fleet.bounds import single_type
from planners.fleet.problem import FleetProblem
from planners.fleet.shortage import Lack, Shortage

if TYPE_CHECKING:
    from apex_sim.html.provenance import Simulated

SHOWN = 8
"""Sizes whose lacks are in the text; the JSON and the report have all."""
REFUSED = "no fleet serves the workload, so there is nothing to start; relax the SLO, add a type, or raise a limit"


class NoFleet(UserError):
    """No fleet serves the workload. ``data``: all that was found, as the JSON of the command."""

    def __init__(self, message: str, data: dict[str, Any], simulated: Simulated | None = None) -> None:
        super().__init__(message)
        self.data = data
        self.simulated = simulated

    def __reduce__(self) -> tuple[type[NoFleet], tuple[str, dict[str, Any]]]:
        return type(self), (str(self), self.data)


def no_fleet(
    problem: FleetProblem,
    error: Shortage,
    lacks: Sequence[Lack] = (),
    slo: str | None = None,
    simulated: Simulated | None = None,
) -> NoFleet:
    """The exception that has the throughputs, which sizes nothing serves, and what the types lack."""
    names = [kind.name for kind in problem.types]
    unserved = [problem.sizes[b].name for b in problem.unserved]
    total = float(problem.rates_per_s.sum())
    sizes = [
        {
            "size": size.name,
            "rate_per_s": size.rate_per_s,
            "max_tput_per_s": dict(zip(names, problem.max_tput_per_s[b].tolist(), strict=True)),
            "served": b not in problem.unserved,
        }
        for b, size in enumerate(problem.sizes)
        if size.rate_per_s > 0
    ]
    types = [
        {
            "name": kind.name,
            "usd_per_hour_each": kind.usd_per_hour,
            "limit": kind.limit,
            "requests_served": float(problem.rates_per_s[problem.max_tput_per_s[:, j] > 0].sum()) / total,
            "alone_count": alone,
        }
        for j, (kind, alone) in enumerate(zip(problem.types, single_type(problem), strict=True))
    ]
    data = {
        **({} if slo is None else {"slo": slo}),
        "meets_slo": False,
        "why": str(error),
        "rate_per_s": total,
        "types": types,
        "sizes": sizes,
        "unserved": unserved,
        "lacks": [_plain(lack) for lack in lacks],
        "export": {"refused": REFUSED},
    }
    return NoFleet(str(error), data, simulated)


def _plain(lack: Lack) -> dict[str, Any]:
    """JSON has no infinity: what is not served at all has no multiple of its limit."""
    found = dataclasses.asdict(lack)
    return found | {"excess": None if math.isinf(lack.excess) else lack.excess}


def shortage_text(data: dict[str, Any]) -> str:
    """For a terminal."""
    within = f" within {data['slo']}" if "slo" in data else ""
    lines = [f"No fleet serves {number(data['rate_per_s'])} requests/s{within}", "", "requests/s of one instance:"]
    lines.append(table(["size (tokens)", "req/s", *(t["name"] for t in data["types"])], tput_rows(data)))
    lines += ["", *(type_line(t) for t in data["types"]), *_lacking(data)]
    return "\n".join(lines)


def _lacking(data: dict[str, Any]) -> list[str]:
    """What types lack that hold the model, by size; once for all sizes those that do not."""
    unfit = {lack["type"]: lack["words"] for lack in data["lacks"] if lack["why"] == "memory"}
    lines = [f"  {name} {words}" for name, words in unfit.items()]
    sizes = [size for size in data["unserved"] if len(unfit) < len(data["types"]) and data["lacks"]]
    for size in sizes[:SHOWN]:
        mine = [lack for lack in data["lacks"] if lack["size"] == size and lack["why"] != "memory"]
        lines += [f"  {size}", *(f"    {lack['type']} {lack['words']}" for lack in mine)]
    if len(sizes) > SHOWN:
        lines.append(f"  and {len(sizes) - SHOWN} more sizes: --json and --report have all")
    return ["", "what the types lack, the nearest first:", *lines] if lines else []


def tput_rows(data: dict[str, Any]) -> list[list[str]]:
    """A row per size: its rate, and what one instance of each type serves."""
    return [
        [s["size"], number(s["rate_per_s"]), *(number(v) if v else "cannot" for v in s["max_tput_per_s"].values())]
        for s in data["sizes"]
    ]


def type_line(kind: dict[str, Any]) -> str:
    """How much of the workload a type can serve at all."""
    limit = "" if kind["limit"] is None else f", at most {kind['limit']} to be had"
    return f"{kind['name']}: serves sizes of {share(kind['requests_served'])} of the requests{limit}"
