"""``apex-sim explain step``: where the time of one engine step goes, and where a device's memory goes."""

from __future__ import annotations

import argparse
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from apex_sim.json_option import add_json, wants_json
from apex_sim.options import add_deployment, add_plan, engine_settings

if TYPE_CHECKING:
    from simulator.deployment import Deployment


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``explain`` with its one form, ``step``."""
    parser = subparsers.add_parser("explain", help="break one step down into components")
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    step = what.add_parser("step", help="time, bound, FLOP and bytes of every component of one step")
    add_deployment(step)
    add_plan(step)
    batch = step.add_argument_group("batch")
    batch.add_argument("--decode", type=int, default=0, metavar="N", help="sequences that decode one token each")
    batch.add_argument("--context", type=int, default=0, metavar="L", help="cached tokens of each of them")
    batch.add_argument("--prefill", type=int, default=0, metavar="Q", help="prompt tokens computed in the step")
    batch.add_argument("--cached", type=int, default=0, metavar="P", help="tokens of that prompt already cached")
    figures = step.add_argument_group("figures (.png, .svg, .pdf)")
    figures.add_argument("--gantt", metavar="FILE", help="write the step over time: host, stages, kernels of a layer")
    figures.add_argument("--roofline", metavar="FILE", help="write the operators under the roofs of the device")
    add_json(step, "the breakdown in SI units")
    step.set_defaults(run=run)


def _check(args: argparse.Namespace) -> None:
    from hardware_profiles.errors import UserError

    for name in ("decode", "context", "prefill", "cached"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name} is {getattr(args, name)}; it must not be negative")
    if args.decode == 0 and args.prefill == 0:
        raise UserError("the step is empty: --decode and --prefill are both 0. Give --decode N or --prefill Q")


def _figure_files(args: argparse.Namespace) -> dict[str, Path]:
    """Option -> file, checked before anything is computed."""
    from apex_sim.files import prepare_figure
    from hardware_profiles.errors import UserError

    given = {name: getattr(args, name) for name in ("gantt", "roofline") if getattr(args, name) is not None}
    files = {name: prepare_figure(file, f"--{name}") for name, file in given.items()}
    if len({file.resolve() for file in files.values()}) < len(files):
        raise UserError("--gantt and --roofline name one file; give each a name of its own")
    return files


def _draw(args: argparse.Namespace, deployment: Deployment, files: dict[str, Path]) -> None:
    from apex_sim.files import write_atomically
    from apex_sim.plots import gantt_figure, roofline_figure, save

    batch = {"decode_seqs": args.decode, "context_tokens": args.context, "prefill_tokens": args.prefill,
             "cached_tokens": args.cached}  # fmt: skip
    for name, file in files.items():
        figure = {"gantt": gantt_figure, "roofline": roofline_figure}[name](deployment, **batch)
        write_atomically(file, partial(save, figure))


def run(args: argparse.Namespace) -> int:
    """Print the breakdown; 0."""
    from apex_sim.sharing_text import split_step_lines
    from simulator.build import build_deployment
    from simulator.physics.explain import explain_values, format_explanation, step_shape

    _check(args)
    files = _figure_files(args)
    deployment = build_deployment(
        args.model,
        args.cluster,
        engine=args.engine,
        tp=args.tp,
        pp=args.pp,
        dp=args.dp,
        ep=args.ep,
        **engine_settings(args),
    )
    steps, memory = deployment.step_model, deployment.memory
    shape = step_shape(
        decode_seqs=args.decode,
        context=args.context,
        prefill=args.prefill,
        cached=args.cached,
        window=steps.window,
    )
    if not wants_json(args, explain_values(steps, shape, memory)):
        print(format_explanation(steps, shape, memory))
        for line in split_step_lines(deployment, shape):
            print(line)
    _draw(args, deployment, files)
    return 0
