"""FLOP and bytes of a measured kernel, by the formulas of the simulator: for peaks, utilisations and cold copies."""

from __future__ import annotations

from simulator.kernel_runner.kernel import ELEMENT_BYTES, HEAD_DIM, Kernel
from simulator.physics.kernels import (
    gemm_bytes,
    gemm_flop,
    grouped_gemm_bytes,
    prefill_attention_bytes,
    prefill_attention_flop,
)


def flop(kernel: Kernel) -> float:
    """Arithmetic of one call [FLOP]; 0 where only bytes count."""
    if kernel.family == "gemm":
        return float(gemm_flop(kernel["m"], kernel["n"], kernel["k"]))
    if kernel.family == "moe":
        rows = kernel["tokens"] * kernel["top_k"]
        return 6.0 * rows * kernel["hidden"] * kernel["intermediate"]
    if kernel.family == "prefill_attention":
        q, past = kernel["tokens"], kernel["cached"]
        pairs = kernel["batch"] * (q * past + q * (q + 1) / 2)
        return float(_attention_flop(pairs, kernel["heads"]))
    if kernel.family == "decode_attention":
        return float(_attention_flop(kernel["batch"] * kernel["context"], kernel["heads"]))
    return 0.0


def _attention_flop(pairs: float, heads: int) -> float:
    return float(prefill_attention_flop(pairs, num_heads=heads, head_dim=HEAD_DIM, v_head_dim=HEAD_DIM))


def moved_bytes(kernel: Kernel) -> float:
    """Compulsory memory traffic of one call [B]; 0 for families that are not about memory."""
    if kernel.family == "memory":
        return kernel["bytes"] * (2.0 if kernel.op == "copy" else 1.0)
    size = ELEMENT_BYTES.get(kernel.dtype, 0.0)
    if kernel.family == "gemm":
        return float(gemm_bytes(kernel["m"], kernel["n"], kernel["k"], weight_bytes=size, activation_bytes=size))
    if kernel.family == "moe":
        return float(
            grouped_gemm_bytes(
                kernel["tokens"] * kernel["top_k"],
                active_experts(kernel),
                hidden=kernel["hidden"],
                intermediate=kernel["intermediate"],
                weight_bytes=size,
                activation_bytes=size,
            )
        )
    if kernel.family == "prefill_attention":
        batch, q = kernel["batch"], kernel["tokens"]
        return float(
            prefill_attention_bytes(
                batch * q,
                batch * (q + kernel["cached"]),
                num_heads=kernel["heads"],
                num_kv_heads=kernel["kv_heads"],
                head_dim=HEAD_DIM,
                v_head_dim=HEAD_DIM,
                kv_bytes=size,
            )
        )
    if kernel.family == "decode_attention":
        return kernel["batch"] * kernel["context"] * kernel["kv_heads"] * 2.0 * HEAD_DIM * size
    return 0.0


def active_experts(kernel: Kernel) -> float:
    """Distinct experts that tokens hit when each picks top_k uniformly."""
    missed = (1.0 - kernel["top_k"] / kernel["experts"]) ** kernel["tokens"]
    return float(kernel["experts"] * (1.0 - missed))
