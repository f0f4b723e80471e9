"""EngineProfile: how a serving engine behaves beside its kernels (scheduler, defaults, overheads), read from YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Sampling = Literal["default", "greedy", "top-p"]
PreemptionMode = Literal["recompute", "swap"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProfile:
    """One engine version. Overheads are what a step or request costs beyond the kernels, as exposed on the critical path."""

    name: str
    version: str
    batching: str
    """Batching policy: chunked (vLLM v1), prefill-first (vLLM v0), orca, static."""
    max_num_seqs: int
    max_num_batched_tokens: int
    """Token budget of a step; also the largest prefill chunk."""
    gpu_memory_utilization: float
    block_size: int
    """Tokens per KV block."""
    prefix_caching: bool = False
    async_scheduling: bool = False
    """The next step is scheduled while the current one runs: an arrival waits one step more."""
    reserve_full_prompt: bool = True
    """Admit a prompt only when blocks for all of it are free (vLLM >= 0.17); otherwise for its first chunk only."""
    preemption: PreemptionMode = "recompute"
    watermark: float = 0.0
    """Share of the KV blocks kept free at admission (vLLM v0: 0.01)."""
    step_fixed_s: float = 0.0
    """Host time per step that the device does not hide [s]."""
    step_seq_s: float = 0.0
    """The same per sequence in the batch [s]."""
    step_token_s: float = 0.0
    """The same per scheduled token [s]."""
    sync_step_fixed_s: float = 0.0
    """More host time per step when the next step is not scheduled ahead (async_scheduling off): the device waits for
    scheduling, inputs and outputs [s]."""
    sync_step_seq_s: float = 0.0
    """The same per sequence in the batch [s]."""
    top_p_row_passes: float = 0.0
    """Passes over a row of float32 logits that top-p / top-k filtering makes (sort, cumulative sum, mask, scatter)."""
    sampling: Sampling = "default"
    """default: as the checkpoint's generation_config asks; greedy and top-p force it."""
    request_fixed_s: float = 0.0
    """Before the scheduler sees a request: HTTP, tokenisation, queues between processes [s]."""
    request_token_s: float = 0.0
    """The same per prompt token [s]."""
    response_s: float = 0.0
    """From the end of a step to the client: detokenisation, HTTP; delays every token alike [s]."""
    non_kv_reserve_bytes: float = 0.0
    """CUDA context, graphs and allocator slack per device that the engine counts against its share [B]."""
    activation_bytes_per_token: float | None = None
    """Peak activations per token of the budget and per hidden element, in units of the activation dtype's bytes; None:
    physics' estimate."""
    sources: dict[str, str] = field(default_factory=dict)
