"""``apex-sim calibrate``: measure this machine's own kernels (or, with --serve, a small engine) and write a profile."""

from __future__ import annotations

import argparse
from importlib import import_module
from importlib.util import find_spec

SERVE = "simulator.serve_runner"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``calibrate``; --device, --out, --quick and --json are shared with --serve."""
    parser = subparsers.add_parser("calibrate", help="measure a real device and write its hardware profile")
    parser.add_argument("--device", default="cpu", metavar="cpu|cuda:N", help="what to measure (%(default)s)")
    parser.add_argument("--out", metavar="FILE", help="the profile to write, YAML")
    parser.add_argument("--quick", action="store_true", help="fewer shapes: under two minutes")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--serve", action="store_true", help="run a small serving engine instead of single kernels")
    serve = import_module(SERVE) if find_spec(SERVE) is not None else None
    if hasattr(serve, "add_arguments"):
        serve.add_arguments(parser.add_argument_group("with --serve"))


def run(args: argparse.Namespace) -> int:
    """Dispatch to the serving engine or to the kernels."""
    if args.serve:
        code: int = import_module(SERVE).run(args)
        return code
    from hardware_profiles.errors import UserError

    raise UserError("--device: the kernel-runner is not part of this version yet; use a bundled profile")
