"""What ``calibrate --serve`` is asked to serve: models, loads and limits, as the engine's settings and as a deployment."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from hardware_profiles.errors import UserError

if TYPE_CHECKING:
    from simulator.deployment import Deployment
    from simulator.serve_runner.session import ServeSettings
    from workloads.model import ModelSpec
    from workloads.trace import Trace

DEFAULT_MODEL = "small"
SHORT_LENGTHS = {"input_len": "uniform(32,256)", "output_len": "uniform(16,64)"}
STAND_IN = {"cpu": "epyc-9654", "cuda": "h200-sxm"}
"""Devices whose name a deployment bears while nothing is predicted (no --profile)."""
CUDA_BLOCK_SIZE = 256
"""Tokens per KV block of PyTorch's paged kernel (FlashAttention-2 takes multiples of 256)."""
LARGEST_SHARE = 0.85
"""Of a GPU's memory that weights and KV cache may take; the rest is activations and the allocator's slack."""


def check_arguments(args: argparse.Namespace) -> None:
    """Numbers and combinations that make no sense."""
    from simulator.serve_runner.suites import SUITES
    from simulator.serve_runner.worker import DTYPES
    from simulator.setting_checks import check_number

    for name in ("repeats", "threads", "max_num_seqs", "max_num_batched_tokens", "block_size"):
        if getattr(args, name) is not None:
            check_number(name, getattr(args, name), int, 1)
    if args.time_limit is not None:
        check_number("time_limit", args.time_limit, float, 1)
    if args.suite is not None:
        if args.suite not in SUITES:
            from hardware_profiles.errors import unknown_name

            raise unknown_name("suite", args.suite, SUITES)
        for name in ("model", "trace", "rate", "input_len", "output_len", "num_requests", "arrival", "dtype"):
            if getattr(args, name) is not None:
                raise UserError(f"--{name.replace('_', '-')}: --suite {args.suite} brings its own; drop one of them")
    if args.dtype is not None and args.dtype not in DTYPES:
        from hardware_profiles.errors import unknown_name

        raise unknown_name("dtype", args.dtype, DTYPES)
    if args.engine is not None and args.profile is None:
        raise UserError("--engine: host times are of use only beside kernel times; give --profile as well")


def cases_of(args: argparse.Namespace) -> list[dict[str, Any]]:
    """What to serve: per model its loads (name, trace) and limits."""
    from simulator.serve_runner.suites import SUITES, clipped

    cpu = args.device == "cpu"
    if args.suite is not None:
        return [
            {
                "model": case.model,
                "dtype": case.dtype,
                "loads": [(load.name, clipped(load.trace(args.seed), case.max_model_len)) for load in case.loads],
                "max_num_seqs": args.max_num_seqs or case.max_num_seqs,
                "max_num_batched_tokens": args.max_num_batched_tokens or case.max_num_batched_tokens,
                "max_model_len": args.max_model_len or case.max_model_len,
            }
            for case in SUITES[args.suite]
        ]
    trace = _workload(args)
    longest = int((trace.input_tokens + trace.output_tokens).max())
    return [
        {
            "model": args.model or DEFAULT_MODEL,
            "dtype": args.dtype,
            "loads": [(_load_name(trace), trace)],
            "max_num_seqs": args.max_num_seqs or (16 if cpu else 128),
            "max_num_batched_tokens": args.max_num_batched_tokens or (256 if cpu else 2048),
            "max_model_len": args.max_model_len or -(-longest // 64) * 64,
        }
    ]


def _workload(args: argparse.Namespace) -> Trace:
    """The requests asked for; without a trace and lengths short ones, which a small engine on any device can serve."""
    from apex_sim.workload import make_trace

    names = ("trace", "rate", "input_len", "output_len", "num_requests", "arrival")
    given: dict[str, Any] = {name: getattr(args, name) for name in names}
    if args.trace is None and args.input_len is None and args.output_len is None:
        given |= SHORT_LENGTHS
        given["num_requests"] = 20 if args.num_requests is None else args.num_requests
        given["rate"] = 0.5 if args.rate is None and args.arrival is None else args.rate
    return make_trace(**given, seed=args.seed)


def _load_name(trace: Trace) -> str:
    return f"{trace.concurrency} at once" if trace.concurrency else f"{trace.request_rate_per_s:.3g} req/s"


def settings_of(case: dict[str, Any], args: argparse.Namespace) -> ServeSettings:
    from simulator.serve_runner.session import ServeSettings
    from simulator.serve_runner.shapes import serve_model
    from simulator.serve_runner.worker import WorkerSettings, open_device

    model = serve_model(case["model"])
    device = open_device(args.device, args.threads)
    block = args.block_size or (16 if device.type == "cpu" else CUDA_BLOCK_SIZE)
    longest = min(case["max_model_len"], model.max_position_embeddings)
    enough = -(-longest // block) * case["max_num_seqs"]
    dtype = case["dtype"] or model.dtype
    worker = WorkerSettings(
        device=args.device,
        dtype=dtype,
        max_num_seqs=case["max_num_seqs"],
        max_model_len=longest,
        num_blocks=args.num_gpu_blocks_override or _blocks_that_fit(model, dtype, device, block, enough),
        block_size=block,
        layout=args.kv_layout,
        threads=args.threads,
        graphs=not args.enforce_eager,
    )
    return ServeSettings(model=model, worker=worker, max_num_batched_tokens=case["max_num_batched_tokens"])


def _blocks_that_fit(model: ModelSpec, dtype: str, device: Any, block: int, enough: int) -> int:
    """KV blocks for all sequences, fewer where the GPU's free memory ends first."""
    if device.type == "cpu":
        return enough
    import torch

    from workloads.model import dtype_bytes

    free, _ = torch.cuda.mem_get_info(device)
    size = dtype_bytes(dtype)
    left = LARGEST_SHARE * free - model.num_params * size
    fit = int(left // (block * model.kv_bytes_per_token(size)))
    if fit < 1:
        raise UserError(
            f"--model {model.name}: its weights take {model.num_params * size / 1e9:.0f} GB in {dtype}; "
            f"{LARGEST_SHARE:.0%} of the {free / 1e9:.0f} GB free on {device} leave no KV cache. Use a smaller model"
        )
    return min(enough, fit)


def deployment_of(settings: ServeSettings, args: argparse.Namespace) -> Deployment:
    """The same configuration in the simulator's terms."""
    from simulator.build import build_deployment

    w = settings.worker
    return build_deployment(
        settings.model,
        args.profile or STAND_IN["cpu" if w.device == "cpu" else "cuda"],
        engine=args.engine or "apex-serve",
        max_num_seqs=w.max_num_seqs,
        max_num_batched_tokens=settings.max_num_batched_tokens,
        max_model_len=w.max_model_len,
        block_size=w.block_size,
        num_gpu_blocks_override=w.num_blocks,
        dtype=w.dtype,
    )
