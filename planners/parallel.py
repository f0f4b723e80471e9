"""The parallel plan: enumerate, drop what does not fit, bound the rest by physics, simulate what can win, explain it all."""

from __future__ import annotations

from collections.abc import Callable

from hardware_profiles.errors import UserError, unknown_name
from hardware_profiles.schema import Cluster
from hardware_profiles.terms import usd_per_device_hour
from planners.outcome import OBJECTIVES, Entry, Objective, PlanResult
from planners.search import Search
from planners.space import SearchSpace
from planners.stretch import busiest_stretch
from simulator.accounting.rates import power_known
from simulator.architecture import check_inputs, in_one_pass, served_as
from workloads.model import ModelSpec
from workloads.slo import Slo
from workloads.trace import Trace

__all__ = ["OBJECTIVES", "Entry", "Objective", "PlanResult", "busiest_stretch", "plan_parallel"]


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
    model = served_as(model, space.settings.get("runner"))
    trace = in_one_pass(model, trace)
    check_inputs(model, trace)
    search = Search(model, cluster, trace, slo, space, objective, top, jobs, seed, progress)
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
