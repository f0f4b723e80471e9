"""From a deployment's settings of sharing to what the event loop needs."""

from __future__ import annotations

from typing import TYPE_CHECKING

from hardware_profiles.errors import UserError
from simulator.physics.encoder_model import step_model_of
from simulator.physics.step_model import StepModel
from simulator.physics.tenants import Factors, slower_cluster
from simulator.sharing.changing import ChangingRates
from simulator.sharing.tenants import FLAG

if TYPE_CHECKING:
    from simulator.deployment import Deployment


def check_sharing(deployment: Deployment) -> None:
    """UserError for settings of sharing that do not go together with others."""
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
