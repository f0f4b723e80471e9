"""A device that follows the formulas of the simulator exactly, with a clock of its own: for tests of the kernel-runner."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from hardware_profiles.schema import CollectiveFit, DecodeAttentionFit, GemmFit, MoeFit, PrefillAttentionFit
from simulator.calibration.profiles import ELEMENT_BYTES as ACTIVATION_BYTES
from simulator.kernel_runner.backend import Collected, DeviceFacts, Prepared, Unsupported
from simulator.kernel_runner.kernel import ELEMENT_BYTES, Kernel
from simulator.kernel_runner.work import active_experts, flop, moved_bytes
from simulator.physics.kernels import (
    collective_s,
    decode_attention_s,
    gemm_s,
    grouped_gemm_s,
    prefill_attention_s,
)

PEAK, BANDWIDTH = 1e15, 4e12
GEMM = GemmFit(compute=0.75, memory=0.85, launch_s=4e-6, norm=3.0)
PREFILL = PrefillAttentionFit(compute=0.6, memory=0.5, launch_s=1.2e-5, occupancy=0.4, tile_rows=128.0)
DECODE = DecodeAttentionFit(memory=0.8, launch_s=9e-6, sequence_s=2e-8)
MOE = MoeFit(compute=0.5, memory=0.7, launch_s=2e-5, norm=3.0, row_pad=16.0, activation=1.5)
ALL_REDUCE = CollectiveFit(
    alpha1_s=6e-6,
    alpha1_rank_s=3e-7,
    bandwidth1_bytes_per_s=2e11,
    alpha2_s=2e-5,
    alpha2_rank_s=1e-6,
    bandwidth2_bytes_per_s=3.2e11,
)
FACTS = DeviceFacts(
    device="cuda:0",
    name="FAKE G1",
    kind="gpu",
    vendor="NVIDIA",
    architecture="Hopper",
    num_sms=132,
    memory_bytes=140_000_000_000,
    cache_bytes=50_000_000,
    power_limit_w=700.0,
    min_cap_w=200.0,
    framework="torch",
    framework_version="2.11",
    runtime="CUDA 13.0, driver 580",
    num_devices=4,
)
WATTS = (300.0, 300.0, 90.0)
"""Base, per MFU, per MBU [W]."""


def seconds(kernel: Kernel) -> float:
    """What the formulas say."""
    size = ELEMENT_BYTES.get(kernel.dtype, 0.0)
    peak = PEAK * (2 if size == 1 else 1)
    roof = {"peak_flop_per_s": peak, "bandwidth_bytes_per_s": BANDWIDTH}
    stored = {"weight_bytes": size, "activation_bytes": size}
    if kernel.family == "gemm":
        fit = GEMM if size > 1 else replace(GEMM, quantise=0.4)
        return float(gemm_s(kernel["m"], kernel["n"], kernel["k"], **roof, **stored, fit=fit))
    if kernel.family == "prefill_attention":
        b, q, past = kernel["batch"], kernel["tokens"], kernel["cached"]
        return float(
            prefill_attention_s(
                b,
                b * q,
                b * (q * past + q * (q + 1) / 2),
                b * (q + past),
                num_heads=kernel["heads"],
                num_kv_heads=kernel["kv_heads"],
                head_dim=128,
                v_head_dim=128,
                kv_bytes=size,
                num_sms=FACTS.num_sms,
                **roof,
                fit=PREFILL,
            )
        )
    if kernel.family == "decode_attention":
        context = moved_bytes(kernel)
        return float(
            decode_attention_s(
                context, kernel["batch"], kv_bytes_per_token=1.0, bandwidth_bytes_per_s=BANDWIDTH, fit=DECODE
            )
        )
    if kernel.family == "moe":
        rows = kernel["tokens"] * kernel["top_k"]
        return float(
            grouped_gemm_s(
                rows,
                active_experts(kernel),
                hidden=kernel["hidden"],
                intermediate=kernel["intermediate"],
                **roof,
                **stored,
                fit=MOE,
            )
        )
    if kernel.family == "elementwise":
        tokens = kernel["tokens"]
        return {"sampler": 2e-5 + 4e-7 * tokens, "embedding": 3e-6, "final_layernorm": 2e-6}.get(
            kernel.op, 3e-6 + 1e-8 * tokens * ACTIVATION_BYTES
        )
    if kernel.family == "memory":
        return 2e-6 + moved_bytes(kernel) / (0.9 * BANDWIDTH)
    if kernel.family == "host_copy":
        return 1e-5 + kernel["bytes"] / 5e10
    assert kernel.family == "launch"
    return 1e-6 if kernel.op == "queued" else 4e-6


@dataclass
class FakeClock:
    """Time passes when kernels run."""

    now: float = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class FakeMeter:
    """Watts of the kernel that is running, by the line."""

    backend: FakeBackend
    name: str = "fake"

    def watts(self, work: Callable[[], None], seconds: float) -> float:
        work()
        kernel = self.backend.running
        if kernel is None:
            return 80.0
        took, (base, compute, memory) = self.backend.seconds(kernel), WATTS
        peak = PEAK * (2 if ELEMENT_BYTES.get(kernel.dtype) == 1 else 1)
        watts = base + compute * flop(kernel) / took / peak + memory * moved_bytes(kernel) / took / BANDWIDTH
        return min(watts, 700.0)


@dataclass
class FakeBackend:
    """``noise``: sigma of a log-normal factor by family; ``lost_at``: the kernel number at which the device goes away;
    ``broken``: families whose kernels raise while the device lives on; ``slow``: factor on every time."""

    facts: DeviceFacts = FACTS
    noise: Mapping[str, float] = field(default_factory=dict)
    lost_at: int | None = None
    broken: tuple[str, ...] = ()
    slow: float = 1.0
    clock: FakeClock = field(default_factory=FakeClock)
    has_meter: bool = True
    running: Kernel | None = None
    prepared: int = 0

    def seconds(self, kernel: Kernel) -> float:
        sigma = self.noise.get(kernel.family, 0.0)
        seed = abs(hash_of(kernel.label))
        factor = np.exp(np.random.default_rng(seed).normal(0.0, sigma)) if sigma else 1.0
        return seconds(kernel) * float(factor) * self.slow

    def dtypes(self) -> tuple[str, ...]:
        return ("bfloat16", "fp8")

    def families(self):
        own = ("memory", "launch", "gemm", "prefill_attention", "decode_attention", "moe", "elementwise", "host_copy")
        return (*own, "collective")

    def reason_against(self, family) -> str:
        return "not on a fake"

    def prepare(self, kernel: Kernel) -> Prepared:
        self.prepared += 1
        if self.lost_at is not None and self.prepared >= self.lost_at:
            raise RuntimeError("CUDA error: an illegal memory access\nwas encountered")
        if kernel.family in self.broken:
            raise RuntimeError("no kernel image is available")

        def run(rounds: int) -> float:
            self.running = kernel
            self.clock.now += self.seconds(kernel) * rounds
            return self.seconds(kernel)

        return Prepared(run, 1, "formula")

    def collect(self, kernels, seconds: float) -> Collected:
        if "collective" in self.broken:
            raise Unsupported("NCCL failed")
        times = {k: [float(collective_s("all_reduce", k["bytes"], k["ranks"], ALL_REDUCE))] * 5 for k in kernels}
        return Collected(times, "formula")

    def alive(self) -> bool:
        return self.lost_at is None or self.prepared < self.lost_at

    def power_meter(self):
        return FakeMeter(self) if self.has_meter else None


def hash_of(text: str) -> int:
    import zlib

    return zlib.crc32(text.encode())
