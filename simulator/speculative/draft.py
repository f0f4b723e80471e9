"""What drafts: a smaller model, a head on the target's hidden states, or nothing that takes time."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from hardware_profiles.cluster import parse_cluster
from hardware_profiles.errors import UserError
from hardware_profiles.schema import Cluster
from simulator.architecture import has_encoder, has_states
from simulator.engine import EngineProfile
from simulator.physics.layout import check_plan, lay_out
from simulator.physics.memory import MemoryPlan, kv_bytes_per_token, stage_weight_bytes
from simulator.physics.precision import resolve_precision
from simulator.physics.step_model import StepModel
from simulator.plan import ParallelPlan
from simulator.speculative.config import OPTION, SpeculativeConfig
from simulator.techniques import NONE
from workloads.catalog import load_model
from workloads.layers import LayerGroup, Matrix
from workloads.model import ModelSpec

ENGINES = ("chunked", "prefill-priority", "prefill-priority-mixed", "in-flight")
"""Batching of the engines that can verify drafts: vLLM v1, SGLang, TensorRT-LLM."""
JOINED = {"eagle": 2, "eagle3": 3, "mtp": 2}
"""Vectors of hidden size that enter a head: the token's embedding and the target's last hidden state (EAGLE, arXiv 2401.15077;
DeepSeek-V3's MTP, arXiv 2412.19437, eq. 21); EAGLE-3 fuses the hidden states of three layers instead (arXiv 2503.01840)."""


def check_engine(config: SpeculativeConfig, engine: EngineProfile, plan: ParallelPlan) -> None:
    """UserError where drafts cannot be verified."""
    if engine.batching not in ENGINES or engine.name == "apex-serve":
        raise UserError(
            f"{OPTION}: engine {engine.name} (batching {engine.batching}) does not verify drafts; use vllm-v1, sglang or trtllm"
        )
    if plan.pp > 1:
        raise UserError(
            f"{OPTION}: pp is {plan.pp}; drafts in a pipeline are not modelled (its stages would wait for the drafts of "
            "every batch in flight). Use tp or dp"
        )
    if engine.preemption == "swap":
        raise UserError(f"{OPTION} with --preemption-mode swap: no engine does both; use --preemption-mode recompute")
    if engine.max_num_batched_tokens < config.queries:
        raise UserError(
            f"{OPTION}: a sequence verifies {config.queries} tokens per step, max_num_batched_tokens is "
            f"{engine.max_num_batched_tokens}; draft fewer tokens or raise --max-num-batched-tokens"
        )


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Draft:
    """The drafting side of a deployment."""

    model: ModelSpec
    cluster: Cluster
    plan: ParallelPlan
    shares_ends: bool
    """Embedding and LM head are the target's."""
    apart: bool
    """It has devices of its own."""

    def step_model(self, engine: EngineProfile) -> StepModel:
        """Physics of one of its steps. The host's work per engine step counts once, with the target."""
        quiet = dataclasses.replace(
            engine,
            step_fixed_s=0.0,
            step_seq_s=0.0,
            step_token_s=0.0,
            sync_step_fixed_s=0.0,
            sync_step_seq_s=0.0,
            sampling="greedy",
        )
        return StepModel(self.model, self.cluster, self.plan, quiet)

    def memory(self) -> tuple[float, float]:
        """(weights [B], KV cache per token [B]) on one device."""
        precision = resolve_precision(self.model, self.cluster.device, self.plan)
        layout = lay_out(self.model, self.plan, precision)
        stage = layout.stages[0]
        weights = stage_weight_bytes(stage, layout, self.model, precision)
        if self.shares_ends:
            weights = sum(layer.weight_bytes * count for layer, count in stage.layers)
        return weights, kv_bytes_per_token(stage, precision)


@contextmanager
def named_field(name: str) -> Iterator[None]:
    """Errors about a field of the option name it."""
    try:
        yield
    except UserError as error:
        raise UserError(f"{OPTION}: {name}: {error}") from None


def draft_of(config: SpeculativeConfig, target: ModelSpec, cluster: Cluster, plan: ParallelPlan) -> Draft | None:
    """The draft of a deployment; None when it costs nothing (n-grams of the prompt)."""
    if config.method == "ngram":
        return None
    named = config.model is not None
    with named_field("model"):
        model = load_model(str(config.model)) if named else _head(target, config)
    if has_states(model) or has_encoder(model):
        raise UserError(f"{OPTION}: {model.name} cannot draft: only decoders with a KV cache are modelled as drafts")
    if config.method == "draft_model" and model.vocab_size != target.vocab_size:
        warnings.warn(
            f"{OPTION}: {model.name} has {model.vocab_size:,} tokens in its vocabulary, {target.name} {target.vocab_size:,}; "
            "engines refuse drafts of another tokenizer",
            stacklevel=2,
        )
    if config.draft_vocab_size is not None:
        model = dataclasses.replace(model, vocab_size=config.draft_vocab_size)
    own = config.method == "draft_model"
    tp = config.draft_tensor_parallel_size or (1 if config.draft_device else plan.tp)
    if own and config.draft_device is None and tp > plan.tp:
        raise UserError(
            f"{OPTION}: draft_tensor_parallel_size is {tp}, the target has tp={plan.tp}; use {plan.tp} or less"
        )
    with named_field("draft_device"):
        place = parse_cluster(f"{config.draft_device}:{tp}") if config.draft_device else cluster
    layout = dataclasses.replace(
        plan,
        quantization=config.quantization or plan.quantization,
        techniques=dataclasses.replace(NONE, attention=plan.techniques.attention),
    )
    if own:
        layout = ParallelPlan(
            tp=tp, dtype=plan.dtype, quantization=config.quantization, kv_cache_dtype=plan.kv_cache_dtype
        )
    if config.draft_device is None:
        layout = dataclasses.replace(layout, power_cap_w=plan.power_cap_w, gpu_clock_mhz=plan.gpu_clock_mhz)
    if config.quantization is not None:
        with named_field("quantization"):
            resolve_precision(model, place.device, layout)
    check_plan(model, place, layout)
    draft = Draft(model=model, cluster=place, plan=layout, shares_ends=not own, apart=config.draft_device is not None)
    if draft.apart and draft.memory()[0] > place.device.memory_bytes:
        raise UserError(
            f"{OPTION}: {model.name} needs {draft.memory()[0] / 1e9:.1f} GB of weights per device, {place.device.name} has "
            f"{place.device.memory_bytes / 1e9:.1f} GB; use a larger draft_device or draft_tensor_parallel_size"
        )
    return draft


def _head(target: ModelSpec, config: SpeculativeConfig) -> ModelSpec:
    """Blocks like the target's: for eagle its first dense kind, for mtp its last, with the projection of what enters."""
    dense = [group for group in target.layers if not group.mlp.is_moe]
    group = dense[0] if dense and config.method != "mtp" else target.layers[target.layer_sequence[-1]]
    hidden = target.hidden_size
    joined = Matrix(name="fc", rows=hidden, cols=JOINED[config.method] * hidden, parallel="replicated")
    first = dataclasses.replace(group.attention, matrices=(joined, *group.attention.matrices))
    blocks = [LayerGroup(count=1, attention=first, mlp=group.mlp, norm_params=group.norm_params)]
    if config.head_layers > 1:
        blocks.append(dataclasses.replace(group, count=config.head_layers - 1))
    return dataclasses.replace(
        target, name=f"{target.name} {config.method} head", layers=tuple(blocks), layer_pattern=(), other_params=0
    )


def with_draft(memory: MemoryPlan, draft: Draft, share: float, utilization_of: str, fixed_blocks: bool) -> MemoryPlan:
    """Memory of the target's devices with the draft's weights and KV cache beside it; a block holds both.

    ``share``: gpu_memory_utilization. UserError when nothing is left.
    """
    weights, per_token = draft.memory()
    budget = memory.budget_bytes
    if utilization_of == "free":  # the share is one of what weights leave
        budget += (1.0 - share) * weights
    per_token += memory.kv_bytes_per_token
    plan = dataclasses.replace(
        memory, weight_bytes=memory.weight_bytes + weights, budget_bytes=budget, kv_bytes_per_token=per_token
    )
    blocks = (
        plan.num_blocks
        if fixed_blocks
        else int(plan.free_bytes // (per_token * plan.block_size))
        if per_token
        else 2**31
    )
    if blocks <= 0:
        raise UserError(
            f"{OPTION}: {draft.model.name} needs {weights / 1e9:.1f} GB of weights per device beside the target; short by "
            f"{(per_token * plan.block_size - plan.free_bytes) / 1e9:.1f} GB. Use a smaller draft, a draft_device, or more tp"
        )
    return dataclasses.replace(plan, num_blocks=blocks, kv_bytes=blocks * plan.block_size * per_token)
