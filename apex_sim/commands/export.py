"""``apex-sim export``: a plan as launch commands, Kubernetes manifests and the benchmark that verifies it."""

from __future__ import annotations

import argparse

from apex_sim.json_option import add_json, wants_json


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "export",
        help="write what starts a plan: commands, Kubernetes manifests, a benchmark to verify it",
        description="Write launch scripts, Kubernetes manifests (for two pools KServe and llm-d) and the benchmark that "
        "verifies a plan, from the JSON of apex-sim plan or gpus. Flags are checked against the engine's version, memory "
        "against the devices, and every file is read back before it is written.",
        epilog="Example: apex-sim plan --model llama-3.1-8b --cluster h100-sxm:2 --slo ttft=1s,tpot=50ms --json plan.json && "
        "apex-sim export plan.json --out deploy",
    )
    parser.add_argument("plan", metavar="PLAN.json", help="what --json of apex-sim plan or gpus wrote")
    parser.add_argument("--out", metavar="DIR", required=True, help="folder for the files")
    parser.add_argument(
        "--engine-version", metavar="VERSION", help="of the server, if not the one that was planned for"
    )
    add_json(parser, "what was written")
    parser.add_argument("--image", metavar="NAME", help="container image (default: the engine's own of that version)")


def run(args: argparse.Namespace) -> int:
    """Read, check, write."""
    from apex_sim.exporting import read_export, write_export
    from planners.export.bundle import at_version

    export = read_export(args.plan)
    if args.engine_version is not None:
        export = at_version(export, args.engine_version)
    names = write_export(export, args.out, image=args.image, flag="--out")
    if not wants_json(args, {"folder": args.out, "files": list(names)}):
        print(f"wrote {', '.join(names)} to {args.out}")
    return 0
