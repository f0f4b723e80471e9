"""Routing and placement of experts as settings of a deployment: what the step model takes in place of random routing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any, get_args

from hardware_profiles.errors import UserError, unknown_name
from hardware_profiles.schema import Cluster
from simulator.experts.generate import AFFINITY, generate_routing
from simulator.experts.measure import Exchange, group_sizes, measure
from simulator.experts.placement import Placement, from_ranks, linear_ranks
from simulator.experts.placement_files import read_placement
from simulator.experts.routing import Routing
from simulator.experts.trace_files import read_routing
from simulator.physics.moe import ExpertRouting
from workloads.expressions import bind, number, parse_call
from workloads.layers import MlpSpec
from workloads.model import ModelSpec

DEFAULT_SKEWS = ((16, 1.4), (64, 3.0), (1 << 30, 5.0))
"""Hottest expert over the mean by experts per layer, when no trace is given: Mixtral 1.39 on MMLU (MoE-GPS, arXiv 2506.07366);
7 for Qwen3-30B-A3B within one domain, less for mixed text. Assumptions: measure your own."""
DEFAULT_TOKENS = 8192
MOST_TOKENS = 1 << 20
"""Of generated routing: a GiB or more for the largest models."""
GENERATED = "generated"
PARAMETERS = ("skew", "affinity", "tokens", "drift", "seed")
"""Of generated routing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layers:
    """The MoE layers of a model."""

    mlp: MlpSpec
    numbers: tuple[int, ...]
    """Which of all layers they are."""
    total: int


def moe_layers(model: ModelSpec) -> Layers:
    """UserError for a dense model, and for one whose MoE layers differ."""
    groups = [g for g in model.layers if g.mlp.is_moe]
    if not groups:
        raise UserError(f"--model {model.name}: is dense, it has no experts to place. Use a mixture of experts")
    if len({(g.mlp.num_experts, g.mlp.experts_per_token) for g in groups}) > 1:
        raise UserError(f"--model {model.name}: layers differ in their number of experts; this is not supported")
    order = model.stage_layers(1)[0]
    return Layers(
        mlp=groups[0].mlp,
        numbers=tuple(i for i, g in enumerate(order) if model.layers[g].mlp.is_moe),
        total=len(order),
    )


def default_skew(num_experts: int) -> float:
    """Of generated routing."""
    return next(skew for size, skew in DEFAULT_SKEWS if num_experts <= size)


@lru_cache(maxsize=8)
def _generated(
    num_experts: int, num_layers: int, top_k: int, tokens: int, skew: float, affinity: float, drifted: int, seed: int
) -> Routing:
    return generate_routing(
        num_experts=num_experts,
        num_layers=num_layers,
        top_k=top_k,
        tokens=tokens,
        skew=skew,
        affinity=affinity,
        seed=seed,
        drifted=drifted,
    )


def _parameters(text: str) -> dict[str, float]:
    """Of 'generated(skew=1.4,...)'."""
    call = parse_call(text, "--expert-routing", "a file, or generated(skew=1.4, tokens=8192)")
    values = bind(call, (), PARAMETERS)
    given = {key: number(call, key, value) for key, value in values.items()}
    for key in ("tokens", "seed"):
        if given.get(key, 0.0) % 1:
            raise call.error(f"{key} is {given[key]:g}; it must be a whole number")
    if given.get("tokens", 0.0) > MOST_TOKENS:
        raise call.error(f"tokens is {given['tokens']:g}; it must be at most {MOST_TOKENS:,}")
    if given.get("seed", 0.0) >= 2**63:
        raise call.error(f"seed is {given['seed']:g}; it must be below 2^63")
    return given


def generated_routing(text: str, mlp: MlpSpec, num_layers: int) -> tuple[Routing, int]:
    """(routing, how many of its last tokens have drifted) of 'generated(skew=1.4,drift=0.5)'."""
    given = _parameters(text)
    drift, tokens = given.get("drift", 0.0), int(given.get("tokens", DEFAULT_TOKENS))
    if drift >= 1:
        raise UserError(f"--expert-routing: drift is {drift:g}; it is the share of the last tokens, from 0 to below 1")
    try:
        routing = _generated(
            mlp.num_experts,
            num_layers,
            mlp.experts_per_token,
            tokens,
            given.get("skew", default_skew(mlp.num_experts)),
            given.get("affinity", AFFINITY),
            round(drift * tokens),
            int(given.get("seed", 0)),
        )
    except UserError as error:
        raise UserError(f"--expert-routing '{text}': {error}") from None
    return routing, round(drift * tokens)


def _recorded(path: str, model: ModelSpec, mlp: MlpSpec, num_layers: int) -> Routing:
    routing = read_routing(path, mlp.num_experts)
    if (routing.num_layers, routing.top_k) != (num_layers, mlp.experts_per_token):
        raise UserError(
            f"{path}: {routing.num_layers} layers, top-{routing.top_k}; {model.name} has {num_layers} MoE layers, "
            f"top-{mlp.experts_per_token}. Record the routing of this model"
        )
    return routing


def _placement(path: str | None, model: ModelSpec, layers: Layers, ep: int) -> Placement:
    """That of a file, or what engines do."""
    if path is not None:
        return read_placement(path, layers.mlp.num_experts, ep, layers.numbers, layers.total)
    if layers.mlp.num_experts % ep:
        raise UserError(
            f"--expert-routing: {layers.mlp.num_experts} experts of {model.name} do not divide by ep={ep}; give a placement "
            "with --init-expert-location FILE"
        )
    return from_ranks(linear_ranks(len(layers.numbers), layers.mlp.num_experts, ep), ep)


def _mean(parts: list[tuple[int, ExpertRouting]]) -> ExpertRouting:
    """What tokens of several popularities meet: each part is as imbalanced as it is alone."""
    total = sum(tokens for tokens, _ in parts)

    def mean(values: list[float]) -> float:
        return sum(tokens * value for (tokens, _), value in zip(parts, values, strict=True)) / total

    tiers = range(len(parts[0][1].copies))
    return ExpertRouting(
        busiest_rank=mean([r.busiest_rank for _, r in parts]),
        copies=tuple(mean([r.copies[t] for _, r in parts]) for t in tiers),
        tail=tuple(mean([r.tail[t] for _, r in parts]) for t in tiers),
        exchanges=parts[0][1].exchanges,
    )


def placed_routing(
    settings: Mapping[str, Any], model: ModelSpec, cluster: Cluster, ep: int
) -> tuple[ExpertRouting | None, float]:
    """(what the settings ask the step model to take, copies of experts beyond one per device). (None, 0) without any."""
    text, path = settings.get("expert_routing"), settings.get("init_expert_location")
    exchange = settings.get("expert_exchange")
    for name, value in (("init-expert-location", path), ("expert-exchange", exchange)):
        if value is not None and text is None:
            raise UserError(f"--{name} acts on known routing; add --expert-routing FILE, or --expert-routing generated")
    if text is None:
        return None, 0.0
    if exchange not in (None, *get_args(Exchange)):
        raise unknown_name("expert exchange", str(exchange), get_args(Exchange))
    if settings.get("moe_skew"):
        raise UserError("--moe-skew and --expert-routing both say which experts tokens choose; drop one")
    if ep < 2:
        raise UserError(f"--expert-routing places experts on ranks; ep={ep} has one group of all. Use --ep 2 or more")
    layers = moe_layers(model)
    drifted = 0
    if str(text).partition("(")[0].strip() == GENERATED:
        routing, drifted = generated_routing(str(text), layers.mlp, len(layers.numbers))
    else:
        routing = _recorded(str(text), model, layers.mlp, len(layers.numbers))
    placement = _placement(path, model, layers, ep)
    sizes = group_sizes(cluster, ep)
    cut = routing.num_tokens - drifted
    parts = [replace(routing, experts=e) for e in (routing.experts[:cut], routing.experts[cut:]) if len(e)]
    measured = [(part.num_tokens, measure(part, placement, sizes, exchange or "home")) for part in parts]
    return _mean(measured), (placement.slots.shape[1] - placement.num_experts) / ep
