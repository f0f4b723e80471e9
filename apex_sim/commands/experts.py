"""``apex-sim experts``: which expert of a mixture of experts goes on which GPU, and what that gains."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from apex_sim import options
from apex_sim.html.write import add_report

if TYPE_CHECKING:
    from simulator.deployment import Deployment
    from simulator.experts.placement import Placement
    from simulator.experts.routing import Routing
    from workloads.layers import MlpSpec
    from workloads.model import ModelSpec


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "experts",
        help="place the experts of a MoE model on GPUs: balanced load, little traffic",
        description="Place experts so that GPUs carry equal token loads in every layer and few tokens change GPU or node "
        "between layers; compare with the usual placements, and simulate a workload on each.",
        epilog="Example: apex-sim experts --model mixtral-8x7b --cluster h100-sxm:4 --out placement.json",
    )
    options.add_deployment(parser)
    group = parser.add_argument_group("layout")
    group.add_argument(
        "--ep", type=int, metavar="N", help="GPUs the experts are spread over (default: all of the cluster)"
    )
    group.add_argument(
        "--tp", type=int, default=1, metavar="N", help="tensor parallel degree of the rest (dp = ep / tp)"
    )
    group.add_argument("--redundant", type=int, default=0, metavar="N", help="further copies of hot experts, per layer")
    group.add_argument(
        "--expert-groups", type=int, metavar="N", help="groups the model routes by, for EPLB by groups (DeepSeek: 8)"
    )
    routing = parser.add_argument_group("routing (a recorded trace, or a generated one)")
    routing.add_argument("--routing-trace", metavar="FILE", help=".npz or .parquet: experts of tokens x layers x top-k")
    routing.add_argument("--tokens", type=int, default=8192, metavar="N", help="tokens to generate")
    routing.add_argument("--skew", type=float, metavar="X", help="hottest expert over the mean (default by experts)")
    routing.add_argument("--affinity", type=float, metavar="X", help="of consecutive layers, 0: none (default 1)")
    routing.add_argument(
        "--drift", type=float, default=0.0, metavar="X", help="share of the judging tokens with popularity redrawn"
    )
    routing.add_argument("--save-routing", metavar="FILE", help="write the routing as .npz")
    search = parser.add_argument_group("search")
    search.add_argument(
        "--slack", type=float, default=0.01, metavar="X", help="imbalance above the bound traded for less traffic"
    )
    search.add_argument(
        "--plan-share", type=float, default=0.5, metavar="X", help="share of the tokens to plan on; the rest judges"
    )
    search.add_argument(
        "--ilp-steps", type=int, default=24, metavar="N", help="layers re-placed by ILP 2 after the local search"
    )
    search.add_argument("--placement", metavar="FILE", help="a placement (.json) to judge beside the others")
    search.add_argument(
        "--exchange",
        choices=("home", "onward"),
        default="home",
        help="tokens return to their rank after each layer (all engines), or go on from expert to expert (ExFlow)",
    )
    search.add_argument("--batch", type=int, default=64, metavar="N", help="sequences per replica of the step shown")
    options.add_workload(parser)
    output = parser.add_argument_group("output")
    output.add_argument("--out", metavar="FILE", help="write the placement as JSON")
    output.add_argument(
        "--out-layers",
        choices=("moe", "all"),
        default="moe",
        help="rows of that file: MoE layers (vLLM) or all layers of the model (SGLang)",
    )
    add_report(output)
    output.add_argument("--json", metavar="FILE", help="write all figures ('-': stdout)")


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
    from apex_sim.api import build_deployment
    from hardware_profiles.cluster import parse_cluster
    from hardware_profiles.errors import UserError

    for name, own in (
        ("expert_routing", "routing-trace"),
        ("init_expert_location", "placement"),
        ("expert_exchange", "exchange"),
    ):
        if getattr(args, name) is not None:
            raise UserError(f"--{name.replace('_', '-')} is of simulate and plan; here use --{own}")
    cluster = parse_cluster(args.cluster)
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
    routing = read_routing(args.routing_trace, mlp.num_experts)
    if (routing.num_layers, routing.top_k) != (layers, mlp.experts_per_token):
        raise UserError(
            f"{args.routing_trace}: {routing.num_layers} layers, top-{routing.top_k}; {model.name} has {layers} MoE layers, "
            f"top-{mlp.experts_per_token}. Record the routing of this model"
        )
    if routing.num_tokens < 2:
        raise UserError(f"{args.routing_trace}: holds 1 token; at least 2 are needed, some to plan and some to judge")
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


def run(args: argparse.Namespace) -> int:
    """Place, simulate, print, write."""
    from apex_sim.api import check_served
    from apex_sim.experts_report import experts_dict, experts_text
    from apex_sim.files import prepare_file, to_json, write_atomically, write_text
    from apex_sim.html.write import prepare_report, repeated
    from hardware_profiles.errors import UserError
    from planners.experts.outcome import Question, answer
    from planners.experts.search import SearchSettings
    from simulator.experts.placement_files import placement_dict, read_placement
    from simulator.experts.trace_files import write_routing
    from workloads.slo import parse_slo

    if not 0 < args.plan_share < 1:
        raise UserError(f"--plan-share is {args.plan_share:g}; it must be above 0 and below 1, for example 0.5")
    if args.batch < 1:
        raise UserError(f"--batch is {args.batch}; it must be at least 1")
    slo = parse_slo(args.slo) if args.slo is not None else None
    from workloads.catalog import load_model

    moe_layers(load_model(args.model))
    deployment = _deployment(args)
    _, numbers, layers = moe_layers(deployment.model)
    named = {"--out": args.out, "--json": args.json, "--save-routing": args.save_routing}
    files = {flag: prepare_file(p, flag) for flag, p in named.items() if p is not None and (flag, p) != ("--json", "-")}
    if len(set(files.values())) < len(files):
        raise UserError(f"{', '.join(files)}: two of them name the same file; name one each")
    if args.save_routing is not None and not args.save_routing.endswith(".npz"):
        raise UserError(f"--save-routing {args.save_routing}: the ending must be .npz")
    report, trace = prepare_report(args.report), options.workload_of(args)
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
    result = answer(question)
    print(to_json(experts_dict(result)) if args.json == "-" else experts_text(result), end="")
    if "--json" in files:
        write_text(files["--json"], to_json(experts_dict(result)))
    if "--out" in files:
        import json

        tables = placement_dict(result.plan.chosen.placement, numbers, layers, args.out_layers)
        write_text(files["--out"], json.dumps(tables) + "\n")
        read_placement(args.out, question.routing.num_experts, deployment.plan.ep, numbers, layers)
    if report is not None:
        from apex_sim.html.experts import experts_report

        write_text(report, experts_report(result, **repeated(args)))
    if "--save-routing" in files:
        write_atomically(files["--save-routing"], lambda path: write_routing(question.routing, path))
    return 0
