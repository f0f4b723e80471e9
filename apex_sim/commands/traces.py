"""``apex-sim traces``: look at a trace, convert it, or generate one.

``add_read_arguments`` and ``trace_from_args`` give other subcommands the same options (``--trace-sort`` ...).
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from apex_sim.json_option import add_json, wants_json
from apex_sim.prompt_options import PROMPT_SETTINGS, add_prompts
from apex_sim.token_options import add_token_changes, token_settings

if TYPE_CHECKING:
    from workloads.trace import Trace

DESCRIPTION = "Statistics and plots of a request trace, conversion between formats, and synthetic traces."
FORMATS = "azure, burstgpt, mooncake, bailian, sharegpt, csv, jsonl, parquet"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``traces`` and its three actions."""
    parser = subparsers.add_parser(
        "traces", help="describe, convert or generate request traces", description=DESCRIPTION
    )
    parser.set_defaults(run=run)
    actions = parser.add_subparsers(dest="action", required=True, metavar="describe|convert|generate")

    describe = actions.add_parser("describe", help="statistics and a figure of a trace")
    describe.add_argument("file", metavar="FILE", help="trace file, workload YAML, or the sample 'chat_small'")
    describe.add_argument("--plot", metavar="FILE.png", help="write a figure")
    describe.add_argument("--out", metavar="DIR", help="write NAME.json and NAME.png there")
    add_json(describe, "the statistics")
    add_read_arguments(describe)
    add_token_changes(describe)

    convert = actions.add_parser("convert", help="write a trace as .csv, .jsonl or .parquet")
    convert.add_argument("file", metavar="IN", help="trace file, workload YAML, or the sample 'chat_small'")
    convert.add_argument("out", metavar="OUT", help="file to write; its ending says the format")
    add_json(convert, "what was written")
    add_read_arguments(convert)
    add_token_changes(convert)

    generate = actions.add_parser("generate", help="write a synthetic trace")
    generate.add_argument("--workload", metavar="FILE.yaml", help="workload YAML (instead of the options below)")
    generate.add_argument("--out", metavar="FILE", required=True, help="file to write: .csv, .jsonl or .parquet")
    add_json(generate, "what was written")
    _add_generate_arguments(generate)
    add_token_changes(generate)


def run(args: argparse.Namespace) -> int:
    """Do the action that was asked for."""
    return {"describe": _describe, "convert": _convert, "generate": _generate}[args.action](args)


def add_read_arguments(parser: argparse.ArgumentParser, prefix: str = "") -> None:
    """Options of reading and cutting a trace, each with ``prefix`` (``trace-``) in front of its name."""
    group = parser.add_argument_group("reading the trace")

    def add(name: str, help: str, **kwargs: Any) -> None:
        group.add_argument(f"--{prefix}{name}", help=help, **kwargs)

    add("format", f"trace format, detected if not given: {FORMATS}", metavar="NAME")
    add("sort", "sort rows by arrival time", action="store_true")
    add("sessions", "link the turns of a session", action="store_true")
    add("spread-ties", "spread requests of one timestamp up to the next", action="store_true")
    add("drop-empty", "drop rows with zero tokens", action="store_true")
    add("block-tokens", "tokens per prefix id, if not the format's own", type=int, metavar="N")
    add("column", "column to read NAME from (repeatable)", action="append", metavar="NAME=COLUMN", default=[])
    add("time-unit", "unit of the arrival column", choices=("s", "ms", "us", "ns"))
    add("arrival", "draw arrivals instead of the recorded ones: poisson, 'gamma(cv=2)' ...", metavar="PROCESS")
    add("rate", "mean requests/s: of --arrival, or recorded arrivals scaled to it", type=float, metavar="R")
    add("think", "pauses of ShareGPT sessions [s]: 'exponential(mean=30)'", metavar="DISTRIBUTION")
    add("seed", "seed of whatever is drawn here (default 0)", type=int, default=0, metavar="N")
    add("slice", "keep requests that arrive in [START, END) seconds", metavar="START:END")
    add("sample", "keep this fraction of the requests, or sessions", type=float, metavar="F")
    add("head", "keep the first N requests", type=int, metavar="N")
    add("scale-rate", "run the trace's clock this many times as fast", type=float, metavar="FACTOR")


def trace_from_args(path: str, args: argparse.Namespace, prefix: str = "") -> Trace:
    """The trace that ``path`` and the options of ``add_read_arguments`` (same prefix) ask for."""
    from hardware_profiles.errors import UserError
    from workloads.spec import cut, open_workload

    def get(name: str) -> Any:
        return getattr(args, f"{prefix}{name}".replace("-", "_"))

    options = {
        "sort": get("sort"),
        "sessions": get("sessions"),
        "spread_ties": get("spread-ties"),
        "drop_empty": get("drop-empty"),
        "block_tokens": get("block-tokens"),
        "columns": _columns(get("column"), prefix),
        "time_unit": get("time-unit"),
        "arrival": get("arrival"),
        "rate_per_s": get("rate") if get("arrival") else None,
        "think_s": get("think"),
        "seed": get("seed"),
    }
    given = {key: value for key, value in options.items() if value}
    if given.keys() == {"seed"}:  # of --sample alone
        given = {}
    trace = open_workload(path, get("format"), **given)
    window = None
    if get("slice"):
        start, colon, end = get("slice").partition(":")
        try:
            window = (float(start or 0), float(end or "inf"))
        except ValueError:
            colon = ""
        if not colon or not window or not window[0] < window[1]:
            raise UserError(f"--{prefix}slice is '{get('slice')}'; write START:END in seconds, as in 0:600")
    return cut(
        trace,
        slice_s=window,
        sample=get("sample"),
        seed=get("seed"),
        head=get("head"),
        scale_rate=get("scale-rate"),
        rate_per_s=None if get("arrival") else get("rate"),
    )


def _columns(items: list[str], prefix: str) -> dict[str, str]:
    from hardware_profiles.errors import UserError

    pairs = [item.partition("=") for item in items]
    for (name, equals, column), item in zip(pairs, items, strict=True):
        if not (name and equals and column):
            raise UserError(f"--{prefix}column is '{item}'; write NAME=COLUMN, as in arrival_s=timestamp")
    return {name: column for name, _, column in pairs}


def _describe(args: argparse.Namespace) -> int:
    import json

    from apex_sim.files import prepare_figure, prepare_folder, write_atomically, write_text
    from workloads.describe import describe, format_description, plot

    trace = _changed(trace_from_args(args.file, args), args)
    figure = prepare_figure(args.plot, "--plot") if args.plot else None
    folder = prepare_folder(args.out) if args.out else None
    facts = describe(trace)
    text = json.dumps(facts, indent=2)
    if not wants_json(args, facts):
        print(format_description(facts))
    if figure is not None:
        write_atomically(figure, lambda path: plot(trace, path))
    if folder is not None:
        write_text(folder / f"{trace.name}.json", text + "\n")
        write_atomically(folder / f"{trace.name}.png", lambda path: plot(trace, path))
    return 0


def _changed(trace: Trace, args: argparse.Namespace) -> Trace:
    """The trace with the token counts that the arguments ask for."""
    from workloads.token_changes import TokenChanges, change_tokens

    return change_tokens(trace, TokenChanges(**token_settings(args), seed=args.seed or 0))


def _convert(args: argparse.Namespace) -> int:
    return _save(_changed(trace_from_args(args.file, args), args), args, "OUT")


SUFFIXES = (".csv", ".jsonl", ".parquet")


def _save(trace: Trace, args: argparse.Namespace, name: str) -> int:
    from apex_sim.files import prepare_file, write_atomically
    from hardware_profiles.errors import UserError

    target = args.out
    path = prepare_file(target, name)
    if path.suffix not in SUFFIXES:
        raise UserError(f"{name} {target}: the ending says the format; use {', '.join(SUFFIXES)}")
    write_atomically(path, trace.save)
    if not wants_json(args, {"file": target, "requests": len(trace), "duration_s": trace.duration_s}):
        print(f"{target}: {_summary(trace)}")
    return 0


def _add_generate_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group("a synthetic workload (docs/workloads.md has the distributions)")
    group.add_argument("--num-requests", type=int, metavar="N", help="how many requests (or --duration)")
    group.add_argument("--duration", type=float, metavar="S", help="how long requests keep arriving [s]")
    group.add_argument("--rate", type=float, metavar="R", help="mean requests per second")
    group.add_argument("--arrival", metavar="PROCESS", help="arrival process (default poisson)")
    group.add_argument(
        "--input-len", metavar="LENGTH", help="prompt tokens: 512, 'lognormal(median=660, sigma=0.9)' ..."
    )
    group.add_argument("--output-len", metavar="LENGTH", help="output tokens")
    group.add_argument("--seed", type=int, metavar="N", help="seed (default 0)")
    add_prompts(group)


def _generate(args: argparse.Namespace) -> int:
    from hardware_profiles.errors import UserError
    from workloads.pairs import pairs
    from workloads.spec import load_workload, workload_from_dict

    keys = {
        "num_requests": args.num_requests,
        "duration_s": args.duration,
        "rate_per_s": args.rate,
        "arrival": args.arrival,
        "input_len": args.input_len,
        "output_len": args.output_len,
        "seed": args.seed,
        **{name: pairs(text, f"--{name}") for name in PROMPT_SETTINGS if (text := getattr(args, name)) is not None},
        **token_settings(args),
    }
    given = {key: value for key, value in keys.items() if value is not None}
    if args.workload and given:
        raise UserError(f"--workload and {', '.join(given)} exclude each other; write the keys into {args.workload}")
    trace = load_workload(args.workload) if args.workload else workload_from_dict(given, where="traces generate")
    return _save(trace, args, "--out")


def _summary(trace: Trace) -> str:
    rate = f" over {trace.duration_s:,.1f} s" if trace.duration_s > 0 else ""
    dropped = sum(trace.report.dropped.values()) if trace.report is not None else 0
    return f"{len(trace):,} requests{rate}" + (f", {dropped:,} rows dropped" if dropped else "")
