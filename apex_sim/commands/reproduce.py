"""``apex-sim reproduce``: published figures of serving systems beside what the simulator says (docs/case_studies.md)."""

from __future__ import annotations

import argparse

from apex_sim.json_option import add_json, wants_json


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``reproduce`` with ``list``, ``show`` and ``run``."""
    parser = subparsers.add_parser("reproduce", help="run case studies: published systems against the simulator")
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    listing = what.add_parser("list", help="all cases, and the systems that cannot be expressed, with the reason")
    add_json(listing, "the cases")
    show = what.add_parser("show", help="citation, set-up, runs and tolerance of a case")
    show.add_argument("name", metavar="NAME", help="case, or a YAML file of your own")
    add_json(show, "the case")
    run_parser = what.add_parser(
        "run", help="run cases", description="Exit code 1 when a check of grade A or B is outside its band."
    )
    run_parser.add_argument("names", nargs="+", metavar="NAME", help="cases, YAML files of your own, or all")
    run_parser.add_argument("--only", metavar="GRADE|ROW", help="checks of a grade (A, B, C) or of a row such as R07")
    run_parser.add_argument("--jobs", type=int, default=0, metavar="N", help="processes (default: one per core)")
    run_parser.add_argument("--json", metavar="FILE", help="write verdicts and figures ('-': stdout)")
    run_parser.add_argument("--markdown", metavar="FILE", help="write the table as Markdown")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """List, show or run; 1 when a grade A or B check is outside its band."""
    from apex_sim.case_studies.files import load_cases, read_systems

    if args.what == "list":
        from apex_sim.case_studies.report import list_dict, list_text

        cases, systems = load_cases(), read_systems()
        if not wants_json(args, list_dict(cases, systems)):
            print(list_text(cases, systems), end="")
        return 0
    if args.what == "show":
        import dataclasses

        from apex_sim.case_studies.show import case_text

        case = load_cases((args.name,))[0]
        if not wants_json(args, dataclasses.asdict(case)):
            print(case_text(case), end="")
        return 0
    return _run(args)


def _run(args: argparse.Namespace) -> int:
    import os

    from apex_sim.case_studies.files import load_cases, read_systems
    from apex_sim.case_studies.report import markdown, missing_systems, results_dict, results_text
    from apex_sim.case_studies.sweep import pick, run_checks
    from apex_sim.files import prepare_file, to_json, write_text
    from apex_sim.text import ProgressBar
    from hardware_profiles.errors import UserError

    if args.jobs < 0:
        raise UserError(f"--jobs is {args.jobs}; it must be at least 1, or 0 for one per core")
    everything = "all" in args.names
    if everything and len(args.names) > 1:
        raise UserError("all stands for every case; name it alone, or name cases")
    cases = load_cases(None if everything else tuple(dict.fromkeys(args.names)))
    checks = pick(cases, args.only)
    missing = missing_systems(read_systems(), cases) if everything and args.only is None else {}
    json_file = None if args.json in (None, "-") else prepare_file(args.json, "--json")
    markdown_file = None if args.markdown is None else prepare_file(args.markdown, "--markdown")
    with ProgressBar("runs") as progress:
        outcomes = run_checks(checks, args.jobs or os.cpu_count() or 1, progress)
    data = to_json(results_dict(outcomes, missing))
    print(data if args.json == "-" else results_text(outcomes, missing), end="")
    if json_file is not None:
        write_text(json_file, data)
    if markdown_file is not None:
        write_text(markdown_file, markdown(outcomes, missing))
    return 1 if any(outcome.failed for outcome in outcomes) else 0
