"""``apex-sim power``: how many more servers a row's power budget carries."""

from __future__ import annotations

import argparse

from apex_sim.html.write import add_report


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the subcommand."""
    parser = subparsers.add_parser(
        "power",
        help="oversubscribe the power of a row of servers (POLCA)",
        description="Simulate a row of servers over days, add servers beyond what its power budget was made for, and let "
        "POLCA's manager lock clocks (low priority first) to stay within it: brakes, latency, and how many fit.",
        epilog="Example: apex-sim power --servers 40 --extra 0.3 --t1 0.80 --t2 0.89 --plot row.png",
    )
    row = parser.add_argument_group("row")
    row.add_argument("--model", default="bloom-176b", metavar="NAME", help="served model (default bloom-176b, POLCA's)")
    row.add_argument("--cluster", default="a100-sxm:8", metavar="SPEC", help="one server (default a100-sxm:8)")
    row.add_argument("--engine", default="vllm-v1", help="engine profile (default vllm-v1)")
    row.add_argument("--max-model-len", type=int, default=12288, metavar="TOKENS", help="longest request")
    row.add_argument(
        "--servers", type=int, default=40, metavar="N", help="servers the budget was made for (default 40)"
    )
    row.add_argument("--extra", type=float, default=0.30, metavar="SHARE", help="servers to add (default 0.30)")
    row.add_argument(
        "--services", metavar="FILE", help="YAML list of services (docs/oversubscribe.md; default POLCA's mix)"
    )
    budget = row.add_mutually_exclusive_group()
    budget.add_argument("--budget-kw", type=float, metavar="KW", help="power budget of the row")
    budget.add_argument(
        "--peak-utilisation", type=float, default=0.79, metavar="SHARE", help="peak of the row as it is, of the budget"
    )
    row.add_argument("--racks", type=int, default=1, metavar="N", help="racks that the servers stand in, in turn")
    row.add_argument(
        "--rack-budget-kw", type=float, metavar="KW", help="power budget of each rack (default: its share of the row's)"
    )
    load = parser.add_argument_group("load")
    load.add_argument(
        "--load", type=float, default=0.25, metavar="SHARE", help="peak rate, of a server's capacity (default 0.25)"
    )
    load.add_argument("--valley", type=float, default=0.5, metavar="SHARE", help="load at night, of the peak")
    load.add_argument("--burst", type=float, default=0.2, metavar="SHARE", help="largest burst, of the peak")
    load.add_argument("--days", type=float, default=1.0, metavar="N", help="time to simulate (default 1)")
    load.add_argument("--seed", type=int, default=0, metavar="N", help="of arrivals, bursts and who plays what")
    policy = parser.add_argument_group("policy")
    policy.add_argument("--t1", type=float, default=0.80, metavar="SHARE", help="first threshold (default 0.80)")
    policy.add_argument("--t2", type=float, default=0.89, metavar="SHARE", help="second threshold (default 0.89)")
    policy.add_argument("--hysteresis", type=float, default=0.05, metavar="SHARE", help="release so far below")
    policy.add_argument("--reserve", type=float, default=0.0, metavar="SHARE", help="budget the ILP keeps free")
    policy.add_argument(
        "--caps",
        metavar="LIST",
        help="power caps [W] the ILP may use beside the clocks, or none (default 7/8, 3/4 of TDP)",
    )
    policy.add_argument(
        "--high-first", action="store_true", help="ILP: all that high priority can have, then low, instead of 10 to 1"
    )
    policy.add_argument("--search", action="store_true", help="try pairs of thresholds with 0 to 40 %% more servers")
    site = parser.add_argument_group("energy and carbon (docs/costs.md)")
    site.add_argument("--grid", metavar="NAME|G", help="grid, such as fr or us-tx, or gCO2e per kWh (default world)")
    site.add_argument("--pue", type=float, metavar="RATIO", help="power usage effectiveness of the site (default 1.56)")
    site.add_argument("--usd-per-kwh", type=float, metavar="USD", help="price of electricity")
    site.add_argument("--lifetime-years", type=float, metavar="YEARS", help="over which manufacture counts (default 5)")
    output = parser.add_argument_group("output")
    output.add_argument("--json", metavar="FILE", help="write everything ('-': stdout)")
    add_report(output)
    output.add_argument("--plot", metavar="FILE", help="write power and clocks over time (.png, .svg, .pdf)")


def run(args: argparse.Namespace) -> int:
    """Simulate, plan, print, write."""
    from apex_sim.files import prepare_figure, prepare_file, to_json, write_atomically, write_text
    from apex_sim.html.write import prepare_report, repeated
    from apex_sim.power_figure import power_figure
    from apex_sim.power_inputs import answer_of, setting_of
    from apex_sim.power_report import power_dict, power_text
    from apex_sim.text import ProgressBar
    from workloads.figure_style import save

    setting = setting_of(args)
    json_file = None if args.json in (None, "-") else prepare_file(args.json, "--json")
    report = prepare_report(args.report)
    plot_file = None if args.plot is None else prepare_figure(args.plot, "--plot")
    found = answer_of(setting, args, ProgressBar)
    study, static, outcomes, searched = found.study, found.static, found.outcomes, found.searched
    data = to_json(power_dict(study, static, outcomes, searched))
    print(
        data if args.json == "-" else power_text(study, static, outcomes, searched),
        end="" if args.json == "-" else "\n",
    )
    if json_file is not None:
        write_text(json_file, data)
    if report is not None:
        from apex_sim.html.power import power_report

        write_text(report, power_report(study, static, outcomes, searched, **repeated(args)))
    if plot_file is not None:
        figure = power_figure(study, outcomes[0])
        write_atomically(plot_file, lambda path: save(figure, path))
    return 0
