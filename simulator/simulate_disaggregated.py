"""simulate_disaggregated(): two pools meet a trace."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from simulator.adapters.setup import apart_by_adapter
from simulator.disaggregated import DisaggregatedDeployment
from simulator.elastic.pools import ElasticPools
from simulator.events.step_log import Watch
from simulator.result_disaggregated import DisaggregatedResult
from simulator.routing import RoutingPolicy, parse_routing
from simulator.run import Progress
from simulator.run_disaggregated import DisaggregatedRecord, run_disaggregated
from simulator.scheduling.setup import in_order
from simulator.speculative.setup import seeded
from workloads.slo import Slo
from workloads.trace import Trace

DECODE_STREAM = 1
"""Added to the seed for the router of the decode pool, so that both do not draw the same."""


def simulate_disaggregated(
    deployment: DisaggregatedDeployment,
    trace: Trace,
    *,
    slo: Slo | None = None,
    seed: int = 0,
    exact_steps: bool = False,
    progress: Progress | None = None,
    routers: tuple[RoutingPolicy, RoutingPolicy] | None = None,
    watch: Watch | None = None,
) -> DisaggregatedResult:
    """Run ``trace`` on both pools to the end; arguments as of :func:`simulator.simulate.simulate_deployment`.

    ``routers`` replace those the pools' deployments name: of arrivals, and of complete prompts.
    """
    first, second = (parse_routing(pool.routing)[1] for _, pool in deployment.pools)
    chosen = routers or (first(seed), second(seed + DECODE_STREAM))
    first_setup, second_setup = (
        in_order(seeded(setup, seed), pool.scheduling, pool.engine.batching, trace, seed)
        for setup, (_, pool) in zip(deployment.setups(), deployment.pools, strict=True)
    )
    if watch is not None:
        first_setup, second_setup = (replace(setup, watch=watch) for setup in (first_setup, second_setup))
    setups, path = (first_setup, second_setup), deployment.kv_path()
    counts = deployment.prefill.plan.dp, deployment.decode.plan.dp
    options: dict[str, Any] = {"exact_steps": exact_steps, "progress": progress}
    record: DisaggregatedRecord
    seen = apart_by_adapter(deployment.prefill, trace)
    if deployment.elasticity is None:
        record = run_disaggregated(seen, setups, counts, path, chosen, **options)
    else:
        pools = ElasticPools(seen, setups, counts, path, chosen, deployment.elasticity, seed=seed, **options)
        record = pools.run()
    return DisaggregatedResult(deployment=deployment, trace=trace, record=record, slo=slo, seed=seed)
