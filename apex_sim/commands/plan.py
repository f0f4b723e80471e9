"""``apex-sim plan``: the best layout and settings for a workload on a cluster, and why."""

from __future__ import annotations

import argparse
import os
from typing import Any

from apex_sim import options
from apex_sim.html.write import add_report


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "plan",
        help="find the best parallel layout and engine settings within an SLO",
        description="Enumerate layouts (TP x PP x DP x EP) and engine settings, drop what does not fit or cannot meet the "
        "SLO, simulate the rest, and print the best plan, the Pareto front and why each other plan lost.",
        epilog="Example: apex-sim plan --model llama-3.1-70b --cluster h100-sxm:8 --trace azure_conv.csv "
        "--slo ttft=1s,tpot=50ms",
    )
    options.add_deployment(parser)
    options.add_workload(parser)
    options.add_terms(parser)
    group = parser.add_argument_group("search")
    group.add_argument(
        "--objective",
        default="cost",
        choices=("cost", "request-cost", "goodput", "ttft", "tpot", "energy", "kwh", "carbon"),
        help="cost: $/1M output tokens (default); request-cost: $/request; goodput; p95 ttft or tpot; energy: J/output "
        "token of the devices; kwh: at the meter, per 1M output tokens; carbon: gCO2e per 1M output tokens",
    )
    group.add_argument("--max-rate", action="store_true", help="also find the highest rate within the SLO")
    group.add_argument(
        "--allow-quantization", metavar="LIST", help="weight formats the planner may use, e.g. fp8 or none,fp8,awq"
    )
    group.add_argument("--allow-kv-cache-dtype", metavar="LIST", help="KV formats the planner may use, e.g. auto,fp8")
    group.add_argument(
        "--search",
        metavar="LIST",
        help="what else may be chosen, any of pd (prefill and decode on replicas of their own), quantization, speculative, "
        "prefix-cache",
    )
    group.add_argument(
        "--draft-acceptance",
        metavar="P",
        help="speculative: probability that a drafted token is right, for all or as ngram=0.3,draft_model=0.7",
    )
    group.add_argument("--kv-link", metavar="LINK", help="pd: between the pools, per device: 50GB/s, 400Gb/s, inf")
    group.add_argument("--kv-overlap", action="store_true", help="pd: KV is sent layer by layer during the prompt")
    group.add_argument("--top", type=int, default=5, metavar="N", help="plans to run on the whole trace and to print")
    group.add_argument("--jobs", type=int, default=0, metavar="N", help="processes (default: one per core)")
    output = parser.add_argument_group("output")
    output.add_argument("--json", metavar="FILE", help="write the plan and all candidates ('-': stdout)")
    output.add_argument("--csv", metavar="FILE", help="write the table of all candidates")
    output.add_argument("--plot", metavar="FILE", help="write the Pareto plot (.png, .svg, .pdf)")
    add_report(output)
    output.add_argument("--out", metavar="DIR", help="write plan.json, candidates.csv, pareto.png and serve.sh")
    output.add_argument(
        "--export",
        metavar="DIR",
        help="write launch commands, Kubernetes manifests and a benchmark that verifies the plan",
    )


def run(args: argparse.Namespace) -> int:
    """Plan, print, write."""
    from apex_sim.api import check_plan
    from apex_sim.exporting import check_exportable, export_of_plan, replay_of_plan, write_export
    from apex_sim.files import prepare_figure, prepare_file, prepare_folder, to_json, write_text
    from apex_sim.html.write import prepare_report, repeated
    from apex_sim.plan_report import plan_dict, plan_text, write_plan
    from apex_sim.plan_space import search_space, with_search
    from apex_sim.text import ProgressBar
    from hardware_profiles.errors import UserError
    from planners.misses import NothingMeets
    from planners.parallel import plan_parallel
    from workloads.catalog import load_model
    from workloads.slo import parse_slo

    if args.top < 1:
        raise UserError(f"--top is {args.top}; it must be at least 1")
    if args.jobs < 0:
        raise UserError(f"--jobs is {args.jobs}; it must be at least 1 (or 0 for one per core)")
    slo = parse_slo(args.slo) if args.slo is not None else None
    if args.max_rate and slo is None:
        raise UserError(
            "--max-rate looks for the highest rate within an SLO; give --slo, for example ttft=1s,tpot=50ms"
        )
    model, cluster = load_model(args.model), options.cluster_of(args)
    allowed = _listed(args.quantization, args.allow_quantization)
    quantizations = None if allowed is None else tuple(None if name == "none" else name for name in allowed)
    kv_cache_dtypes = _listed(args.kv_cache_dtype, args.allow_kv_cache_dtype)
    settings: Any = options.engine_settings(args)
    space = search_space(model, cluster, args.engine, quantizations, kv_cache_dtypes, settings)
    searches = [name.strip() for name in (args.search or "").split(",") if name.strip()]
    if args.search is not None and not searches:
        raise UserError(f"--search is {args.search!r}; name what to choose, for example quantization,prefix-cache")
    trace = options.workload_of(args)
    space = with_search(space, model, cluster, trace, searches, args.kv_link, args.kv_overlap, args.draft_acceptance)
    prepare = {"json": prepare_file, "csv": prepare_file, "plot": prepare_figure}
    files = {
        name: check(path, f"--{name}")
        for name, check in prepare.items()
        if (path := getattr(args, name)) is not None and (name, path) != ("json", "-")
    }
    if args.export is not None:
        check_exportable(args.engine, cluster.device, args.export)
    report = prepare_report(args.report)
    folder = prepare_folder(args.out) if args.out is not None else None
    lost: NothingMeets | None = None
    with ProgressBar("planning") as progress:
        try:
            result = plan_parallel(
                model=model,
                cluster=cluster,
                trace=trace,
                slo=slo,
                space=space,
                objective=args.objective,
                find_max_rate=args.max_rate,
                top=args.top,
                jobs=args.jobs or os.cpu_count() or 1,
                seed=args.seed,
                progress=progress,
            )
        except NothingMeets as error:
            result, lost = error.result, error
    check_plan(result)
    if args.json == "-":
        print(to_json(plan_dict(result)), end="")
    else:
        print(plan_text(result, args.top))
    write_plan(result, files, folder)
    if report is not None:
        from apex_sim.html.plan import plan_report

        write_text(report, plan_report(result, **repeated(args)))
    if lost is not None:
        raise lost
    if folder is not None and args.json != "-":
        print(f"\nwrote plan.json, candidates.csv, pareto.png and serve.sh to {folder}")
    if args.export is not None:
        what = export_of_plan(result)
        names = write_export(what, args.export, more=replay_of_plan(result, what))
        if args.json != "-":
            print(f"\nwrote {', '.join(names)} to {args.export}")
    return 0


def _listed(own: str | None, text: str | None) -> tuple[Any, ...] | None:
    """The format that is set and those of a comma-separated list; None without a list."""
    return None if text is None else (own, *(name.strip() for name in text.split(",") if name.strip()))
