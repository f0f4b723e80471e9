"""``apex-sim experts``: which expert of a mixture of experts goes on which GPU, and what that gains."""

from __future__ import annotations

import argparse

from apex_sim import options
from apex_sim.html.write import add_report


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


def run(args: argparse.Namespace) -> int:
    """Place, simulate, print, write."""
    from apex_sim.experts_inputs import moe_layers, question_of
    from apex_sim.experts_report import experts_dict, experts_text
    from apex_sim.files import prepare_file, to_json, write_atomically, write_text
    from apex_sim.html.write import prepare_report, repeated
    from hardware_profiles.errors import UserError
    from planners.experts.outcome import answer
    from simulator.experts.placement_files import placement_dict, read_placement
    from simulator.experts.trace_files import write_routing

    named = {"--out": args.out, "--json": args.json, "--save-routing": args.save_routing}
    files = {flag: prepare_file(p, flag) for flag, p in named.items() if p is not None and (flag, p) != ("--json", "-")}
    if len(set(files.values())) < len(files):
        raise UserError(f"{', '.join(files)}: two of them name the same file; name one each")
    if args.save_routing is not None and not args.save_routing.endswith(".npz"):
        raise UserError(f"--save-routing {args.save_routing}: the ending must be .npz")
    report, question = prepare_report(args.report), question_of(args)
    deployment = question.deployment
    _, numbers, layers = moe_layers(deployment.model)
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
