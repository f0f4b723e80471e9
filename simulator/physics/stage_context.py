"""What the stages of a model have in common: device, formats, plan, links, and what the engine does."""

from __future__ import annotations

from dataclasses import dataclass

from hardware_profiles.schema import DeviceProfile, Efficiency
from simulator.physics.collectives import Interconnect
from simulator.physics.layout import Layout
from simulator.physics.moe import ExpertRouting
from simulator.physics.offload import OffloadPath
from simulator.physics.precision import Precision
from simulator.plan import ParallelPlan


@dataclass(frozen=True, slots=True, kw_only=True)
class StageContext:
    """What all stages of a model share."""

    device: DeviceProfile
    efficiency: Efficiency
    precision: Precision
    plan: ParallelPlan
    layout: Layout
    interconnect: Interconnect
    moe_skew: float
    expert_routing: ExpertRouting | None = None
    """Measured under a placement of experts; None: random routing, placement not optimised."""
    samples: bool = True
    """Rows of the last stage pass the LM head and the sampler; not in models that answer with one pass."""
    filter_row_s: float = 0.0
    """Top-p / top-k filter of one row of logits [s]."""
    hidden_passes: float = 0.0
    """More passes over the hidden states, per layer and token (EngineProfile.hidden_passes)."""
    comm_overlap: float = 0.0
    """Share of the collectives that other work hides (EngineProfile.comm_overlap)."""
    fused_moe: bool = False
    """The exchange hides under the experts (EngineProfile.fused_moe)."""
    offload: OffloadPath | None = None
    """Where offloaded weights come from."""
