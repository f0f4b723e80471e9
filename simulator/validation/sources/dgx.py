"""Prompt and token times of one batch of equal prompts on DGX servers (SplitwiseSim's profiles, MIT)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from simulator.validation.rows import Row
from simulator.validation.run import MeasuredRun, Workload
from simulator.validation.sources.common import cluster_of, figures

MODELS = {"llama2-70b": "meta-llama/Llama-2-70b-hf", "bloom-176b": "bigscience/bloom"}
TDP_W = {"a100-80gb": 400.0, "h100-80gb": 700.0}
"""Power in the table is a share of this (NVIDIA datasheets of the SXM modules)."""
ENGINE_VERSION = "0.2"
"""vLLM of late 2023 (Patel et al., Splitwise, ISCA 2024, section 5.1)."""
STARTED = 2
"""Extra tokens of max_model_len beyond prompt and answer."""


def read(path: Path, rows: Sequence[Row]) -> list[MeasuredRun]:
    """One run per row."""
    return [_run(row) for row in rows]


def _run(row: Row) -> MeasuredRun:
    device, tp = row.text("hardware"), int(row.need("tensor_parallel"))
    prompt, batch, tokens = (int(row.need(name)) for name in ("prompt_size", "batch_size", "token_size"))
    share, tdp = row.number("avg_power_frac_tdp"), TDP_W.get(device)
    return MeasuredRun(
        id=f"{row.text('model')}/{device}/tp{tp}/{batch} x {prompt}+{tokens}",
        source="dgx",
        kind="batch",
        model=MODELS.get(row.text("model"), row.text("model")),
        cluster=cluster_of(device),
        engine="vllm-v0",
        engine_version=ENGINE_VERSION,
        tp=tp,
        settings={
            "max_num_seqs": batch,
            "max_num_batched_tokens": max(2048, batch * prompt),
            "max_model_len": prompt + tokens + STARTED,
            "num_gpu_blocks_override": -(-(prompt + tokens + STARTED) // 16) * batch + batch + 64,
        },
        workload=Workload(input_len=prompt, output_len=tokens, num_requests=batch),
        measured=figures(
            prompt_time_ms=row.number("prompt_time_ms"),
            token_time_ms=row.number("token_time_ms"),
            power_w_per_gpu=share * tdp if share and tdp else None,
        ),
        measured_by="engine",
        skip=_skip(row),
        tags={"workload": f"{prompt} in", "batch": str(batch)},
        place=row.place,
    )


def _skip(row: Row) -> str | None:
    if row.flag("measured") is False:
        return f"not a measurement: {row.text('note') or 'derived'}"
    return f"the table marks it as invalid: {row.text('note')}" if row.flag("valid") is False else None
