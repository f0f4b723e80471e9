"""What a deployment is, with every default filled in, as plain values: for files of configuration and reports."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator.deployment import Deployment


def deployment_config(deployment: Deployment) -> dict[str, Any]:
    """Model, cluster, terms, parallel degrees, engine and what follows from them."""
    from simulator.techniques import plan_values

    elasticity, speculative = deployment.elasticity, deployment.speculative
    return {
        "model": deployment.model.name,
        "cluster": deployment.cluster.name,
        "terms": dataclasses.asdict(deployment.cluster.terms),
        "elasticity": None if elasticity is None else dataclasses.asdict(elasticity),
        "site": dataclasses.asdict(deployment.cluster.site),
        "parallel": plan_values(deployment.plan),
        "engine": dataclasses.asdict(deployment.engine),
        "max_model_len": deployment.effective_max_model_len,
        "num_gpu_blocks": deployment.memory.num_blocks,
        "routing": deployment.routing,
        "speculative": None if speculative is None else dataclasses.asdict(speculative),
    }


def any_config(deployment: Any) -> dict[str, Any]:
    """Of one pool, or of two with their link."""
    if not hasattr(deployment, "pools"):
        return deployment_config(deployment)
    pools = {name: deployment_config(pool) for name, pool in deployment.pools}
    return {"kv_link": dataclasses.asdict(deployment.kv_link()), "kv_overlap": deployment.overlap, **pools}
