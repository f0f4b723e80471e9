"""A mix of GPU types as what starts it: a set of servers for each type, and where requests of which size go."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hardware_profiles.errors import UserError

if TYPE_CHECKING:
    from planners.export.bundle import Export
    from planners.fleet.instance import Candidate, Serving
    from planners.fleet.simulated import Round
    from workloads.slo import Slo


def export_of_fleet(serving: Serving, candidates: Sequence[Candidate], last: Round, slo: Slo, seed: int) -> Export:
    """All types with instances. Raises UserError where no server does what was planned, or nothing is to be rented."""
    from planners.export.make import export_of_mix

    rented = [j for j, count in enumerate(last.fleet.counts) if count]
    if not rented:
        raise UserError("--export: the fleet is empty; give a workload with requests")
    results = last.checked.results
    deployments = {
        candidates[j].kind.name: (
            serving.deployment(candidates[j], last.fleet.counts[j]),
            None if (result := results[j]) is None else result.trace,
        )
        for j in rented
    }
    planned = {"usd_per_hour": last.fleet.usd_per_hour, "attainment": last.checked.attainment}
    return export_of_mix(deployments, slo, seed, planned, _routes(last))


def _routes(last: Round) -> list[dict[str, Any]]:
    """Per size with requests the share of each type."""
    from planners.fleet.problem import size_shares

    problem = last.problem
    return [
        {
            "size": size.name,
            "shares": size_shares(problem, last.fleet, b),
        }
        for b, size in enumerate(problem.sizes)
        if size.rate_per_s > 0
    ]


def export_values(
    serving: Serving, candidates: Sequence[Candidate], last: Round, slo: Slo, seed: int
) -> dict[str, Any]:
    """``export`` of the JSON; where nothing can be started, why."""
    from planners.export.bundle import to_json_values

    try:
        return {"export": to_json_values(export_of_fleet(serving, candidates, last, slo, seed))}
    except UserError as error:
        return {"export": {"refused": str(error).removeprefix("--export: ")}}
