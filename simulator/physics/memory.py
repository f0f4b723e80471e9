"""Where a device's memory goes and how many KV blocks are left, as vLLM counts; a refusal says what is short."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from hardware_profiles.errors import UserError
from hardware_profiles.schema import Cluster
from simulator.engine import EngineProfile
from simulator.physics.expert_adapters import expert_adapter_bytes
from simulator.physics.expert_cache import check_expert_cache, uncached_bytes
from simulator.physics.layout import Layout, StageLayout, check_plan, lay_out
from simulator.physics.lora import adapter_bytes
from simulator.physics.moe_load import gathered_bytes
from simulator.physics.offload import check_offload, offloaded_bytes, path_of, staging_bytes
from simulator.physics.offload_costs import predictor_bytes
from simulator.physics.precision import Precision, quantisation, resolve_precision
from simulator.physics.remote_attention import kv_room
from simulator.physics.ssm import state_bytes
from simulator.plan import ParallelPlan
from workloads.model import ModelSpec

DRIVER_SHARE = 0.01
"""Part of a device's memory, as nvidia-smi reports it, that programs do not get: 79.2 of 79.6 GiB are left on an H100,
47.4 of 48.0 on an A6000, 23.5 of 24.0 on an RTX 4090. One share for all fits the
block counts of six real servers best at 1 %."""
LOGIT_COPIES = 8
"""float32 copies of the logits alive in vLLM's profiled sampler (logits, probabilities, sorted values, 64-bit indices,
cumulative sum, mask ...). Chosen so that 128 and 256 sequences (Llama-3.1-8B, A6000, vLLM 0.11 and 0.13) differ by the
0.6 GiB their logs show."""
UNLIMITED_BLOCKS = 2**31
"""Blocks of a model without a KV cache: never short."""
HIDDEN_COPIES = 4
"""Hidden-size buffers alive beside the widest MLP: residual, input and output of the block, attention output."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryPlan:
    """Bytes of the fullest device (that of the stage with the fewest KV tokens), and the KV cache of a replica."""

    device_bytes: int
    """Nominal memory of a device."""
    budget_bytes: float
    """What the engine may use: usable memory times gpu_memory_utilization."""
    weight_bytes: float
    activation_bytes: float
    """Peak of the engine's profile run."""
    reserve_bytes: float
    state_bytes: float
    """Constant states of linear-attention and state-space layers for max_num_seqs sequences, at most half of what is left
    (SGLang's --mamba-full-memory-ratio, by default 0.9 to 1, is about that; from memory), all of it without a KV cache."""
    kv_bytes: float
    """KV cache: what is left, in whole blocks; with --attention-device, of the memory that has it."""
    kv_bytes_per_token: float
    """Per device, all its layers."""
    block_size: int
    num_blocks: int
    """Blocks of the replica (every device holds its share of each)."""

    @property
    def kv_tokens(self) -> int:
        """Tokens that fit in the KV cache of a replica."""
        return self.num_blocks * self.block_size

    @property
    def free_bytes(self) -> float:
        """Budget that is left for KV; negative when the rest alone does not fit."""
        used = self.weight_bytes + self.activation_bytes + self.reserve_bytes + self.state_bytes
        return self.budget_bytes - used


def stage_weight_bytes(stage: StageLayout, layout: Layout, model: ModelSpec, precision: Precision) -> float:
    """Weights on one device of a stage [B]; embedding in the first, LM head and final norm in the last.

    Tied embeddings are stored once when one stage has both ends.
    """
    entries = layout.vocab_per_rank * layout.hidden
    total = sum(layer.weight_bytes * count for layer, count in stage.layers)
    if stage.is_first:
        total += entries * precision.base.weight_bytes
    if stage.is_last:
        total += model.other_params * precision.element_bytes
        total += 0.0 if model.tie_word_embeddings and stage.is_first else entries * precision.lm_head.weight_bytes
    return total


def _resident_bytes(
    stage: StageLayout, layout: Layout, model: ModelSpec, precision: Precision, plan: ParallelPlan
) -> float:
    """Weights in the memory of one device [B]: its share, less what is offloaded, and slots for adapters."""
    outside = offloaded_bytes(stage, plan) - staging_bytes(stage, plan) - predictor_bytes(stage, plan)
    outside += uncached_bytes(stage, plan)
    beside = adapter_bytes(stage, plan) + expert_adapter_bytes(stage, plan) + gathered_bytes(stage, plan)
    if model.encoder is not None and stage.is_first:
        matrices, others = model.encoder.params_per_rank(plan.tp)
        beside += matrices * precision.linear.weight_bytes + others * precision.element_bytes
    return stage_weight_bytes(stage, layout, model, precision) - outside + beside


def kv_bytes_per_token(stage: StageLayout, precision: Precision) -> float:
    """KV cache per token on one device of a stage [B].

    Every layer with a KV cache counts in full, windowed ones too: vLLM's blocks are of one size for all layers. KV
    heads are repeated when TP exceeds their number, MLA's latent is on every rank.
    """
    elements = sum(
        layer.attention.kv_elements_per_token * layer.attention.stored_share * count
        for layer, count in stage.layers
        if not layer.attention.spec.bidirectional
    )
    return elements * precision.kv_bytes


def sequence_state_bytes(stage: StageLayout, precision: Precision) -> float:
    """Constant state of one sequence on one device [B]."""
    return sum(state_bytes(layer.attention, precision) * count for layer, count in stage.layers)


def activation_bytes(stage: StageLayout, layout: Layout, precision: Precision, engine: EngineProfile) -> float:
    """Peak of a profile run [B]: a forward pass over the token budget, or the sampler over max_num_seqs if larger.

    Forward: a few hidden-size buffers and the widest pair of MLP buffers (dense: gate-up output and activation; MoE:
    the same per routed copy). The engine's ``activation_bytes_per_token`` replaces this estimate; 0 stands for engines
    whose fixed reserve has room for activations.
    """
    tokens, element = engine.max_num_batched_tokens, precision.element_bytes
    if engine.activation_bytes_per_token == 0.0:
        return 0.0
    if engine.activation_bytes_per_token is not None:
        forward = engine.activation_bytes_per_token * tokens * layout.hidden * element
    else:
        widest = max(_mlp_width(stage), default=0)
        forward = tokens * element * (HIDDEN_COPIES * layout.hidden + widest)
    rows = min(engine.max_num_seqs, tokens)
    sampler = rows * layout.padded_vocab * 4.0 * LOGIT_COPIES if stage.is_last else 0.0
    return max(forward, sampler)


def _mlp_width(stage: StageLayout) -> Iterator[float]:
    """Elements per token of the two MLP buffers of every kind of block."""
    for layer, _ in stage.layers:
        yield sum(m.n for m in layer.matrices if m.name.startswith("mlp.") and "down" not in m.name) * 3 // 2
        if layer.experts is not None:
            e = layer.experts
            yield e.experts_per_token * (max(2 * e.intermediate, e.hidden) + e.intermediate)


def _stage_plan(
    stage: StageLayout,
    layout: Layout,
    model: ModelSpec,
    cluster: Cluster,
    precision: Precision,
    engine: EngineProfile,
    plan: ParallelPlan,
) -> MemoryPlan:
    per_token = kv_bytes_per_token(stage, precision)
    device_bytes = cluster.device.memory_bytes
    share = engine.gpu_memory_utilization if engine.utilization_of == "total" else 1.0
    memory = MemoryPlan(
        device_bytes=device_bytes,
        budget_bytes=device_bytes * (1.0 - DRIVER_SHARE) * share,
        weight_bytes=_resident_bytes(stage, layout, model, precision, plan),
        activation_bytes=activation_bytes(stage, layout, precision, engine),
        reserve_bytes=engine.non_kv_reserve_bytes + (engine.graph_bytes if engine.cuda_graphs != "none" else 0.0),
        state_bytes=sequence_state_bytes(stage, precision) * engine.max_num_seqs,
        kv_bytes=0.0,
        kv_bytes_per_token=per_token,
        block_size=engine.block_size,
        num_blocks=0,
    )
    left = max(0.0, memory.free_bytes + memory.state_bytes)
    memory = replace(memory, state_bytes=min(memory.state_bytes, left / 2 if per_token else left))
    if engine.utilization_of == "free":
        spare = (1.0 - engine.gpu_memory_utilization) * max(0.0, memory.free_bytes)
        memory = replace(memory, budget_bytes=memory.budget_bytes - spare)
    room = kv_room(cluster, plan)
    if room is not None and per_token and memory.free_bytes >= 0:
        return _with_blocks(memory, int(room // (per_token * engine.block_size)))
    without_cache = UNLIMITED_BLOCKS if memory.free_bytes >= 0 else 0
    return _with_blocks(
        memory, int(memory.free_bytes // (per_token * engine.block_size)) if per_token else without_cache
    )


def _with_blocks(plan: MemoryPlan, blocks: int) -> MemoryPlan:
    num_blocks = max(0, blocks)
    return replace(plan, num_blocks=num_blocks, kv_bytes=num_blocks * plan.block_size * plan.kv_bytes_per_token)


def estimate_memory(model: ModelSpec, cluster: Cluster, plan: ParallelPlan, engine: EngineProfile) -> MemoryPlan:
    """Memory of the fullest device, whether it fits (``num_blocks`` > 0) or not; for searches over plans.

    The number of devices in the cluster is not checked.
    """
    precision = resolve_precision(model, cluster.device, plan)
    layout = lay_out(model, plan, precision)
    stages = [_stage_plan(stage, layout, model, cluster, precision, engine, plan) for stage in layout.stages]
    return min(stages, key=lambda p: (p.num_blocks, p.free_bytes))


def state_slots(model: ModelSpec, cluster: Cluster, plan: ParallelPlan, engine: EngineProfile) -> int | None:
    """Sequences whose constant states fit at once, at most max_num_seqs; None for a model without such states."""
    if not model.num_linear_layers:
        return None
    precision = resolve_precision(model, cluster.device, plan)
    layout = lay_out(model, plan, precision)
    slots = engine.max_num_seqs
    for stage in layout.stages:
        each = sequence_state_bytes(stage, precision)
        if each:
            room = _stage_plan(stage, layout, model, cluster, precision, engine, plan).state_bytes
            slots = min(slots, int(room / each + 1e-9))
    return slots


def memory_plan(
    model: ModelSpec,
    cluster: Cluster,
    plan: ParallelPlan,
    engine: EngineProfile,
    max_model_len: int | None = None,
    num_gpu_blocks_override: int | None = None,
) -> MemoryPlan:
    """Memory of the fullest device and the KV blocks of a replica, as vLLM computes them.

    UserError when the plan cannot be laid out, the weights do not fit, or one request of ``max_model_len`` tokens would
    not fit in the KV cache.
    """
    check_plan(model, cluster, plan)
    if plan.techniques.offload is not None:
        path_of(cluster, plan)
        check_offload(lay_out(model, plan, resolve_precision(model, cluster.device, plan)).stages, plan)
    if plan.techniques.expert_cache is not None:
        check_expert_cache(lay_out(model, plan, resolve_precision(model, cluster.device, plan)).stages, cluster, plan)
    result = estimate_memory(model, cluster, plan, engine)
    if num_gpu_blocks_override is not None:
        result = _with_blocks(result, num_gpu_blocks_override)
    if result.num_blocks <= 0 or state_slots(model, cluster, plan, engine) == 0:
        raise UserError(_short_message(model, cluster, plan, engine, result))
    if num_gpu_blocks_override is not None and result.kv_tokens < (max_model_len or 0) and result.kv_bytes_per_token:
        raise UserError(
            f"{model.name}: max_model_len {max_model_len} needs {-(-(max_model_len or 0) // engine.block_size):,} KV blocks of "
            f"{engine.block_size} tokens; --num-gpu-blocks-override is {num_gpu_blocks_override:,}: raise it, or lower "
            "max_model_len"
        )
    if max_model_len is not None and result.kv_bytes_per_token and result.kv_tokens < max_model_len:
        raise UserError(
            f"{model.name}: max_model_len {max_model_len} needs {_gb(max_model_len * result.kv_bytes_per_token)} of KV "
            f"cache per device; {_gb(result.kv_bytes)} is left, enough for {result.kv_tokens} tokens. "
            f"Lower max_model_len or {_remedy(model, cluster, plan, engine, max_model_len)}"
        )
    return result


def _gb(nbytes: float) -> str:
    """Never 0.0 GB of something."""
    return f"{nbytes / 1e9:.1f} GB" if nbytes >= 0.05e9 or nbytes <= 0 else f"{nbytes / 1e6:.3g} MB"


def _short_message(
    model: ModelSpec, cluster: Cluster, plan: ParallelPlan, engine: EngineProfile, result: MemoryPlan
) -> str:
    other = result.activation_bytes + result.reserve_bytes + result.state_bytes
    one_block = result.kv_bytes_per_token * result.block_size
    one_state = model.state_elements / plan.devices_per_replica * 2.0
    place = f"1 x {cluster.device.name}" if plan.devices_per_replica == 1 else f"each {cluster.device.name}"
    beside = plan.techniques.attention_device
    if beside is not None and beside.nbytes is not None and beside.nbytes < one_block:
        return (
            f"--attention-device-gb {beside.nbytes / 2**30:g} holds no KV block of {model.name} ({_gb(one_block)}); "
            f"use at least {one_block / 2**30:.3g}"
        )
    remedy = _remedy(model, cluster, plan, engine, 1)
    usable = f" x {engine.gpu_memory_utilization:.2f}" if engine.utilization_of == "total" else ""
    share = "" if plan.devices_per_replica == 1 else f" per device (tp={plan.tp}, pp={plan.pp})"
    return (
        f"{model.name} needs {_gb(result.weight_bytes)} of weights + {_gb(other)} of activations and reserve{share}; "
        f"{place} has {_gb(result.device_bytes)}{usable} "
        f"less {DRIVER_SHARE:.0%} for the driver: "
        f"short by {_gb(max(one_block, one_state) - result.free_bytes)}. {remedy[0].upper()}{remedy[1:]}"
    )


def _fits(model: ModelSpec, cluster: Cluster, plan: ParallelPlan, engine: EngineProfile, tokens: int) -> bool:
    result = estimate_memory(model, cluster, plan, engine)
    return result.num_blocks > 0 and result.kv_tokens >= tokens


def _remedy(model: ModelSpec, cluster: Cluster, plan: ParallelPlan, engine: EngineProfile, tokens: int) -> str:
    """What would fit: the smallest larger TP (with EP), weights of 8 or else 4 bits, or a larger device."""
    options = []
    for tp in model.valid_tps():
        if tp <= plan.tp:
            continue
        ep = plan.ep if plan.ep == 1 else plan.ep // plan.tp * tp
        wider = replace(plan, tp=tp, ep=ep)
        if _fits(model, cluster, wider, engine, tokens):
            more = f" (on {wider.num_devices} devices)" if wider.num_devices > cluster.num_devices else ""
            options.append(f"use tp >= {tp}{more}")
            break
    quant = quantisation(model, plan)
    for smaller in ("fp8", "awq") if quant is None else ():
        if _fits(model, cluster, replace(plan, quantization=smaller), engine, tokens):
            options.append(f"use --quantization {smaller} (fits with tp={plan.tp})")
            break
    return " or ".join(options) if options else "use devices with more memory or more pipeline stages"
