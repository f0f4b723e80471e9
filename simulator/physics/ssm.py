"""State-space layers as coefficients: the scan of prompts, the recurrent update of decode, and the states' bytes.

Decode reads and writes the state of every sequence once per token, whatever its context. Prompts pass a scan (Mamba 1) or
chunks of matrix products (Mamba 2) whose work and traffic are those of :class:`workloads.ssm.SsmSpec`; the slower of
arithmetic and memory counts. No kernel of this kind is measured here: arithmetic on vector units reaches the share of the
peak that prompt attention does, memory the share that decode attention does, and a kernel starts
like a product in 16 bits (assumptions).
"""

from __future__ import annotations

from hardware_profiles.schema import DeviceProfile
from simulator.physics.coefficients import AttentionCoefficients, product_rate
from simulator.physics.layout import RankAttention
from simulator.physics.precision import Precision

DECODE_KERNELS = 2
"""Update of the convolution's tail, then of the state."""
PREFILL_KERNELS = {1: 2, 2: 6}
"""Convolution and scan; or convolution, decays, chunk states, their passing on, C B^T, and outputs (2405.21060, section 6)."""


def vector_flop_per_s(device: DeviceProfile, precision: Precision) -> float:
    """Peak of arithmetic that is no matrix product: float32 where the profile has it, else that of products."""
    return device.dense_flop_per_s.get("float32") or precision.attention_peak_flop_per_s


def state_bytes(attention: RankAttention, precision: Precision) -> float:
    """State of one sequence in one layer on one rank [B]: the recurrence in its own dtype, the rest in the activations'."""
    if precision.state_bytes == precision.element_bytes:
        return attention.state_elements * precision.element_bytes
    tail = attention.conv_elements
    return tail * precision.element_bytes + (attention.state_elements - tail) * precision.state_bytes


def ssm_coefficients(
    attention: RankAttention, layers: int, device: DeviceProfile, precision: Precision
) -> AttentionCoefficients:
    """``layers`` equal state-space layers on one rank."""
    ssm = attention.spec.ssm
    assert ssm is not None
    bandwidth = device.memory_bandwidth_bytes_per_s
    decode, prefill = precision.decode_attention, precision.prefill_attention
    launch_s = precision.base.gemm.launch_s
    share = attention.num_heads / ssm.heads
    moved = 2.0 * state_bytes(attention, precision) * layers
    update_flop = ssm.update_flop * share * layers
    vector_rate = vector_flop_per_s(device, precision) * prefill.compute
    memory_s, arithmetic_s = moved / (decode.memory * bandwidth), update_flop / vector_rate
    scan_flop = ssm.scan_flop * share * layers
    rate = vector_rate if ssm.version == 1 else product_rate(prefill, precision.attention_peak_flop_per_s)
    scan_bytes = ssm.scan_bytes(precision.element_bytes) * share * layers
    return AttentionCoefficients(
        window=None,
        kind="linear",
        decode_fixed_s=launch_s * layers * DECODE_KERNELS,
        decode_seq_s=max(memory_s, arithmetic_s),
        decode_context_s=0.0,
        decode_flop=0.0,
        decode_bytes=0.0,
        decode_seq_flop=update_flop,
        decode_seq_bytes=moved,
        decode_is_compute=arithmetic_s > memory_s,
        mixed_fixed_s=launch_s * layers * DECODE_KERNELS,
        mixed_context_s=0.0,
        prefill_fixed_s=launch_s * layers * PREFILL_KERNELS[ssm.version],
        prefill_seq_s=moved / (prefill.memory * bandwidth),
        prefill_pair_s=0.0,
        prefill_tile_rows=1.0,
        prefill_occupancy=0.0,
        prefill_token_s=max(scan_flop / rate, scan_bytes / (prefill.memory * bandwidth)),
        prefill_kv_s=0.0,
        prefill_cached_s=0.0,
        prefill_context_s=0.0,
        pair_flop=0.0,
        token_flop=scan_flop,
        context_flop=0.0,
        prefill_seq_bytes=moved,
        token_bytes=scan_bytes,
        kv_bytes=0.0,
    )
