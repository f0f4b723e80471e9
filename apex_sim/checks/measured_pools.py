"""Predictions of a benchmark's load on two pools, one of prefill and one of decode."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware_profiles.errors import UserError

if TYPE_CHECKING:
    from simulator.disaggregated import DisaggregatedDeployment
    from simulator.validation.replay import Prediction
    from simulator.validation.run import MeasuredRun

SEEDS = 3
"""Replays of a load of which only distributions are known, as for one pool."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolsOn:
    """The pools of a measured deployment."""

    pools: Mapping[str, Any]
    """As ``simulator.build_disaggregated.parse_pools`` returns them."""
    kv_link: str | None = None
    kv_overlap: bool = False


def pools_on(disaggregate: Any, kv_link: str | None, kv_overlap: bool) -> PoolsOn | None:
    """The pools that a user states; None for none. UserError for a link without pools."""
    from simulator.build_disaggregated import parse_pools

    if disaggregate is None:
        if kv_link is not None or kv_overlap:
            raise UserError("kv_link and kv_overlap have no meaning without two pools; give disaggregate")
        return None
    if isinstance(disaggregate, Mapping):
        pools: Mapping[str, Any] = disaggregate
    else:
        pools = parse_pools(disaggregate.split() if isinstance(disaggregate, str) else list(disaggregate))
    return PoolsOn(pools=pools, kv_link=kv_link, kv_overlap=kv_overlap)


def predict_pools(
    runs: Sequence[MeasuredRun], on: PoolsOn, progress: Callable[[int, int], None] | None = None
) -> list[Prediction]:
    """One prediction per run, in their order. Raises UserError for pools that cannot be built or a load they cannot serve."""
    found = []
    for index, run in enumerate(runs):
        per_gpu = [name for name in run.measured if name.endswith("_per_gpu")]
        if per_gpu:
            raise UserError(
                f"{run.place}: {per_gpu[0]} is per device of one deployment, and two pools count theirs apart; remove it "
                "from the file"
            )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(_predicted(run, on))
        if progress is not None:
            progress(index + 1, len(runs))
    return found


def _predicted(run: MeasuredRun, on: PoolsOn) -> Prediction:
    from simulator.build_disaggregated import build_disaggregated
    from simulator.validation.replay import LONG, Prediction, engine_name
    from simulator.validation.traffic import is_random

    settings: dict[str, Any] = dict(run.settings)
    pair = build_disaggregated(
        run.model,
        run.cluster,
        on.pools,
        engine=engine_name(run),
        kv_link=on.kv_link,
        kv_overlap=on.kv_overlap,
        **settings,
    )
    several = is_random(run.workload) and (run.workload.num_requests or 0) < LONG
    values = [_metrics(run, pair, seed) for seed in range(SEEDS if several else 1)]
    return Prediction(run=run, metrics={name: float(np.mean([v[name] for v in values])) for name in run.measured})


def _metrics(run: MeasuredRun, pair: DisaggregatedDeployment, seed: int) -> dict[str, float]:
    from apex_sim.api import check_pools_served
    from simulator.simulate_disaggregated import simulate_disaggregated
    from simulator.validation.metrics import View, predicted
    from simulator.validation.traffic import traffic_of

    traffic = traffic_of(run.workload, seed=seed, block_tokens=pair.prefill.engine.block_size)
    check_pools_served(pair, traffic.trace)
    result = simulate_disaggregated(pair, traffic.trace, seed=seed)
    view = View(run=run, result=result, weights=traffic.weights(run.window), own_kv_blocks=0)
    values = {name: predicted(name, view) for name in run.measured}
    missing = [name for name, value in values.items() if not np.isfinite(value)]
    if missing:
        raise UserError(f"{run.place}: the simulation has no {missing[0]} for this run")
    return values
