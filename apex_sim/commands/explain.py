"""``apex-sim explain step``: where the time of one engine step goes, and where a device's memory goes."""

from __future__ import annotations

import argparse

from apex_sim.json_option import add_json, wants_json
from apex_sim.options import add_deployment, add_plan, engine_settings


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
    add_json(step, "the breakdown in SI units")
    step.set_defaults(run=run)


def _check(args: argparse.Namespace) -> None:
    from hardware_profiles.errors import UserError

    for name in ("decode", "context", "prefill", "cached"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name} is {getattr(args, name)}; it must not be negative")
    if args.decode == 0 and args.prefill == 0:
        raise UserError("the step is empty: --decode and --prefill are both 0. Give --decode N or --prefill Q")


def run(args: argparse.Namespace) -> int:
    """Print the breakdown; 0."""
    from apex_sim.sharing_text import split_step_lines
    from simulator.build import build_deployment
    from simulator.physics.explain import explain_values, format_explanation, step_shape

    _check(args)
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
    return 0
