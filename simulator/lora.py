"""Low-rank adapters as users ask for them: how many, of which rank and format, where, and how they get to the device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

from hardware_profiles.errors import UserError, unknown_name

Loading = Literal["slots", "paged"]
"""slots: memory for --max-loras of the largest rank is set aside (vLLM); paged: adapters and KV share one pool (S-LoRA)."""
BITS: dict[str, float] = {
    "auto": 16,
    "bfloat16": 16,
    "float16": 16,
    "fp8": 8,
    "int8": 8,
    "int4": 4,
    "int2": 2,
    "int1": 1,
}
"""Bits per element of adapters as they are kept and read."""
TARGETS: dict[str, tuple[str, ...]] = {
    "all": (),
    "attention": ("qkv_proj", "q_proj", "k_proj", "v_proj", "o_proj", "q_a_proj", "q_b_proj", "kv_a_proj", "kv_b_proj"),
    "mlp": ("gate_up_proj", "up_proj", "down_proj", "gate_proj"),
}
"""Projections with an adapter; (): all but routers and routed experts."""
LORA_NUMBERS: dict[str, tuple[type, float]] = {
    "max_loras": (int, 1),
    "max_lora_rank": (int, 1),
    "num_loras": (int, 1),
    "lora_skew": (float, 0),
}
LORA_FLAGS = ("enable_lora", "lora_shared_kv")
LORA_TEXTS = ("lora_dtype", "lora_target_modules", "lora_loading")


class LoraSettings(TypedDict, total=False):
    """Settings under the engines' names where they have them; None or absent: off."""

    enable_lora: bool | None
    max_loras: int | None
    max_lora_rank: int | None
    num_loras: int | None
    lora_skew: float | None
    lora_ranks: str | int | None
    lora_dtype: str | None
    lora_target_modules: str | None
    lora_loading: str | None
    lora_shared_kv: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Lora:
    """Low-rank adapters of the linear layers, one per request."""

    slots: int
    """Adapters that a device holds (--max-loras); with paging: that run at a time."""
    rank: int
    """Largest rank, and that of the slots (--max-lora-rank)."""
    adapters: int
    """Adapters that requests ask for."""
    skew: float = 0.0
    """Zipf exponent of their popularity; 0: all alike."""
    ranks: tuple[int, ...] = ()
    """Adapter i has rank ranks[i mod len]; (): all have the largest."""
    bits: float = 16.0
    """Of an element of an adapter."""
    targets: str = "all"
    """Which projections have one."""
    loading: Loading | None = None
    """None: whatever a request needs is on the device."""
    shared_kv: bool = False
    """KV of the base model is shared by requests of all adapters; each token keeps its adapters' low-rank part beside it."""
    shares: tuple[float, ...] = ()
    """Share of the requests that ask for each adapter, where a trace says so; (): by the skew."""

    def rank_of(self, adapter: int) -> int:
        """Rank of one adapter."""
        return self.ranks[adapter % len(self.ranks)] if self.ranks else self.rank

    @property
    def element_bytes(self) -> float:
        """Bytes of an element."""
        return self.bits / 8.0

    @property
    def label(self) -> str:
        """As short as a command line has it."""
        rank = "/".join(map(str, self.ranks)) if self.ranks else str(self.rank)
        where = {None: f"{self.slots} in memory", "slots": f"{self.slots} slots", "paged": "paged with the KV cache"}
        kinds = ["shared KV"] if self.shared_kv else []
        kinds += [f"{self.bits:g} bits"] if self.bits != BITS["auto"] else []
        kinds += [self.targets] if self.targets != "all" else []
        return f"loras={self.adapters}({', '.join([f'rank {rank}', where[self.loading], *kinds])})"


def lora_of(settings: Mapping[str, Any]) -> Lora | None:
    """vLLM's defaults: one slot, rank 16; as many adapters as slots. UserError for what makes no sense."""
    if not settings.get("enable_lora"):
        for name in ("lora_shared_kv", *LORA_TEXTS, "lora_ranks", *LORA_NUMBERS):
            value = settings.get(name)
            if value not in (None, False) or (name == "lora_ranks" and value is not None):
                raise UserError(f"--{name.replace('_', '-')} without adapters; add --enable-lora")
        return None
    ranks = _ranks(settings.get("lora_ranks"))
    largest = settings.get("max_lora_rank") or max(ranks, default=16)
    if ranks and max(ranks) > largest:
        raise UserError(f"--lora-ranks has rank {max(ranks)}, --max-lora-rank is {largest}; raise it or leave it out")
    loading = settings.get("lora_loading")
    if loading is not None and loading not in get_args(Loading):
        raise unknown_name("way of loading adapters (--lora-loading)", loading, get_args(Loading))
    slots, adapters = settings.get("max_loras"), settings.get("num_loras")
    if loading == "paged":
        slots = slots or adapters or 1
        adapters = adapters or slots
    slots = slots or 1
    dtype, targets = settings.get("lora_dtype") or "auto", settings.get("lora_target_modules") or "all"
    if dtype not in BITS:
        raise unknown_name("format of adapters (--lora-dtype)", dtype, BITS)
    if targets not in TARGETS:
        raise unknown_name("projections with adapters (--lora-target-modules)", targets, TARGETS)
    return Lora(
        slots=slots,
        rank=largest,
        adapters=adapters or slots,
        skew=settings.get("lora_skew") or 0.0,
        ranks=ranks,
        bits=BITS[dtype],
        targets=targets,
        loading=loading,
        shared_kv=bool(settings.get("lora_shared_kv")),
    )


def _ranks(text: object) -> tuple[int, ...]:
    if text is None:
        return ()
    parts = str(text).split(",")
    if not all(part.strip().isdecimal() and int(part) > 0 for part in parts):
        raise UserError(f"--lora-ranks is '{text}'; write whole numbers above 0 with commas, for example 8,16,64")
    return tuple(int(part) for part in parts)
