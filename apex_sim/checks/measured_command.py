"""``apex-sim check --measured``: arguments, printing, exit code."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from hardware_profiles.errors import UserError

if TYPE_CHECKING:
    from apex_sim.checks.measured import MeasuredComparison, MeasuredRow

LOAD = ("rate", "concurrency", "input_len", "output_len", "num_requests")


def add_measured(parser: argparse.ArgumentParser) -> None:
    """--measured, what stands in for what its files leave open, and the deployment."""
    from apex_sim import options

    group = parser.add_argument_group("a benchmark beside its prediction (docs/checks.md)")
    group.add_argument(
        "--measured",
        nargs="+",
        metavar="FILE",
        help="results of vllm bench serve, sglang bench_serving, GenAI-Perf, AIPerf, GuideLLM, InferenceX, or a vLLM "
        "server's log; instead of a suite",
    )
    group.add_argument("--metric", action="append", metavar="NAME", help="only this metric (may be repeated)")
    group.add_argument("--rate", type=float, metavar="PER_S", help="requests per second, instead of the file's")
    group.add_argument("--concurrency", type=int, metavar="N", help="requests in flight, instead of the file's")
    group.add_argument("--input-len", metavar="DIST", help="prompt tokens, instead of the file's")
    group.add_argument("--output-len", metavar="DIST", help="output tokens, instead of the file's")
    group.add_argument("--num-requests", type=int, metavar="N", help="requests, instead of the file's")
    group.add_argument("--cluster", metavar="SPEC", help="what they were measured on: h100-sxm:8 ...")
    options.add_deployment(parser, fixed=False)
    options.add_plan(parser)
    options.add_pools(parser)


def run_measured(args: argparse.Namespace) -> int:
    """Simulate what was sent, print both, 1 when --rtol is given and a figure is off by more."""
    from apex_sim.checks.measured import compare_measured, read_all
    from apex_sim.checks.measured_pools import pools_on
    from apex_sim.checks.measured_text import measured_dict
    from apex_sim.files import prepare_file, to_json, write_text
    from apex_sim.text import ProgressBar

    target = prepare_file(args.json, "--json") if args.json not in (None, "-") else None
    results = read_all(args.measured, **stated_load(args))
    with ProgressBar("simulating") as progress:
        found = compare_measured(
            results,
            args.model,
            deployment_of(args),
            metrics=args.metric,
            jobs=args.jobs or os.cpu_count() or 1,
            progress=progress,
            pools=pools_on(args.disaggregate, args.kv_link, args.kv_overlap),
        )
    if target is not None:
        write_text(target, to_json(measured_dict(found)))
    off = [(c.place, row) for c in found for row in c.beyond(args.rtol)] if args.rtol is not None else []
    kind = "json" if args.json == "-" else args.format
    _print(found, kind, _verdict(args.rtol, [row for _, row in off]))
    if kind == "github":
        for place, row in off:
            text = f"{place}: {row.name} measured {row.measured:.4g}, predicted {row.predicted:.4g} ({row.error:+.1%})"
            print(f"::error title=apex-sim::{text.replace('%', '%25')}")
    return 1 if off else 0


def _verdict(rtol: float | None, off: Sequence[MeasuredRow]) -> str:
    if rtol is None:
        return ""
    limit = f"{rtol * 100:.4g}%"
    if not off:
        return f"passed: every prediction is within {limit}"
    return f"FAILED: beyond {limit}: " + ", ".join(f"{row.name} {row.error:+.1%}" for row in off)


def _print(found: Sequence[MeasuredComparison], kind: str, verdict: str) -> None:
    from apex_sim.checks.github import append_summary
    from apex_sim.checks.measured_text import measured_dict, measured_markdown, measured_text
    from apex_sim.files import to_json

    if kind == "json":
        print(to_json(measured_dict(found)), end="")
    elif kind == "markdown":
        print(measured_markdown(found, verdict), end="")
    else:
        print(measured_text(found) + (f"\n\n{verdict}" if verdict else ""))
    if kind == "github":
        append_summary(measured_markdown(found, verdict))


def stated_load(args: argparse.Namespace) -> dict[str, Any]:
    """What the user states about the load, checked, under the names of BenchResult."""
    from workloads.lengths import parse_length

    if args.rate is not None and args.concurrency is not None:
        raise UserError("--rate and --concurrency exclude each other; requests came in one of these ways")
    for name in ("rate", "concurrency", "num_requests"):
        value = getattr(args, name)
        if value is not None and not 0 < value < float("inf"):
            raise UserError(f"--{name.replace('_', '-')} is {value:g}; it must be above 0")
    for name in ("input_len", "output_len"):
        if getattr(args, name) is not None:
            parse_length(getattr(args, name), what=f"--{name.replace('_', '-')}")
    names = {"rate": "rate_per_s"}
    return {names.get(name, name): getattr(args, name) for name in LOAD}


def deployment_of(args: argparse.Namespace) -> dict[str, Any]:
    """Fields of a MeasuredRun from the arguments; degrees left at 1 may be the file's."""
    from apex_sim import options
    from hardware_profiles.cluster import parse_cluster

    if args.cluster is None:
        raise UserError("--measured needs --cluster: what the benchmark ran on, such as h100-sxm:8")
    parse_cluster(args.cluster)
    settings = {name: value for name, value in options.engine_settings(args).items() if value is not None}
    degrees = {name: getattr(args, name) for name in ("tp", "pp", "dp", "ep") if getattr(args, name) != 1}
    return {"cluster": args.cluster, "engine": args.engine, "settings": settings, **degrees}
