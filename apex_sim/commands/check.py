"""``apex-sim check``: predictions beside a stored baseline, for CI."""

from __future__ import annotations

import argparse
import os
import sys
from typing import TYPE_CHECKING, Any

from apex_sim.checks.measured_command import add_measured

if TYPE_CHECKING:
    from apex_sim.checks.compare import CheckResult

FORMATS = ("text", "github", "markdown", "json")


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "check",
        help="compare predictions with a stored baseline (for CI)",
        description="Simulate the cases of a suite (YAML, docs/checks.md) and compare them with the stored baseline. "
        "Exit code 1: a case became worse than its tolerance, or cannot be compared; 2: a mistake in what was given.",
        epilog="Example: apex-sim check suite.yaml --format github --junit check.xml; "
        "apex-sim check suite.yaml --update --reason 'new kernel table'",
    )
    parser.add_argument("suite", metavar="SUITE", nargs="?", help="the suite, a YAML file (not with --measured)")
    parser.add_argument(
        "--baseline", metavar="FILE", help="stored values (default: as the suite says, or SUITE.baseline.yaml)"
    )
    parser.add_argument("--match", metavar="TEXT", help="only cases whose name has this in it ('*' as in file names)")
    parser.add_argument("--rtol", metavar="SHARE", help="default relative tolerance, such as 0.02 or 2%%")
    parser.add_argument("--atol", type=float, metavar="VALUE", help="default absolute tolerance, in the metric's unit")
    parser.add_argument("--strict", action="store_true", help="improvements and left-over baseline entries fail too")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="processes (0: one per core)")
    parser.add_argument("--update", action="store_true", help="write today's values as the baseline")
    parser.add_argument("--reason", metavar="TEXT", help="with --update: why the values change; stored beside them")
    add_measured(parser)
    output = parser.add_argument_group("output")
    output.add_argument(
        "--format",
        choices=FORMATS,
        default="text",
        help="text; github: annotations as well, and a table in the job's summary ($GITHUB_STEP_SUMMARY)",
    )
    output.add_argument("--all", action="store_true", help="every metric, also those that are as stored")
    output.add_argument("--junit", metavar="FILE", help="write JUnit XML")
    output.add_argument("--json", metavar="FILE", help="write everything as JSON ('-': stdout)")


def run(args: argparse.Namespace) -> int:
    """Check, update or compare with a benchmark; 1 for a regression."""
    from apex_sim.checks.measured_command import run_measured

    _validate(args)
    if args.measured is not None:
        return run_measured(args)
    if args.update:
        return _update(args)
    return _check(args)


def _validate(args: argparse.Namespace) -> None:
    from hardware_profiles.errors import UserError

    if args.rtol is not None:
        args.rtol = _share(args.rtol)
    if args.atol is not None and not 0.0 <= args.atol < float("inf"):
        raise UserError(f"--atol is {args.atol:g}; it must be a finite number of at least 0")
    if args.jobs < 0:
        raise UserError(f"--jobs is {args.jobs}; it must be at least 1 (or 0 for one per core)")
    _check_mode(args)
    if args.reason is not None and not args.update:
        raise UserError("--reason goes with --update; add it, or leave --reason out")
    for name in ("rtol", "atol", "junit", "json"):
        if args.update and getattr(args, name) is not None:
            raise UserError(f"--{name} is about a comparison, and --update makes none; leave one of them out")


def _share(text: str) -> float:
    """--rtol, as a suite writes it: 0.02 or 2%."""
    from apex_sim.checks.metrics import share_of
    from hardware_profiles.errors import UserError

    try:
        return share_of(float(text), "--rtol")
    except UserError:
        raise
    except ValueError:
        return share_of(text, "--rtol")


OF_SUITES = ("suite", "baseline", "match", "atol", "strict", "update", "reason", "junit", "all")
"""Arguments that --measured has no use for."""


def _check_mode(args: argparse.Namespace) -> None:
    """An argument of the other mode would be ignored, so it is refused."""
    from hardware_profiles.errors import UserError

    if args.measured is not None:
        given = [name for name in OF_SUITES if getattr(args, name) not in (None, False)]
        if given:
            what = "a suite" if given[0] == "suite" else f"--{given[0]}"
            raise UserError(f"{what} and --measured exclude each other; leave one of them out")
        return
    if args.suite is None:
        raise UserError("give a suite (docs/checks.md), or --measured FILE with --cluster")
    probe = argparse.ArgumentParser(add_help=False)
    add_measured(probe)
    for name, value in vars(probe.parse_args([])).items():
        if getattr(args, name) != value:
            raise UserError(f"--{name.replace('_', '-')} is about --measured; a suite says itself what it simulates")


def _jobs(args: argparse.Namespace) -> int:
    return int(args.jobs or os.cpu_count() or 1)


def _update(args: argparse.Namespace) -> int:
    from apex_sim.checks.run import update
    from apex_sim.text import ProgressBar

    reason = args.reason if args.reason is not None else _asked()
    with ProgressBar("simulating") as progress:
        changed, removed = update(
            args.suite, reason, baseline=args.baseline, match=args.match, jobs=_jobs(args), progress=progress
        )
    for names, what in ((changed, "changed"), (removed, "removed")):
        if names:
            print(f"{len(names)} {'entry' if len(names) == 1 else 'entries'} {what}: {', '.join(names)}")
    if not changed and not removed:
        print("nothing changed; the file is as it was")
    return 0


def _asked() -> str:
    """The reason, from the person at the terminal."""
    from hardware_profiles.errors import UserError

    if sys.stdin is None or not sys.stdin.isatty():
        raise UserError("--update needs --reason TEXT: a line that says why the values change")
    try:
        return input("why do the values change? ")
    except EOFError:
        return ""


def _check(args: argparse.Namespace) -> int:
    from apex_sim.checks.junit import junit_xml
    from apex_sim.checks.run import check
    from apex_sim.files import prepare_file, to_json, write_text
    from apex_sim.text import ProgressBar

    junit = prepare_file(args.junit, "--junit") if args.junit is not None else None
    json_file = prepare_file(args.json, "--json") if args.json not in (None, "-") else None
    with ProgressBar("simulating") as progress:
        result = check(
            args.suite,
            baseline=args.baseline,
            match=args.match,
            rtol=args.rtol,
            atol=args.atol,
            strict=args.strict,
            jobs=_jobs(args),
            progress=progress,
        )
    if junit is not None:
        write_text(junit, junit_xml(result))
    if json_file is not None:
        write_text(json_file, to_json(as_dict(result)))
    _print(result, "json" if args.json == "-" else args.format, everything=args.all)
    return 0 if result.passed else 1


def _print(result: CheckResult, kind: str, *, everything: bool) -> None:
    from apex_sim.checks.github import annotation_lines, append_result
    from apex_sim.checks.text import result_markdown, result_text
    from apex_sim.files import to_json

    if kind == "json":
        print(to_json(as_dict(result)), end="")
    elif kind == "markdown":
        print(result_markdown(result), end="")
    else:
        print(result_text(result, everything=everything))
    if kind == "github":
        for line in annotation_lines(result):
            print(line)
        append_result(result)


def as_dict(result: CheckResult) -> dict[str, Any]:
    """Everything, for JSON."""
    return {
        "suite": str(result.suite),
        "baseline": str(result.baseline),
        "passed": result.passed,
        "stale": list(result.stale),
        "cases": [
            {
                "name": case.name,
                "status": case.status,
                "fails": case.fails(result.strict),
                "failure": case.failure,
                "values": dict(case.values),
                "differences": [
                    {
                        "metric": d.metric,
                        "baseline": d.baseline,
                        "value": d.value,
                        "change": d.change,
                        "allowed": d.allowed,
                        "verdict": d.verdict,
                    }
                    for d in case.differences
                ],
            }
            for case in result.cases
        ],
    }
