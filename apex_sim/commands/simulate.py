"""``apex-sim simulate``: one deployment, one workload, what the clients see."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from apex_sim import options
from apex_sim.commands.simulate_timeline import add_timeline, timeline_file
from apex_sim.elastic_options import add_elastic, elasticity_of
from apex_sim.html.write import add_report


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "simulate",
        help="predict latency, throughput, cost and energy of one deployment",
        description="Predict how one deployment serves a workload.",
        epilog="Example: apex-sim simulate --model llama-3.1-70b --cluster h100-sxm:8 --tp 8 --rate 4 "
        "--input-len 'lognormal(median=660,sigma=0.9)' --output-len 180 --slo ttft=1s,tpot=50ms",
    )
    _add_arguments(parser)


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    options.add_deployment(parser)
    options.add_plan(parser)
    options.add_pools(parser)
    options.add_workload(parser)
    options.add_terms(parser)
    add_elastic(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--json", metavar="FILE", help="write the summary, field names as vllm bench serve ('-': stdout)"
    )
    output.add_argument("--out", metavar="DIR", help="write requests, timeline, summary, plots and configuration")
    add_report(output)
    add_timeline(output)
    parser.add_argument("--exact-steps", action="store_true", help="one engine step per event: same result, slower")


def run(args: argparse.Namespace) -> int:
    """Simulate, print, write."""
    from apex_sim.api import check_pools_served
    from apex_sim.commands import simulate_pools
    from apex_sim.files import prepare_file, prepare_folder, to_json, write_text
    from apex_sim.html.simulate import simulation_report
    from apex_sim.html.write import prepare_report, repeated
    from apex_sim.repeat import options_of
    from apex_sim.report import summary_text, write_run
    from apex_sim.text import ProgressBar
    from simulator.simulate import simulate_deployment
    from simulator.simulate_disaggregated import simulate_disaggregated
    from workloads.slo import parse_slo

    slo = parse_slo(args.slo) if args.slo is not None else None
    pools = args.disaggregate is not None
    deployment: Any = _pools(args) if pools else _deployment(args)
    trace = options.workload_of(args)
    check_pools_served(deployment, trace)
    json_file = prepare_file(args.json, "--json") if args.json not in (None, "-") else None
    folder = prepare_folder(args.out) if args.out is not None else None
    report, timeline = prepare_report(args.report), timeline_file(args)
    simulate: Any = simulate_disaggregated if pools else simulate_deployment
    with ProgressBar("simulating") as progress:
        result = simulate(
            deployment,
            trace,
            slo=slo,
            seed=args.seed,
            exact_steps=args.exact_steps,
            progress=progress,
            watch=None if timeline is None else timeline.watch,
        )
    if args.json == "-":
        print(to_json(result.summary), end="")
    else:
        print(summary_text(result))
    if json_file is not None:
        write_text(json_file, to_json(result.summary))
    config = (simulate_pools.config if pools else resolved_config)(args, deployment) if folder or report else {}
    if folder is not None:
        paths = write_run(result, folder, {"options": options_of(args), **config})
        print(f"\nwrote {', '.join(path.name for path in paths)} to {folder}")
    if report is not None:
        write_text(report, simulation_report(result, **repeated(args, config)))
    if timeline is not None:
        print(timeline.write(result), file=sys.stderr if args.json == "-" else sys.stdout)
    return 0


def _pools(args: argparse.Namespace) -> Any:
    """Two pools that the arguments ask for."""
    import dataclasses

    from apex_sim.commands import simulate_pools

    pair = simulate_pools.build(args, options.engine_settings(args))
    return dataclasses.replace(pair, elasticity=elasticity_of(args))


def _deployment(args: argparse.Namespace) -> Any:
    """One pool that the arguments ask for."""
    import dataclasses

    from apex_sim.api import build_deployment
    from apex_sim.commands import simulate_pools

    elasticity = elasticity_of(args)
    simulate_pools.refuse_link(args)
    deployment = build_deployment(
        args.model,
        options.cluster_of(args),
        engine=args.engine,
        tp=args.tp,
        pp=args.pp,
        dp=args.dp,
        ep=args.ep,
        **options.engine_settings(args),
    )
    if elasticity is not None:
        deployment = dataclasses.replace(deployment, elasticity=elasticity)
    _ = deployment.memory, deployment.step_model
    return deployment


def resolved_config(args: argparse.Namespace, deployment: Any) -> dict[str, Any]:
    """All that is needed to repeat the run, with every default filled in."""
    from apex_sim import __version__
    from apex_sim.repeat import command_of
    from apex_sim.resolved import deployment_config

    return {
        "apex_sim_version": __version__,
        **deployment_config(deployment),
        "workload": options.workload_config(args),
        "command": command_of(args),
    }
