"""``apex-sim doctor``: whether the installation is complete and works."""

from __future__ import annotations

import argparse

from apex_sim.json_option import add_json


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "doctor",
        help="check the installation: versions, solvers, GPUs, profiles, extras, folders",
        description="Check versions of what is required, solve a small problem with each solver, look for GPUs, load and "
        "check every bundled profile, list optional extras, and see whether the cache can be written. Exit code 1 when "
        "something required fails.",
    )
    add_json(parser, "the findings")


def run(args: argparse.Namespace) -> int:
    """Examine, print; 1 when a check failed."""
    from apex_sim.doctor import as_dict, as_text, examine, healthy
    from apex_sim.json_option import wants_json

    findings = examine()
    if not wants_json(args, as_dict(findings)):
        print(as_text(findings))
    return 0 if healthy(findings) else 1
