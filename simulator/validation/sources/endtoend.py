"""Closed loops of random tokens on vLLM, SGLang and TensorRT-LLM (AIConfigurator's silicon samples).

Times are means; throughput is what they imply. Ten prompts per place of the loop, all places filled at once. Rows of equal
lengths stay in step: a batch that starts together ends together, and its successors queue for the next prompts' steps.

The engines' limits are not in the table; they follow from AIConfigurator's rules for its benchmarks (generator/rule_plugin/
benchmark/*.rule, Apache-2.0), which set them from lengths and load.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from simulator.validation.rows import Row
from simulator.validation.run import Lengths, MeasuredRun, Workload
from simulator.validation.sources.common import NODE, cluster_of, engine_of, figures, given, model_of, version_of

ROUNDS = 10
"""Prompts per place of the loop (the harness's convention: 10 x concurrency)."""
SHORTEST = 0.8
"""Lengths marked uniform lie between this share of the nominal length and all of it."""
MARGIN_TOKENS = 1500
"""The rules' margin: max_seq_len = isl + osl + 1500, token budget = isl + 1500 (and one token per place)."""
KV_SHARE = 0.8
"""free_gpu_memory_fraction in the rules' TensorRT-LLM template."""
INFERENCEX_MARGIN_TOKENS = 256
MIXED_SINCE = (0, 5, 6)
"""The rules ask SGLang for mixed chunks; their template for 0.5.1 misspelt the flag, later ones do not."""


def read(path: Path, rows: Sequence[Row]) -> list[MeasuredRun]:
    """One run per row."""
    return [_run(row) for row in rows]


def _run(row: Row) -> MeasuredRun:
    engine, note = engine_of(row.text("engine"))
    places = row.whole("concurrency")
    tp = row.whole("tp") or 1
    ep = max(1, row.whole("moe_ep") or 1)
    isl, osl = row.number("isl"), row.number("osl")
    return MeasuredRun(
        id=row.text("row_id") or row.place.rpartition(" ")[2],
        source="endtoend",
        model=model_of(row.text("model"))[0],
        cluster=cluster_of(row.text("gpu"), row.whole("num_gpus") or 1),
        engine=engine,
        engine_version=row.text("engine_version").partition(" ")[0] or None,
        tp=tp,
        pp=row.whole("pp") or 1,
        ep=ep,
        settings=given(
            quantization=_quantization(row),
            **_limits(row, isl, osl),
        ),
        workload=Workload(
            input_len=_length(row, isl),
            output_len=_length(row, osl),
            concurrency=places,
            num_requests=None if places is None else ROUNDS * places,
        ),
        measured=figures(
            tpot_mean_ms=row.number("tpot_mean_ms"),
            ttft_mean_ms=row.number("ttft_mean_ms"),
            implied_tok_s_per_gpu=row.number("out_tok_s_gpu") if row.text("tput_kind").startswith("derived") else None,
        ),
        skip=_skip(row),
        tags=given(
            workload=f"{isl:g} in, {osl:g} out" if isl and osl else None,
            concurrency=None if places is None else str(places),
            engine=row.text("engine"),
        ),
        note=note,
        place=row.place,
    )


def _limits(row: Row, isl: float | None, osl: float | None) -> dict[str, Any]:
    """What the source's scripts set: limits, and KV memory where it is not the engine's default."""
    places = row.whole("max_batch") or row.whole("concurrency")
    if not (isl and osl and places):
        return {}
    rules = _gap_analysis if "gap-analysis" in row.text("source") else _inferencex
    random_prompts = dict(enable_prefix_caching=False)  # both turn it off
    return random_prompts | rules(row, math.ceil(isl), math.ceil(osl), places)


def _gap_analysis(row: Row, isl: int, osl: int, places: int) -> dict[str, Any]:
    """AIConfigurator's benchmark rules."""
    limits: dict[str, Any] = dict(max_num_seqs=places, max_model_len=isl + osl + MARGIN_TOKENS)
    if row.text("engine") == "sglang":
        limits["max_prefill_tokens"] = isl + MARGIN_TOKENS
        if version_of(row.text("engine_version")) >= MIXED_SINCE:
            limits["batching"] = "prefill-priority-mixed"
        return limits
    limits["max_num_batched_tokens"] = places + isl + MARGIN_TOKENS
    if row.text("engine") == "trtllm":
        limits["gpu_memory_utilization"] = KV_SHARE
        if row.text("gemm_quant").startswith("fp8"):
            limits["kv_cache_dtype"] = (
                "fp8"  # not stated; 16-bit caches would be too small for the queues that were seen
            )
    return limits


def _inferencex(row: Row, isl: int, osl: int, places: int) -> dict[str, Any]:
    """InferenceX's launch scripts (benchmarks/*.sh, Apache-2.0)."""
    limits: dict[str, Any] = dict(max_model_len=isl + osl + INFERENCEX_MARGIN_TOKENS)
    match row.text("engine"):
        case "sglang":
            limits.update(max_num_batched_tokens=32768, max_prefill_tokens=32768)
        case "trtllm":
            limits.update(max_num_batched_tokens=max(8192, places + isl + 64), kv_cache_dtype="fp8")
        case "vllm":
            limits.update(max_num_seqs=places, max_num_batched_tokens=max(8192, places), async_scheduling=True)
    return limits


def _length(row: Row, nominal: float | None) -> Lengths | None:
    if nominal is None:
        return None
    if row.text("len_kind").startswith("uniform"):
        return f"uniform({int(SHORTEST * nominal)}, {int(nominal)})"
    return int(nominal)


def _quantization(row: Row) -> str | None:
    """Checkpoints that are quantised by themselves (DeepSeek) need no setting."""
    packed = model_of(row.text("model"))[1]
    if packed is not None:
        return packed
    name = row.text("gemm_quant") or row.text("weight_precision")
    if not name or "deepseek" in row.text("model").lower():
        return None
    return "fp8_block" if name.startswith("fp8_block") else name.split("_")[0]


def _skip(row: Row) -> str | None:
    source = row.text("source")
    if "MLPerf" in source:
        return "MLPerf: request lengths are only known as means of a data set"
    if row.text("mode") != "agg":
        return f"{row.text('mode')}: prefill and decode run on pools of their own, which are not simulated"
    if row.flag("config_suspect"):
        return "the table marks its topology as implausible"
    if row.flag("dup_of_inferencex_row"):
        return "the table marks it as a duplicate"
    if row.number("concurrency") is None:
        return "the load is not stated (no concurrency)"
    if row.text("spec_decode") and not row.text("spec_decode").startswith("none"):
        return "speculative decoding, which is not simulated"
    if (row.number("dp_attn") or 1) > 1:
        return "attention is data parallel, which is not simulated"
    if (row.number("num_gpus") or 1) > NODE:
        return "more than one node, and its network is not stated"
    return None
