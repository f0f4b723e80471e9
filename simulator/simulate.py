"""simulate(): a deployment meets a trace."""

from __future__ import annotations

from simulator.deployment import Deployment
from simulator.result import SimulationResult
from simulator.routing import ROUTING
from simulator.run import Progress, run
from workloads.slo import Slo
from workloads.trace import Trace


def simulate_deployment(
    deployment: Deployment,
    trace: Trace,
    *,
    slo: Slo | None = None,
    seed: int = 0,
    exact_steps: bool = False,
    progress: Progress | None = None,
) -> SimulationResult:
    """Run ``trace`` on ``deployment`` to the end.

    ``exact_steps`` takes one engine step per event instead of jumping over spans of equal ones: same result, slower.
    Deterministic: the seed feeds random routing only. Raises UserError when the model does not fit.
    """
    record = run(
        trace,
        deployment.replica_setup(),
        deployment.plan.dp,
        ROUTING[deployment.routing](seed),
        exact_steps=exact_steps,
        progress=progress,
    )
    return SimulationResult(deployment=deployment, trace=trace, record=record, slo=slo, seed=seed)
