"""simulate_deployment(): a deployment meets a trace."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

from simulator.adapters.setup import apart_by_adapter, for_rows, with_adapters_of
from simulator.architecture import check_inputs, in_one_pass
from simulator.batching import BatchingPolicy
from simulator.deployment import Deployment
from simulator.elastic.run import ElasticSimulation
from simulator.events.step_log import Watch
from simulator.result import SimulationResult
from simulator.routing import RoutingPolicy, parse_routing
from simulator.run import Progress, RunRecord, run
from simulator.scheduling.setup import in_order
from simulator.sharing.setup import in_pairs
from simulator.speculative.setup import seeded
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
    batching: Callable[[], BatchingPolicy] | None = None,
    router: RoutingPolicy | None = None,
    watch: Watch | None = None,
) -> SimulationResult:
    """Run ``trace`` on ``deployment`` to the end.

    ``exact_steps`` takes one engine step per event instead of jumping over spans of equal ones: same result, slower.
    ``batching`` (called once per replica) and ``router`` replace the policies the deployment names; see docs/policies.md.
    ``watch`` keeps every step, for :func:`simulator.events.chrome.trace_of`.
    Deterministic: the seed feeds random routing and accepted drafts only. Raises UserError when the model does not fit.
    """
    trace = in_one_pass(deployment.model, trace)
    check_inputs(deployment.model, trace)
    deployment, trace = with_adapters_of(deployment, trace, seed)
    setup = for_rows(seeded(deployment.replica_setup(), seed), trace)
    if batching is not None:
        setup = dataclasses.replace(setup, batching=batching)
    setup = in_order(setup, deployment.scheduling, deployment.engine.batching, trace, seed)
    routing = router or parse_routing(deployment.routing)[1](seed)
    setup, replicas = in_pairs(setup, deployment)
    if watch is not None:
        setup = dataclasses.replace(setup, watch=watch)
    options: dict[str, Any] = {"exact_steps": exact_steps, "progress": progress}
    record: RunRecord
    seen = apart_by_adapter(deployment, trace)
    if deployment.elasticity is None:
        record = run(seen, setup, replicas, routing, **options)
    else:
        record = ElasticSimulation(seen, setup, replicas, routing, deployment.elasticity, seed=seed, **options).run()
    return SimulationResult(deployment=deployment, trace=trace, record=record, slo=slo, seed=seed)
