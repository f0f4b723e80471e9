"""Memory of further copies of hot experts."""

from __future__ import annotations

import dataclasses
import math

from hardware_profiles.errors import UserError
from simulator.deployment import Deployment


def with_copies(deployment: Deployment, extra: float) -> Deployment:
    """KV memory without what ``extra`` more experts per device take; UserError when none is left."""
    if not extra:
        return deployment
    stages = deployment.step_model.stages
    per_expert = max(
        sum(
            n * x.weight_bytes / x.local_experts for layer, n in stage.layout.layers if (x := layer.experts) is not None
        )
        for stage in stages
    )
    memory = deployment.memory
    block_bytes = memory.kv_bytes_per_token * deployment.engine.block_size
    blocks = memory.num_blocks - math.ceil(extra * per_expert / block_bytes)
    if blocks < 1:
        raise UserError(
            f"copies of experts: {extra:g} more experts per device take {extra * per_expert / 1e9:.1f} GB, more than is left "
            f"for KV ({memory.num_blocks * block_bytes / 1e9:.1f} GB). Use fewer"
        )
    return dataclasses.replace(deployment, num_gpu_blocks_override=blocks, _cache={})
