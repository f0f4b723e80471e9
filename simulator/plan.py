"""How a model is laid out on devices: parallel degrees and dtypes."""

from __future__ import annotations

from dataclasses import dataclass

from simulator.techniques import NONE, Techniques


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelPlan:
    """Layout of one deployment: ``dp`` replicas of ``tp * pp`` devices each.

    ``ep`` > 1 shards the routed experts over ``ep`` ranks (vLLM's --enable-expert-parallel: ep = tp * dp, experts are then
    not split by TP); ep == 1 splits every expert by TP.
    """

    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    dtype: str = "auto"
    """Dtype of unquantised weights and activations; auto: the checkpoint's."""
    quantization: str | None = None
    """On-the-fly or checkpoint quantisation override: fp8, awq, gptq, int8, mxfp4; None: as the checkpoint."""
    kv_cache_dtype: str = "auto"
    """auto (the activations' dtype) or fp8."""
    power_cap_w: float | None = None
    """Power limit of each device [W] (nvidia-smi -pl); None: its TDP."""
    gpu_clock_mhz: float | None = None
    """Locked clock of each device [MHz] (nvidia-smi -lgc); None: free."""
    techniques: Techniques = NONE
    """Offloaded weights, sparse attention, compressed KV, adapters: docs/techniques.md."""

    @property
    def devices_per_replica(self) -> int:
        """Devices of one replica."""
        return self.tp * self.pp

    @property
    def num_devices(self) -> int:
        """Devices of the deployment."""
        return self.tp * self.pp * self.dp
