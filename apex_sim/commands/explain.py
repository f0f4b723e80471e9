"""``apex-sim explain step``: where the time of one engine step goes, and where the memory goes."""

from __future__ import annotations

import argparse
import json


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``explain`` with its one form, ``step``."""
    parser = subparsers.add_parser("explain", help="break one step down into components")
    what = parser.add_subparsers(dest="what", required=True, metavar="WHAT")
    step = what.add_parser("step", help="time, bound, FLOP and bytes of every component of one step")
    step.add_argument("--model", required=True, help="Hugging Face name, config.json, folder or built-in name")
    step.add_argument("--cluster", required=True, help="DEVICE:COUNT, DEVICE:COUNTxNODES or a cluster YAML")
    for name, meaning in (("tp", "tensor"), ("pp", "pipeline"), ("dp", "data"), ("ep", "expert")):
        step.add_argument(f"--{name}", type=int, default=1, help=f"{meaning}-parallel degree (default 1)")
    step.add_argument("--engine", default="vllm", help="engine profile (default vllm)")
    step.add_argument("--decode", type=int, default=0, metavar="N", help="sequences that decode one token each")
    step.add_argument("--context", type=int, default=0, metavar="L", help="cached tokens of each of them")
    step.add_argument("--prefill", type=int, default=0, metavar="Q", help="prompt tokens computed in the step")
    step.add_argument("--cached", type=int, default=0, metavar="P", help="tokens of that prompt already cached")
    step.add_argument("--dtype", default="auto", help="dtype of unquantised weights and activations")
    step.add_argument("--quantization", default=None, help="override: fp8, awq, gptq, int8, w8a8, mxfp4, nvfp4 ...")
    step.add_argument("--kv-cache-dtype", default="auto", help="auto or fp8")
    step.add_argument("--moe-skew", type=float, default=0.0, help="Zipf exponent of expert popularity (default 0)")
    step.add_argument("--json", action="store_true", help="print JSON in SI units")
    step.set_defaults(run=run)


def _check(args: argparse.Namespace) -> None:
    from hardware_profiles.errors import UserError

    for name in ("decode", "context", "prefill", "cached"):
        if getattr(args, name) < 0:
            raise UserError(f"--{name} is {getattr(args, name)}; it must not be negative")
    if args.decode == 0 and args.prefill == 0:
        raise UserError("the step is empty: --decode and --prefill are both 0. Give --decode N or --prefill Q")
    if args.moe_skew < 0:
        raise UserError(f"--moe-skew is {args.moe_skew}; it must not be negative")


def run(args: argparse.Namespace) -> int:
    """Print the breakdown; 0."""
    from hardware_profiles.cluster import parse_cluster
    from simulator.engine import load_engine
    from simulator.physics.explain import explain_values, format_explanation, step_shape
    from simulator.physics.memory import memory_plan
    from simulator.physics.step_model import StepModel
    from simulator.plan import ParallelPlan
    from workloads.catalog import load_model

    _check(args)
    model, cluster, engine = load_model(args.model), parse_cluster(args.cluster), load_engine(args.engine)
    plan = ParallelPlan(
        tp=args.tp,
        pp=args.pp,
        dp=args.dp,
        ep=args.ep,
        dtype=args.dtype,
        quantization=args.quantization,
        kv_cache_dtype=args.kv_cache_dtype,
    )
    steps = StepModel(model, cluster, plan, engine, moe_skew=args.moe_skew)
    memory = memory_plan(model, cluster, plan, engine)
    shape = step_shape(
        decode_seqs=args.decode,
        context=args.context,
        prefill=args.prefill,
        cached=args.cached,
        window=steps.window,
    )
    if args.json:
        print(json.dumps(explain_values(steps, shape, memory), indent=2))
    else:
        print(format_explanation(steps, shape, memory))
    return 0
