"""What the arguments of ``apex-sim experts`` ask: deployment, routing, search, what is compared."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from apex_sim import options

if TYPE_CHECKING:
    from planners.experts.outcome import Question
    from simulator.deployment import Deployment
    from simulator.experts.placement import Placement
    from simulator.experts.routing import Routing
    from workloads.layers import MlpSpec
    from workloads.model import ModelSpec


def moe_layers(model: ModelSpec) -> tuple[MlpSpec, tuple[int, ...], int]:
    """(experts of a layer, numbers of the MoE layers, number of all layers); UserError for a dense or mixed model."""
    from simulator.experts.settings import moe_layers as layers_of

    layers = layers_of(model)
    return layers.mlp, layers.numbers, layers.total


def _groups(args: argparse.Namespace, model: ModelSpec) -> int | None:
    """Groups that the model routes by: as asked for; 8 for DeepSeek-V2, V3 and R1 (n_group of their config.json)."""
    if args.expert_groups is not None or "deepseek" not in model.name.lower():
        groups: int | None = args.expert_groups
        return groups
    return 8 if moe_layers(model)[0].num_experts in (160, 256) else None


def _drifted(args: argparse.Namespace) -> int:
    """Tokens that drift, of those that the plan does not see."""
    from hardware_profiles.errors import UserError

    if not 0 <= args.drift <= 1:
        raise UserError(f"--drift is {args.drift:g}; it is a share of the judging tokens, from 0 to 1")
    if args.drift and args.routing_trace is not None:
        raise UserError("--drift describes generated routing; it cannot be combined with --routing-trace")
    unseen = args.tokens - max(1, round(args.plan_share * args.tokens))
    count: int = round(args.drift * unseen)
    if args.drift and count < 2:
        raise UserError(f"--drift {args.drift:g}: {count} tokens would drift; it must be at least 2. Use more --tokens")
    return count


def _deployment(args: argparse.Namespace) -> Deployment:
    from apex_sim.api import build_deployment, load_cluster
    from hardware_profiles.errors import UserError

    for name, own in (
        ("expert_routing", "routing-trace"),
        ("init_expert_location", "placement"),
        ("expert_exchange", "exchange"),
    ):
        if getattr(args, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} is of simulate and plan; here use --{own}")
    cluster = load_cluster(args.cluster)
    ranks = cluster.num_devices if args.ep is None else args.ep
    if ranks < 2:
        raise UserError(f"--ep is {ranks}; experts are placed on at least 2 GPUs")
    if args.tp < 1 or ranks % args.tp:
        raise UserError(f"--tp is {args.tp}; it must divide --ep {ranks}")
    settings: Any = options.engine_settings(args)
    return build_deployment(
        args.model, cluster, engine=args.engine, tp=args.tp, dp=ranks // args.tp, ep=ranks, **settings
    )


def _routing(args: argparse.Namespace, model: ModelSpec) -> Routing:
    """The trace, or generated routing; checked against the model."""
    from hardware_profiles.errors import UserError
    from simulator.experts.generate import AFFINITY, generate_routing
    from simulator.experts.routing import Routing
    from simulator.experts.settings import default_skew
    from simulator.experts.trace_files import read_routing

    mlp, numbers, _ = moe_layers(model)
    layers = len(numbers)
    if args.routing_trace is None:
        return generate_routing(
            num_experts=mlp.num_experts,
            num_layers=layers,
            top_k=mlp.experts_per_token,
            tokens=args.tokens,
            skew=default_skew(mlp.num_experts) if args.skew is None else args.skew,
            affinity=AFFINITY if args.affinity is None else args.affinity,
            seed=args.seed,
            drifted=_drifted(args),
        )
    _drifted(args)
    for name in ("skew", "affinity"):
        if getattr(args, name) is not None:
            raise UserError(f"--{name} describes generated routing; it cannot be combined with --routing-trace")
    given = args.routing_trace
    routing = given if isinstance(given, Routing) else read_routing(given, mlp.num_experts)
    if (routing.num_layers, routing.top_k) != (layers, mlp.experts_per_token):
        raise UserError(
            f"{routing.name}: {routing.num_layers} layers, top-{routing.top_k}; {model.name} has {layers} MoE layers, "
            f"top-{mlp.experts_per_token}. Record the routing of this model"
        )
    if routing.num_tokens < 2:
        raise UserError(f"{routing.name}: holds 1 token; at least 2 are needed, some to plan and some to judge")
    return routing


def _given(args: argparse.Namespace, deployment: Deployment) -> tuple[tuple[str, Placement], ...]:
    """The placement of a file, checked against the model."""
    from pathlib import Path

    from simulator.experts.placement_files import read_placement

    if args.placement is None:
        return ()
    mlp, numbers, layers = moe_layers(deployment.model)
    placement = read_placement(args.placement, mlp.num_experts, deployment.plan.ep, numbers, layers)
    return ((Path(args.placement).name, placement),)


def question_of(args: argparse.Namespace) -> Question:
    """All that is asked, checked; nothing is searched yet."""
    from apex_sim.api import check_served
    from hardware_profiles.errors import UserError
    from planners.experts.outcome import Question
    from planners.experts.search import SearchSettings
    from simulator.build import model_of
    from workloads.slo import as_slo

    if not 0 < args.plan_share < 1:
        raise UserError(f"--plan-share is {args.plan_share:g}; it must be above 0 and below 1, for example 0.5")
    if args.batch < 1:
        raise UserError(f"--batch is {args.batch}; it must be at least 1")
    slo = as_slo(args.slo)
    moe_layers(model_of(args.model))
    deployment = _deployment(args)
    trace = options.workload_of(args)
    question = Question(
        deployment=deployment,
        routing=_routing(args, deployment.model),
        settings=SearchSettings(
            slack=args.slack,
            redundant=args.redundant,
            groups=_groups(args, deployment.model),
            ilp_steps=args.ilp_steps,
        ),
        given=_given(args, deployment),
        drifted=_drifted(args),
        plan_share=args.plan_share,
        exchange=args.exchange,
        batch=args.batch,
        trace=trace,
        slo=slo,
        seed=args.seed,
    )
    question.check()
    check_served(deployment, trace)
    return question
