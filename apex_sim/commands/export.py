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
    parser.add_argument("plan", metavar="PLAN.json", nargs="?", help="what --json of apex-sim plan or gpus wrote")
    parser.add_argument("--out", metavar="DIR", help="folder for the files")
    parser.add_argument(
        "--check",
        metavar="DIR",
        help="instead: whether the files of an export, edited by hand, still are the plan's (exit code 1: not)",
    )
    parser.add_argument(
        "--measured", metavar="FILE", help="with --check: the result of bench.sh beside the expected figures"
    )
    parser.add_argument(
        "--engine-version", metavar="VERSION", help="of the server, if not the one that was planned for"
    )
    add_json(parser, "what was written")
    parser.add_argument("--image", metavar="NAME", help="container image (default: the engine's own of that version)")
    parser.add_argument(
        "--volume-claim",
        metavar="NAME",
        help="PersistentVolumeClaim that keeps the weights (default: each pod downloads)",
    )
    parser.add_argument("--namespace", metavar="NAME", help="of the manifests (default: that of kubectl's context)")


def run(args: argparse.Namespace) -> int:
    """Read, check, write."""
    from apex_sim.exporting import read_export, write_export
    from planners.export.bundle import at_version
    from planners.export.place import Place

    _check_options(args)
    if args.check is not None:
        return _check(args)
    export = read_export(args.plan)
    if args.engine_version is not None:
        export = at_version(export, args.engine_version)
    place = Place(volume_claim=args.volume_claim, namespace=args.namespace)
    names = write_export(export, args.out, image=args.image, flag="--out", place=place)
    if not wants_json(args, {"folder": args.out, "files": list(names)}):
        print(f"wrote {', '.join(names)} to {args.out}")
    return 0


def _check_options(args: argparse.Namespace) -> None:
    """UserError unless either a plan is written or a folder is checked."""
    from hardware_profiles.errors import UserError

    if args.check is None:
        missing = [name for name, value in (("PLAN.json", args.plan), ("--out", args.out)) if value is None]
        if missing:
            raise UserError(f"apex-sim export needs {' and '.join(missing)} (or --check DIR)")
        if args.measured is not None:
            raise UserError("--measured has no meaning without --check; give the folder of the export")
        return
    for name in ("plan", "out", "engine_version", "image", "volume_claim", "namespace"):
        if getattr(args, name) is not None:
            flag = "PLAN.json" if name == "plan" else f"--{name.replace('_', '-')}"
            raise UserError(f"--check reads a folder and writes nothing; leave {flag} out")


def _check(args: argparse.Namespace) -> int:
    """Read a folder again, and a benchmark if there is one."""
    import dataclasses

    from apex_sim.export_check import check_export, compare_folder, text_of

    files = check_export(args.check)
    rows, notes = ([], []) if args.measured is None else compare_folder(args.check, args.measured)
    values = {"folder": args.check, "files": [dataclasses.asdict(file) for file in files], "notes": notes}
    if not wants_json(args, values | {"measured": [dataclasses.asdict(row) for row in rows]}):
        print(text_of(files, rows, notes))
    return 0 if all(file.good for file in files) else 1
