"""From a deployment's settings of sharing to what the event loop needs."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hardware_profiles.errors import UserError
from simulator.batching import RESERVING
from simulator.physics.encoder_model import step_model_of
from simulator.physics.step_model import StepModel
from simulator.physics.tenants import Factors, slower_cluster
from simulator.sharing.changing import ChangingRates
from simulator.sharing.instance import INSTANCES
from simulator.sharing.phases import SplitPhysics
from simulator.sharing.split import FLAG as SPLIT_FLAG
from simulator.sharing.split import on_share
from simulator.sharing.tenants import FLAG

if TYPE_CHECKING:
    from simulator.deployment import Deployment
    from simulator.run import ReplicaSetup

PAIR_FLAG = "--pair-instances"


def refuse_sharing(settings: Mapping[str, Any]) -> None:
    """UserError for settings of sharing where layouts are searched: no bounds of physics are known for them."""
    for name in ("interference", "sm_split", "pair_instances"):
        if settings.get(name):
            raise UserError(
                f"--{name.replace('_', '-')} is not searched with: the bounds of plans do not hold for it; drop it, and "
                "simulate the plan with it"
            )


def check_sharing(deployment: Deployment) -> None:
    """UserError for settings of sharing that do not go together with others."""
    if deployment.sm_split is not None:
        _check_alone(deployment, SPLIT_FLAG)
    if deployment.pair_instances:
        if deployment.plan.dp % INSTANCES:
            raise UserError(f"{PAIR_FLAG}: --dp is {deployment.plan.dp}; instances come in pairs, use an even number")
        if deployment.plan.ep > deployment.plan.tp:
            raise UserError(
                f"{PAIR_FLAG}: experts across replicas (--ep {deployment.plan.ep}) tie their steps together; use --ep 1"
            )
        _check_alone(deployment, PAIR_FLAG)
    found = deployment.interference
    if found is None or not found.varying:
        return
    always = "give factors that are always there, or drop it"
    if deployment.plan.pp > 1:
        raise UserError(
            f"{FLAG} that comes and goes is not simulated for pipelines (--pp {deployment.plan.pp}); {always}"
        )
    if deployment.speculative is not None:
        raise UserError(f"{FLAG} that comes and goes does not go with --speculative-config; {always}")
    if any(tenant.host_link != 1 for tenant in found.varying) and not deployment.kv_offload.is_plain:
        raise UserError(f"{FLAG}: a host link that changes does not go with --kv-offloading-size; {always}")


def _check_alone(deployment: Deployment, flag: str) -> None:
    """UserError for what is not simulated with two lanes over one KV cache."""
    engine, interference, lora = deployment.engine, deployment.interference, deployment.plan.techniques.lora
    reasons = {
        f"--pp {deployment.plan.pp}": deployment.plan.pp > 1,
        "--speculative-config": deployment.speculative is not None,
        f"batching {engine.batching!r} of engine {engine.name}": engine.batching in RESERVING,
        "--preemption-mode swap": engine.preemption == "swap",
        "--kv-offloading-size": bool(deployment.kv_offload.host_bytes),
        "--cold-start": deployment.cold_start,
        "--lora-loading": lora is not None and lora.loading is not None,
        "--expert-cache": deployment.plan.techniques.expert_cache is not None,
        "--attention-device": deployment.plan.techniques.attention_device is not None,
        f"{deployment.model.name}, which has an encoder": deployment.model.encoder is not None,
        f"{deployment.model.name}, which answers in one pass": bool(deployment.model.pooling),
        "--autoscale or --mtbf": deployment.elasticity is not None,
        f"--interference that comes and goes ({FLAG})": interference is not None and bool(interference.varying),
        SPLIT_FLAG: flag == PAIR_FLAG and deployment.sm_split is not None,
        "--scheduling-policy": deployment.scheduling != "fcfs",
    }
    for what, given in reasons.items():
        if given:
            raise UserError(f"{flag} does not go with {what}; drop one of them")


def split_physics(deployment: Deployment) -> SplitPhysics | None:
    """Steps of either phase on a share of the devices; None where these are not divided."""
    split = deployment.sm_split
    if split is None:
        return None
    whole, device = deployment.step_model, deployment.cluster.device

    def model(share: float) -> StepModel:
        return step_model_of(
            deployment.model,
            on_share(deployment.cluster, split, share),
            deployment.plan,
            deployment.engine,
            moe_skew=deployment.moe_skew,
            expert_routing=deployment.expert_routing,
        )

    reached = max(whole.precision.linear.gemm.memory, whole.precision.decode_attention.memory)
    return SplitPhysics(
        split=split,
        model=model,
        nbytes=whole.hbm_bytes,
        bandwidth_bytes_per_s=whole.bandwidth_bytes_per_s * whole.num_devices * min(1.0, reached),
        most_w=None if device.tdp_w is None else device.tdp_w * whole.num_devices,
    )


def in_pairs(setup: ReplicaSetup, deployment: Deployment) -> tuple[ReplicaSetup, int]:
    """(replica, how many the event loop has): a pair of instances is one with two lanes.

    It has the blocks and places of one of them, which may have to decode for both.
    """
    plan = deployment.plan
    if not deployment.pair_instances:
        return setup, plan.dp
    from simulator.disaggregated import DisaggregatedDeployment

    one = dataclasses.replace(deployment, plan=dataclasses.replace(plan, dp=1), pair_instances=False, _cache={})
    path = DisaggregatedDeployment(prefill=one, decode=one, overlap=True).kv_path()
    return dataclasses.replace(setup, pair=path), plan.dp // INSTANCES


def rates_of(deployment: Deployment) -> ChangingRates | None:
    """Co-tenants that come and go, with the physics of a replica beside them."""
    tenants = () if deployment.interference is None else deployment.interference.varying
    if not tenants:
        return None

    def model(factors: Factors) -> StepModel:
        return step_model_of(
            deployment.model,
            slower_cluster(deployment.cluster, factors),
            deployment.plan,
            deployment.engine,
            moe_skew=deployment.moe_skew,
            expert_routing=deployment.expert_routing,
        )

    return ChangingRates(tenants=tenants, model=model)
