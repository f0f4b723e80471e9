"""Settings of mixtures of experts: who computes what, how tokens get there, and what a technique leaves out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypedDict, get_args

from hardware_profiles.errors import UserError, unknown_name

MoeParallelism = Literal["exchange", "gather-tokens", "gather-weights", "adaptive"]
"""Where experts span data-parallel replicas. exchange: tokens go to the ranks of their experts and back (all engines);
gather-tokens: every rank gets all tokens and adds up its part (vLLM's allgather_reducescatter); gather-weights: every rank gets
all experts of the layer and keeps its tokens (Tutel's data parallelism of experts); adaptive: the quickest in each step."""
AllToAll = Literal["hierarchical", "flat", "adaptive"]
"""hierarchical: a token crosses the network once per node and is spread inside (DeepEP; Tutel's 2DH); flat: a message to every
rank; adaptive: the quicker of the two in every step."""
Dispatch = Literal["sorted", "one-hot"]
"""How tokens get into slots of experts: sorted by kernels, or multiplied with a mask of tokens x slots (GShard, Fairseq)."""

MOE_SETTINGS = (
    "zero_expert_num",
    "zero_expert_tau",
    "moe_parallelism",
    "moe_all_to_all",
    "a2a_ffn_overlap_degree",
    "expert_capacity_factor",
    "moe_kernels",
    "moe_dispatch",
    "expert_routing",
    "init_expert_location",
    "expert_exchange",
    "expert_adapters",
    "expert_adapter_size",
    "expert_adapter_share",
    "expert_adapter_skew",
)
"""All of them, by name."""
MOE_NUMBERS: dict[str, tuple[type, float]] = {
    "zero_expert_num": (int, 0),
    "zero_expert_tau": (float, 0),
    "a2a_ffn_overlap_degree": (int, 1),
    "expert_capacity_factor": (float, 0),
    "moe_kernels": (int, 1),
    "expert_adapters": (int, 1),
    "expert_adapter_size": (float, 0),
    "expert_adapter_share": (float, 0),
    "expert_adapter_skew": (float, 0),
}
"""Those that are numbers: their type and smallest value."""


class MoeSettings(TypedDict, total=False):
    """Settings under the names of engines and model files where they have them; None or absent: off."""

    zero_expert_num: int | None
    zero_expert_tau: float | None
    moe_parallelism: str | None
    moe_all_to_all: str | None
    a2a_ffn_overlap_degree: int | None
    expert_capacity_factor: float | None
    moe_kernels: int | None
    moe_dispatch: str | None
    expert_routing: str | None
    init_expert_location: str | None
    expert_exchange: str | None
    expert_adapters: int | None
    expert_adapter_size: float | None
    expert_adapter_share: float | None
    expert_adapter_skew: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertAdapters:
    """Fine-tuned models that share a base and own copies of some of its routed experts (ESFT, arXiv:2407.01906)."""

    num: int
    """Adapters in memory; every request asks for one."""
    size: float
    """Experts per MoE layer that an adapter owns, on average."""
    share: float | None = None
    """Choices of a token that reach its adapter's own experts; None: size / experts of a layer."""
    skew: float = 0.0
    """Zipf exponent of the adapters' popularity; 0: all alike."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeTechniques:
    """What of it changes the cost of a layer; the defaults are what engines do."""

    zero_experts: int = 0
    """Experts without computation beside those of the model, in every MoE layer."""
    zero_tau: float = 1.0
    """Preference of the router for an expert that computes over one that does not (MoE++'s tau)."""
    parallelism: MoeParallelism = "exchange"
    all_to_all: AllToAll = "hierarchical"
    overlap_degree: int = 1
    """Pieces of a step whose exchange and experts overlap; what an adaptive layer splits into at most."""
    capacity_factor: float | None = None
    """Slots of an expert over its mean load; 0: as many as the busiest needs; None: no slots, nothing is padded."""
    kernels: int | None = None
    """Kernels of an MLP of experts; None: the three of a dense one."""
    dispatch: Dispatch = "sorted"
    routing: str | None = None
    """Where routing is known from, as the user wrote it; None: random."""
    location: str | None = None
    """File of the placement; None: what engines do."""
    exchange: str = "home"
    adapters: ExpertAdapters | None = None

    def compute_share(self, num_experts: int) -> float:
        """Share of the choices that reach an expert that computes: tau E / (tau E + Z) (MoE++, arXiv:2410.07348)."""
        if not self.zero_experts:
            return 1.0
        return self.zero_tau * num_experts / (self.zero_tau * num_experts + self.zero_experts)


PLAIN_MOE = MoeTechniques()


def moe_labels(moe: MoeTechniques) -> list[str]:
    """What is on, as short as a command line has it."""
    labels = []
    if moe.zero_experts:
        labels.append(f"zero-experts={moe.zero_experts}(tau {moe.zero_tau:g})")
    if moe.parallelism != "exchange":
        labels.append(f"moe-parallelism={moe.parallelism}")
    if moe.all_to_all != "hierarchical":
        labels.append(f"moe-all-to-all={moe.all_to_all}")
    if moe.overlap_degree > 1:
        labels.append(f"a2a-ffn-overlap-degree={moe.overlap_degree}")
    if moe.capacity_factor is not None:
        labels.append(f"expert-capacity-factor={moe.capacity_factor:g}")
    if moe.kernels is not None:
        labels.append(f"moe-kernels={moe.kernels}")
    if moe.dispatch != "sorted":
        labels.append(f"moe-dispatch={moe.dispatch}")
    if moe.routing is not None:
        labels.append(f"expert-routing={moe.routing}({moe.location or 'trivial placement'}, {moe.exchange})")
    if moe.adapters is not None:
        labels.append(f"expert-adapters={moe.adapters.num}({moe.adapters.size:g} experts each)")
    return labels


def _choice(settings: Mapping[str, Any], name: str, kind: Any, default: str) -> Any:
    value = settings.get(name)
    if value is None:
        return default
    if value not in get_args(kind):
        raise unknown_name(name.replace("_", " "), str(value), get_args(kind))
    return value


def _kernels(settings: Mapping[str, Any]) -> int | None:
    kernels: int | None = settings.get("moe_kernels")
    if kernels is not None and kernels < 3:
        raise UserError(
            f"--moe-kernels is {kernels}; an MLP of experts has at least 3: two products and the activation"
        )
    return kernels


def _adapters(settings: Mapping[str, Any]) -> ExpertAdapters | None:
    num, size = settings.get("expert_adapters"), settings.get("expert_adapter_size")
    share, skew = settings.get("expert_adapter_share"), settings.get("expert_adapter_skew")
    if num is None:
        for name, value in (("size", size), ("share", share), ("skew", skew)):
            if value is not None:
                raise UserError(f"--expert-adapter-{name} without adapters of experts; add --expert-adapters N")
        return None
    if not size:
        given = "is 0" if size is not None else "is missing"
        raise UserError(f"--expert-adapter-size {given}; say how many experts per layer an adapter owns, for example 8")
    if share is not None and not 0 < share <= 1:
        raise UserError(f"--expert-adapter-share is {share:g}; it is a share above 0 and at most 1, for example 0.3")
    return ExpertAdapters(num=num, size=size, share=share, skew=skew or 0.0)


def _check_adapters(moe: MoeTechniques, settings: Mapping[str, Any]) -> None:
    """UserError where the model's experts alone are counted."""
    if moe.adapters is None:
        return
    beside = ("expert_cache_gb", "expert_cache_size", "cpu_offload_gb", "expert_capacity_factor", "fused_moe")
    other = next((name for name in beside if settings.get(name)), None)
    if other is None and settings.get("expert_capacity_factor") is not None:
        other = "expert_capacity_factor"
    if other is None and moe.parallelism in ("gather-weights", "adaptive"):
        other = f"moe_parallelism {moe.parallelism}"
    if other is not None:
        raise UserError(
            f"--{other.replace('_', '-', 2)} counts the experts of the model, not those of --expert-adapters: drop one"
        )


def moe_of(settings: Mapping[str, Any]) -> MoeTechniques:
    """What settings ask for. UserError for values that make no sense."""
    zero, tau = settings.get("zero_expert_num") or 0, settings.get("zero_expert_tau")
    if tau is not None and not zero:
        raise UserError("--zero-expert-tau without experts that compute nothing; add --zero-expert-num N")
    if tau == 0:
        raise UserError("--zero-expert-tau is 0: no token would reach an expert; use a value above 0, for example 0.75")
    moe = MoeTechniques(
        zero_experts=zero,
        zero_tau=1.0 if tau is None else float(tau),
        parallelism=_choice(settings, "moe_parallelism", MoeParallelism, "exchange"),
        all_to_all=_choice(settings, "moe_all_to_all", AllToAll, "hierarchical"),
        overlap_degree=settings.get("a2a_ffn_overlap_degree") or 1,
        capacity_factor=settings.get("expert_capacity_factor"),
        kernels=_kernels(settings),
        dispatch=_choice(settings, "moe_dispatch", Dispatch, "sorted"),
        routing=settings.get("expert_routing"),
        location=settings.get("init_expert_location"),
        exchange=settings.get("expert_exchange") or "home",
        adapters=_adapters(settings),
    )
    _check_adapters(moe, settings)
    if moe.dispatch == "one-hot" and moe.capacity_factor is None:
        raise UserError("--moe-dispatch one-hot multiplies tokens into slots; add --expert-capacity-factor C")
    _check_cache(moe, settings)
    if settings.get("fused_moe"):
        given = [
            label for label in moe_labels(moe) if not label.startswith(("zero", "moe-all-to-all", "expert-routing"))
        ]
        if given:
            raise UserError(f"--fused-moe is one kernel without padding that hides its exchange; drop --{given[0]}")
    return moe


def _check_cache(moe: MoeTechniques, settings: Mapping[str, Any]) -> None:
    """UserError where a cache of experts would have to hold all of a layer's."""
    for name in ("expert_cache_gb", "expert_cache_size"):
        if settings.get(name) is None:
            continue
        if moe.parallelism in ("gather-weights", "adaptive") or moe.capacity_factor is not None:
            label = next(item for item in moe_labels(moe) if item.startswith(("moe-parallelism", "expert-capacity")))
            raise UserError(f"--{label} reads all experts of a layer; --{name.replace('_', '-')} has a part: drop one")


def check_moe(moe: MoeTechniques, settings: Mapping[str, Any], model: str, is_moe: bool, tp: int, ep: int) -> None:
    """UserError for settings that a model or a layout has no use for."""
    given = {name: settings.get(name) for name in MOE_SETTINGS}
    on = next((n for n, value in given.items() if value is not None and (n, value) != ("zero_expert_num", 0)), None)
    if on is not None and not is_moe:
        raise UserError(f"--{on.replace('_', '-')} describes a mixture of experts; {model} has no experts: drop it")
    spans = (moe.parallelism in ("gather-tokens", "gather-weights")) or moe.all_to_all == "flat"
    if (spans or (moe.overlap_degree > 1 and moe.parallelism == "exchange")) and ep <= tp:
        name = next(label for label in moe_labels(moe) if not label.startswith(("zero", "expert", "moe-kernels")))
        raise UserError(
            f"--{name}: tokens are exchanged only where experts span replicas; ep={ep} is not above tp={tp}. Raise --ep, "
            "or use adaptive"
        )
