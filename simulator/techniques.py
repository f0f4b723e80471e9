"""Techniques that change what a step costs or what memory holds: values of the plan, all off by default."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from hardware_profiles.errors import UserError, unknown_name
from simulator.hybrid import (
    HYBRID_FLAGS,
    HYBRID_NUMBERS,
    AttentionDevice,
    ExpertCache,
    HybridSettings,
    attention_device_of,
    expert_cache_of,
    hybrid_labels,
)
from simulator.lora import LORA_FLAGS, LORA_NUMBERS, Lora, LoraSettings, lora_of
from simulator.moe_settings import MOE_NUMBERS, PLAIN_MOE, MoeSettings, MoeTechniques, moe_labels, moe_of
from simulator.physics.prompt_layers import PromptLayers, parse_prompt_layers
from simulator.shape_settings import PLAIN_SHAPE, SHAPE_NUMBERS, LayerShape, ShapeSettings, shape_labels, shape_of

OffloadBackend = Literal["uva", "prefetch", "blocking", "cpu-layers", "cpu-neurons"]
"""vLLM's names: kernels read offloaded weights over the host link themselves (uva), or copies run ahead of them (prefetch).
Ours: copies and computation wait for each other (blocking); the host computes whole layers (cpu-layers, llama.cpp), or the
neurons of MLPs that fire rarely (cpu-neurons, PowerInfer)."""
COPYING = ("prefetch", "blocking")
HOST_DRAM = "dram"
GIB = 1 << 30


class TechniqueSettings(HybridSettings, MoeSettings, ShapeSettings, LoraSettings, total=False):
    """Settings under the engines' names where they have them; None or absent: off."""

    cpu_offload_gb: float | None
    offload_backend: str | None
    offload_source: str | None
    offload_prefetch_step: int | None
    comm_overlap: float | None
    nano_batch_tokens: int | None
    fused_moe: bool | None
    attention_density: float | None
    attention_selection: float | None
    attention_top_k: int | None
    kv_compression: float | None
    prompt_layer_shares: str | None
    activation_sparsity: float | None
    activation_skew: float | None
    mamba_ssm_cache_dtype: str | None


TECHNIQUE_NUMBERS: dict[str, tuple[type, float]] = {
    "cpu_offload_gb": (float, 0),
    "offload_prefetch_step": (int, 1),
    "comm_overlap": (float, 0),
    "nano_batch_tokens": (int, 0),
    "attention_density": (float, 0),
    "attention_selection": (float, 0),
    "attention_top_k": (int, 1),
    "kv_compression": (float, 0),
    "activation_sparsity": (float, 0),
    "activation_skew": (float, 0),
    **LORA_NUMBERS,
    **HYBRID_NUMBERS,
    **MOE_NUMBERS,
    **SHAPE_NUMBERS,
}
"""Settings that are numbers: their type and smallest value."""
SSM_DTYPES = ("auto", "float32", "bfloat16", "float16")
TECHNIQUE_FLAGS = ("fused_moe", *LORA_FLAGS, *HYBRID_FLAGS)


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightOffload:
    """Weights of the blocks that live in host memory and cross the host link in every step."""

    nbytes: float
    """Per device [B]."""
    backend: OffloadBackend = "uva"
    source: str = HOST_DRAM
    """Host DRAM, or the profile of a drive of each node."""
    prefetch_step: int = 1
    """Blocks that copies are ahead of the computation; as many and the computed one are in device memory."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SparseAttention:
    """Attention to a part of the context."""

    density: float = 1.0
    """Share of the query-key pairs that are computed and of the KV cache that is read."""
    selection: float = 0.0
    """What choosing them reads and computes, as a share of full attention."""
    top_k: int | None = None
    """Entries that a query attends to at most; the density counts below it. None: no such bound."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Techniques:
    """What is on."""

    offload: WeightOffload | None = None
    attention: SparseAttention | None = None
    prompt_layers: PromptLayers | None = None
    """What layers keep of prompts; ``kv_compression`` has its part of that."""
    kv_compression: float = 1.0
    """Share of the KV cache's bytes that is kept."""
    activation_sparsity: float = 0.0
    """Share of the neurons of dense MLPs that a token leaves at zero."""
    activation_skew: float = 0.0
    """Zipf exponent of how often its neurons fire."""
    expert_cache: ExpertCache | None = None
    attention_device: AttentionDevice | None = None
    lora: Lora | None = None
    moe: MoeTechniques = PLAIN_MOE
    shape: LayerShape = PLAIN_SHAPE
    ssm_dtype: str = "auto"
    """Dtype of recurrent states (--mamba-ssm-cache-dtype); auto: the activations'."""


NONE = Techniques()


def technique_labels(techniques: Techniques) -> list[str]:
    """What is on, as short as a command line has it."""
    labels = []
    if (offload := techniques.offload) is not None:
        labels.append(f"cpu-offload-gb={offload.nbytes / GIB:g}({offload.backend} from {offload.source})")
    if (sparse := techniques.attention) is not None:
        bound = f"top-k={sparse.top_k}" if sparse.top_k is not None else f"density={sparse.density:g}"
        labels.append(f"attention-{bound}")
    if (kept := techniques.prompt_layers) is not None:
        labels.append(f"prompt-layer-shares={kept.first:g},{kept.last:g}")
    if techniques.kv_compression != 1.0:
        labels.append(f"kv-compression={techniques.kv_compression:g}")
    if techniques.activation_sparsity:
        labels.append(f"activation-sparsity={techniques.activation_sparsity:g}")
    if techniques.activation_skew:
        labels.append(f"activation-skew={techniques.activation_skew:g}")
    labels += hybrid_labels(techniques.expert_cache, techniques.attention_device)
    if (lora := techniques.lora) is not None:
        labels.append(lora.label)
    if techniques.ssm_dtype != "auto":
        labels.append(f"mamba-ssm-cache-dtype={techniques.ssm_dtype}")
    return labels + moe_labels(techniques.moe) + shape_labels(techniques.shape)


def plan_values(plan: Any) -> dict[str, Any]:
    """A plan as plain values; techniques that are off are left out."""
    values = dataclasses.asdict(plan)
    on: dict[str, Any] = {
        field.name: values["techniques"][field.name]
        for field in dataclasses.fields(Techniques)
        if getattr(plan.techniques, field.name) != field.default
    }
    del values["techniques"]
    return values | ({"techniques": on} if on else {})


def techniques_of(settings: Mapping[str, Any]) -> Techniques:
    """The techniques that settings ask for. UserError for combinations that make no sense."""
    _check_shares(settings)
    _check_sparsity(settings)
    compression = 1.0 if settings.get("kv_compression") is None else float(settings["kv_compression"])
    layers = _prompt_layers(settings)
    return Techniques(
        offload=_offload(settings),
        attention=_attention(settings),
        prompt_layers=layers,
        kv_compression=compression if layers is None else compression * layers.mean,
        activation_sparsity=settings.get("activation_sparsity") or 0.0,
        activation_skew=settings.get("activation_skew") or 0.0,
        expert_cache=expert_cache_of(settings),
        attention_device=attention_device_of(settings),
        lora=lora_of(settings),
        moe=moe_of(settings),
        shape=shape_of(settings),
        ssm_dtype=_ssm_dtype(settings),
    )


def _ssm_dtype(settings: Mapping[str, Any]) -> str:
    """auto, or a dtype that engines keep states in."""
    asked = settings.get("mamba_ssm_cache_dtype") or "auto"
    if asked not in SSM_DTYPES:
        raise unknown_name("mamba ssm cache dtype", str(asked), SSM_DTYPES)
    return str(asked)


def _prompt_layers(settings: Mapping[str, Any]) -> PromptLayers | None:
    text = settings.get("prompt_layer_shares")
    if text is None:
        return None
    if settings.get("speculative_config") is not None:
        raise UserError("--prompt-layer-shares and --speculative-config: drafts would be pruned like prompts; drop one")
    return parse_prompt_layers(str(text))


def _check_shares(settings: Mapping[str, Any]) -> None:
    for name, zero in (
        ("comm_overlap", True),
        ("attention_density", False),
        ("attention_selection", True),
        ("kv_compression", False),
    ):
        value = settings.get(name)
        if value is not None and (value > 1 or (value == 0 and not zero)):
            where = "from 0 to 1" if zero else "above 0 and at most 1"
            raise UserError(f"--{name.replace('_', '-')} is {value:g}; it is a share {where}, for example 0.5")


def _check_sparsity(settings: Mapping[str, Any]) -> None:
    value = settings.get("activation_sparsity")
    if value is not None and value >= 1:
        raise UserError(
            f"--activation-sparsity is {value:g}; some neurons must fire: from 0 to below 1, for example 0.9"
        )
    if settings.get("activation_skew") and not value:
        raise UserError("--activation-skew without sparse activations; add --activation-sparsity SHARE")


def _offload(settings: Mapping[str, Any]) -> WeightOffload | None:
    gib = settings.get("cpu_offload_gb")
    if not gib:
        cached = settings.get("expert_cache_gb") is not None or settings.get("expert_cache_size") is not None
        names = ("offload_backend", "offload_prefetch_step", *(() if cached else ("offload_source",)))
        for name in names:
            if settings.get(name) is not None:
                raise UserError(f"--{name.replace('_', '-')} without weights to offload; add --cpu-offload-gb GIB")
        return None
    backend: Any = settings.get("offload_backend") or "uva"
    step = settings.get("offload_prefetch_step")
    if step is not None and backend != "prefetch":
        raise UserError("--offload-prefetch-step without copies that run ahead; add --offload-backend prefetch")
    if backend not in get_args(OffloadBackend):
        raise unknown_name("offload backend", str(backend), get_args(OffloadBackend))
    source = settings.get("offload_source") or HOST_DRAM
    if source != HOST_DRAM and backend not in COPYING:
        what = "kernels" if backend == "uva" else "the host's processors"
        raise UserError(f"--offload-source {source}: {what} cannot read a drive; add --offload-backend prefetch")
    return WeightOffload(nbytes=gib * GIB, backend=backend, source=str(source), prefetch_step=step or 1)


def _attention(settings: Mapping[str, Any]) -> SparseAttention | None:
    density, selection, top_k = (settings.get(f"attention_{n}") for n in ("density", "selection", "top_k"))
    if density is None and top_k is None:
        if selection is not None:
            raise UserError(
                "--attention-selection without sparse attention; add --attention-density or --attention-top-k"
            )
        return None
    if density is not None and top_k is not None:
        raise UserError("--attention-density and --attention-top-k both bound attention; drop one of them")
    return SparseAttention(density=1.0 if density is None else density, selection=selection or 0.0, top_k=top_k)
