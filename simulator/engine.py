"""EngineProfile: how a serving engine behaves beside its kernels (scheduler, defaults, overheads), read from YAML."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Sampling = Literal["default", "greedy", "top-p"]
UtilizationOf = Literal["total", "free"]
PreemptionMode = Literal["recompute", "swap"]
CudaGraphs = Literal["full-and-piecewise", "piecewise", "decode", "none"]
"""Which steps replay CUDA graphs: decode-only ones whole and others in pieces around attention (vLLM since 0.11); all in
pieces (vLLM 0.8 to 0.10); decode-only ones, prompts being launched kernel by kernel (vLLM V0); none (--enforce-eager)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineProfile:
    """One engine version. Overheads are what a step or request costs beyond the kernels, as exposed on the critical path."""

    name: str
    version: str
    batching: str
    """Batching policy: chunked (vLLM v1), prefill-first (vLLM v0), in-flight (TensorRT-LLM), prefill-priority and
    prefill-priority-mixed (SGLang), orca, static."""
    max_num_seqs: int
    max_num_batched_tokens: int
    """Token budget of a step; also the largest prefill chunk."""
    max_prefill_tokens: int | None = None
    """Prompts join a step only while fewer prompt tokens are in it (SGLang's --max-prefill-tokens); None: no such limit."""
    output_reserve: float = 0.0
    """Share of a request's output for which blocks must be free at admission: TensorRT-LLM's guaranteed-no-evict reserves
    all of it (1.0), vLLM nothing (0.0)."""
    gpu_memory_utilization: float
    utilization_of: UtilizationOf = "total"
    """What gpu_memory_utilization is a share of: all memory (vLLM), or what weights and activations leave free, all of it for
    KV blocks (TensorRT-LLM's free_gpu_memory_fraction)."""
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
    cuda_graphs: CudaGraphs = "none"
    max_cudagraph_capture_size: int = 0
    """Largest step with a CUDA graph [tokens]; smaller ones run at the next captured size."""
    launch_layer_s: float = 0.0
    """Host time to launch the kernels of a layer one by one [s]. A step takes the larger of this over its layers and the
    device's time; 0: launches never show."""
    prompt_launch_layer_s: float | None = None
    """The same in a step with prompts; None: equal."""
    piece_layer_s: float = 0.0
    """Host time per layer of a step that replays graphs in pieces: one graph, and attention's kernels [s]."""
    hidden_passes: float = 0.0
    """Passes over the hidden states per layer and token, at memory speed on every rank, beyond those of the fused kernels that
    the device's constants were measured with."""
    compute_slowdown: dict[str, float] = field(default_factory=dict)
    """Architecture -> how much longer GEMM and prompt attention take when bound by arithmetic than the kernels that the
    device's constants were measured with (old libraries on a new architecture)."""
    moe_compile_s: float = 0.0
    """Compiling one more variant of the MoE kernels, at the first step that needs it after a start [s]; with cold_start."""
    exposed_host: dict[str, float] = field(default_factory=dict)
    """Architecture -> share of sync_step_* that shows although steps are scheduled ahead."""
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
    stream_token_s: float = 0.0
    """Time of the one thread that detokenises and sends a token [s]; it bounds the tokens per second of a replica."""
    non_kv_reserve_bytes: float = 0.0
    """CUDA context, graphs and allocator slack per device that the engine counts against its share [B]."""
    graph_bytes: float = 0.0
    """Memory of the CUDA graphs per device, where the engine takes it out of its share before the KV cache [B]."""
    activation_bytes_per_token: float | None = None
    """Peak activations per token of the budget and per hidden element, in units of the activation dtype's bytes; None:
    physics' estimate; 0: non_kv_reserve_bytes has room for them."""
    comm_overlap: float = 0.0
    """Share of the collectives that other work of the same layers hides, as far as there is such work: 1 for a model whose
    residual comes a block late (Ladder-Residual)."""
    nano_batch_tokens: int = 0
    """Steps of so many tokens and more are split into nano-batches, whose arithmetic, memory traffic and collectives run at the
    same time (NanoFlow); 0: never."""
    nano_batch_penalty: float = 0.132
    """How much longer the arithmetic of a split step takes (NanoFlow's ablation: 13.2 %, weights are read twice)."""
    nano_batch_share: float = 0.67
    """Share of its speed that arithmetic keeps beside kernels of other kinds, which hold multiprocessors."""
    fused_moe: bool = False
    """Dispatch, experts and combine are one kernel (FlashMoE): no launches, no padded rows, exchange under the experts."""
    sources: dict[str, str] = field(default_factory=dict)
