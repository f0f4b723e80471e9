"""Turns per-layer profiles of vLLM into the tables the fits read, and fits what only they have: everything but kernels.

Rows of RTX 4090 and RTX PRO 6000 (vLLM 0.19) are good throughout. Rows of the older profiles (A6000, RTX 3090, H100)
time an eager PyTorch model: of those only GEMM and FlashAttention-2 prefill are used.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from simulator.calibration.fitting import Bound, Parameters, fit, rounded
from simulator.calibration.tables import Column, FloatColumn, Mask, Table
from simulator.physics.elementwise import activation, elementwise_s, norms, rotary

MODEL = "meta-llama/Llama-3.1-8B"
"""The model whose profiles give the time between kernels: the one all profiled devices share."""
HIDDEN = 4096.0
INTERMEDIATE = 14336
HEAD_DIM = 128
ELEMENT_BYTES = 2.0
"""Its shape (config.json), in bfloat16."""

HEADS: Mapping[str, tuple[float, float]] = {
    "meta-llama/Llama-3.1-8B": (32, 8),
    "meta-llama/Llama-3.1-70B": (64, 8),
    "mistralai/Mixtral-8x7B-v0.1": (32, 8),
    "microsoft/Phi-mini-MoE-instruct": (32, 8),
    "Qwen/Qwen3-32B": (64, 8),
    "Qwen/Qwen3-30B-A3B-Instruct-2507": (32, 4),
}
"""Query and KV heads (config.json of the models)."""

BANDWIDTH: Mapping[str, float] = {"RTX4090": 1.008e12, "RTXPRO6000": 1.792e12}
"""Memory bandwidth [B/s] (data sheets) of the devices whose profiles time what lies between the kernels."""

PER_LAYER: Mapping[str, float] = {"layernorm": 2, "rotary_emb": 1, "act_fn": 1}
"""Launches per layer of what lies between the kernels."""
PER_STEP = ("embedding", "final_layernorm")


@dataclass(frozen=True, slots=True, kw_only=True)
class Overheads:
    """Fields of Efficiency that are not kernels [s]."""

    layer_fixed_s: float
    layer_token_s: float
    elementwise_memory: float
    step_fixed_s: float
    logits_row_s: float
    source: str


def gemm_table(profiles: Table) -> Table:
    """Linear layers with the columns of gemm.csv. Experts are left out: they are not one GEMM per layer."""
    rows = profiles.select(kind="gemm")
    rows = rows.where(~np.char.startswith(rows["layer"], "expert"))
    return Table(
        rows.name,
        {
            "framework": _constant(rows, "vllm"),
            "version": rows["source"],
            "dtype": _constant(rows, "bfloat16"),
            "m": rows["tokens_or_seqs"],
            "n": rows["N_or_kvheads_or_topk"],
            "k": rows["K_or_heads_or_experts"],
            "latency_ms": rows["time_us"] * 1e-3,
        },
    )


def attention_table(profiles: Table, kind: str) -> Table:
    """Prefill (``attn_prefill``) or decode (``attn_decode``) rows with the columns of the attention tables."""
    rows = profiles.select(kind=kind)
    heads = np.array([HEADS[m] for m in rows["model"].tolist()], dtype=np.float64).reshape(len(rows), 2)
    heads = heads / rows["tp"][:, None]
    prefill = kind == "attn_prefill"
    context = rows["kv_len_per_seq"]
    return Table(
        rows.name,
        {
            "framework": _constant(rows, "vllm"),
            "version": rows["source"],
            "kernel_source": rows["layer"],
            "batch_size": np.ones(len(rows)) if prefill else rows["tokens_or_seqs"],
            "isl": rows["tokens_or_seqs"],
            "prefix_len": context,
            "kv_len_minus_1": context - 1,
            "num_heads": heads[:, 0],
            "num_key_value_heads": heads[:, 1],
            "head_dim": np.full(len(rows), 128.0),
            "window_size": np.zeros(len(rows)),
            "attn_dtype": _constant(rows, "bfloat16"),
            "kv_cache_dtype": _constant(rows, "bfloat16"),
            "latency_ms": rows["time_us"] * 1e-3,
        },
    )


def fit_overheads(profiles: Table, bandwidth_bytes_per_s: float, cache_bytes: float) -> Overheads:
    """Norms, rotary embedding, activation, embedding and sampler of one device.

    They are kernels inside CUDA graphs (the sampler: after the graph), so their device times count, not launches.
    """
    rows = profiles.select(model=MODEL, tp=1.0, kind="nongemm")
    sampler = rows.select(layer="sampler")
    layer = _elementwise(*_sum_over_layers(rows), bandwidth_bytes_per_s, cache_bytes)
    per_row = _line(sampler["tokens_or_seqs"], sampler["time_us"] * 1e-6)
    once = sum(float(rows.select(layer=name, tokens_or_seqs=1.0)["time_us"][0]) * 1e-6 for name in PER_STEP)
    return Overheads(
        layer_fixed_s=rounded(layer["fixed_s"]),
        layer_token_s=rounded(layer["token_s"]),
        elementwise_memory=rounded(layer["memory"]),
        step_fixed_s=rounded(once + per_row["fixed_s"]),
        logits_row_s=rounded(per_row["slope_s"]),
        source=f"{rows.name}: {rows.describe('source', 'hardware', 'model')}; {len(rows)} rows",
    )


def scaled(known: Overheads, bandwidth: float, target_bandwidth: float) -> Overheads:
    """Another device's overheads: launches as they are, traffic by memory bandwidth."""
    ratio = bandwidth / target_bandwidth
    return Overheads(
        layer_fixed_s=known.layer_fixed_s,
        layer_token_s=rounded(known.layer_token_s * ratio),
        elementwise_memory=known.elementwise_memory,
        step_fixed_s=known.step_fixed_s,
        logits_row_s=rounded(known.logits_row_s * ratio),
        source=f"{known.source}, per-token parts by bandwidth",
    )


def _constant(rows: Table, text: str) -> Column:
    return np.full(len(rows), text)


def _sum_over_layers(rows: Table) -> tuple[FloatColumn, FloatColumn]:
    tokens = np.array(rows.select(layer="layernorm").distinct("tokens_or_seqs"))
    total = np.zeros(len(tokens))
    for name, times in PER_LAYER.items():
        part = rows.select(layer=name)
        total += times * np.interp(tokens, part["tokens_or_seqs"], part["time_us"]) * 1e-6
    return tokens, total


def _line(tokens: FloatColumn, seconds: FloatColumn) -> Parameters:
    def predicted(p: Parameters, mask: Mask) -> FloatColumn:
        return np.asarray(p["fixed_s"] + p["slope_s"] * tokens[mask])

    bounds = {"fixed_s": Bound(1e-5, 1e-7, 1e-3), "slope_s": Bound(1e-7, 1e-10, 1e-3)}
    return fit(predicted, seconds, np.ones(len(tokens), dtype=bool), bounds)


def _elementwise(
    tokens: FloatColumn, seconds: FloatColumn, bandwidth_bytes_per_s: float, cache_bytes: float
) -> Parameters:
    """fixed_s, token_s and memory of what lies between the matrix products of a layer of MODEL."""
    heads, kv_heads = HEADS[MODEL]
    parts = (
        norms(int(HIDDEN), ELEMENT_BYTES),
        rotary(int(heads), int(kv_heads), HEAD_DIM, ELEMENT_BYTES),
        activation(2 * INTERMEDIATE, INTERMEDIATE, ELEMENT_BYTES),
    )

    def predicted(p: Parameters, mask: Mask) -> FloatColumn:
        cost = elementwise_s(
            tokens[mask], parts, bandwidth_bytes_per_s=bandwidth_bytes_per_s, cache_bytes=cache_bytes, **p
        )
        return np.asarray(cost, dtype=np.float64)

    bounds = {
        "fixed_s": Bound(1e-5, 1e-7, 1e-3),
        "token_s": Bound(5e-8, 1e-10, 1e-4),
        "memory": Bound(0.8, 0.3, 1.0),
    }
    return fit(predicted, seconds, np.ones(len(tokens), dtype=bool), bounds)


def mean(known: Sequence[Overheads]) -> Overheads:
    """Arithmetic mean of overheads that were scaled to one device."""
    return Overheads(
        layer_fixed_s=rounded(sum(o.layer_fixed_s for o in known) / len(known)),
        layer_token_s=rounded(sum(o.layer_token_s for o in known) / len(known)),
        elementwise_memory=rounded(sum(o.elementwise_memory for o in known) / len(known)),
        step_fixed_s=rounded(sum(o.step_fixed_s for o in known) / len(known)),
        logits_row_s=rounded(sum(o.logits_row_s for o in known) / len(known)),
        source="mean of " + " and ".join(o.source for o in known),
    )
