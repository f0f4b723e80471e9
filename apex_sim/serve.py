"""``apex-sim calibrate --serve``: serve real requests with the small engine, and predict the same run."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

from hardware_profiles.errors import UserError

DEFAULT_MODEL = "small"
STAND_IN = {"cpu": "epyc-9654", "cuda": "h200-sxm"}
"""Devices whose name a deployment bears while nothing is predicted (no --profile)."""
CUDA_BLOCK_SIZE = 256
"""Tokens per KV block of PyTorch's paged kernel (FlashAttention-2 takes multiples of 256)."""
LARGEST_SHARE = 0.85
"""Of a GPU's memory that weights and KV cache may take; the rest is activations and the allocator's slack."""


class _Adder(Protocol):
    def add_argument(self, *names: str, **options: Any) -> argparse.Action: ...


def add_arguments(parser: _Adder) -> None:
    """Options beside --device, --out and --json, which calibrate has; --threads is for the kernels as well."""
    add = parser.add_argument
    add("--suite", metavar="NAME", help="serve a list of models and loads: cpu, h200, tiny")
    add("--model", metavar="NAME", help=f"tiny, small, small-moe or any model of 'apex-sim models' ({DEFAULT_MODEL})")
    add("--profile", metavar="FILE", help="hardware profile of this device (from calibrate): predict what was served")
    add("--engine", metavar="FILE", help="fitted engine profile of an earlier run; without it one is fitted first")
    add("--trace", metavar="FILE", help="requests to serve, at the file's times")
    add("--rate", type=float, metavar="PER_S", help="synthetic requests per second")
    add("--input-len", metavar="DIST", help="prompt tokens, as in 'apex-sim simulate'")
    add("--output-len", metavar="DIST", help="output tokens")
    add("--num-requests", type=int, metavar="N", help="requests to send")
    add("--arrival", metavar="PROCESS", help="poisson, constant, closed(concurrency=8) ...")
    add("--seed", type=int, default=0, help="of weights, prompts and arrivals")
    add("--repeats", type=int, default=2, metavar="N", help="serve every load N times; their range is the noise (2)")
    add("--max-num-seqs", type=int, metavar="N", help="sequences at once (16 on a CPU, else 128)")
    add("--max-num-batched-tokens", type=int, metavar="N", help="tokens of a step (256 on a CPU, else 2048)")
    add("--max-model-len", type=int, metavar="TOKENS", help="longest request (as the requests need)")
    add("--block-size", type=int, metavar="TOKENS", help="tokens per KV block (16 on a CPU, else 256)")
    add("--num-gpu-blocks-override", type=int, metavar="N", help="KV blocks (enough for all sequences)")
    add("--dtype", metavar="NAME", help="float32, bfloat16, float16 (the model's)")
    add("--threads", type=int, metavar="N", help="CPU threads, of kernels and engine alike (as many as PyTorch takes)")
    add("--kv-layout", choices=("auto", "slots", "paged"), default="auto", help="how the KV cache lies in memory")
    add("--enforce-eager", action="store_true", help="no CUDA graphs")
    add("--time-limit", type=float, metavar="S", help="begin no further load after so many seconds")


def run(args: argparse.Namespace) -> int:
    """Serve, fit, predict, write, print."""
    from apex_sim.files import prepare_folder, to_json
    from simulator.serve_runner.compare import runs_yaml, table
    from simulator.serve_runner.files import write_all

    _check(args)
    cases = _cases(args)
    out = prepare_folder(args.out) if args.out else None
    begin = time.monotonic()

    def late() -> bool:
        return args.time_limit is not None and time.monotonic() - begin > args.time_limit

    comparisons: list[Any] = []
    files: dict[str, str] = {}
    notes: list[str] = []
    for case in cases:
        if late():
            notes.append(f"{case['model']}: left out, --time-limit was reached")
            continue
        found, written, said = _serve_case(case, args, out, late)
        comparisons += found
        files |= written
        notes += said
    if not comparisons:
        raise UserError("--time-limit: was reached before the first load; allow more")
    if out is not None:
        write_all(out, {**files, "runs.yaml": runs_yaml(comparisons)})
    if args.json:
        print(to_json([_json(c) for c in comparisons]), end="")
        return 0
    print(table(comparisons), end="")
    for note in dict.fromkeys(notes):
        print(note)
    if out is not None:
        print(f"wrote {out}; 'apex-sim validate {out / 'runs.yaml'}' repeats the predictions")
    return 0


def _check(args: argparse.Namespace) -> None:
    """Numbers and combinations that make no sense."""
    from simulator.build import check_number
    from simulator.serve_runner.suites import SUITES
    from simulator.serve_runner.worker import DTYPES

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


def _cases(args: argparse.Namespace) -> list[dict[str, Any]]:
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


def _workload(args: argparse.Namespace) -> Any:
    from apex_sim.api import make_trace

    names = ("trace", "rate", "input_len", "output_len", "num_requests", "arrival")
    given: dict[str, Any] = {name: getattr(args, name) for name in names}
    if all(value is None for value in given.values()):
        given |= {"rate": 0.5, "input_len": "uniform(32,256)", "output_len": "uniform(16,64)", "num_requests": 20}
    return make_trace(**given, seed=args.seed)


def _load_name(trace: Any) -> str:
    return f"{trace.concurrency} at once" if trace.concurrency else f"{trace.request_rate_per_s:.3g} req/s"


def _serve_case(
    case: dict[str, Any], args: argparse.Namespace, out: Path | None, late: Callable[[], bool]
) -> tuple[list[Any], dict[str, str], list[str]]:
    """(comparisons, files by name, notes) of one model."""
    from simulator.serve_runner.compare import compare, describe
    from simulator.serve_runner.engine_fit import calibration_traces, fit_engine
    from simulator.serve_runner.files import engine_yaml, fitted_engine, model_json, requests_csv, steps_csv
    from simulator.serve_runner.session import Session
    from simulator.serve_runner.shapes import OWN_SHAPES

    settings = _settings(case, args)
    model, worker = settings.model, settings.worker
    deployment = _deployment(settings, args)
    for name, trace in case["loads"]:
        if int((trace.input_tokens + 1).max()) > worker.max_model_len:
            raise UserError(f"{name}: a prompt is longer than --max-model-len {worker.max_model_len}; raise it")
    progress = _Progress(f"{model.name} on {worker.device}")
    session = Session(settings, args.seed)
    files: dict[str, str] = {}
    notes = [f"{model.name}: {note}" for note in session.worker.notes]
    progress("warming up")
    session.warm_up()
    stem = model.name.split("/")[-1].lower()
    places = {"model": case["model"], "cluster": args.profile or STAND_IN[worker.device[:4].rstrip(":")]}
    places["engine"] = args.engine or "apex-serve"
    if out is not None and case["model"] in OWN_SHAPES:
        files[f"{stem}.json"] = model_json(model, OWN_SHAPES[case["model"]])
        places["model"] = str(out / f"{stem}.json")
    if args.profile is not None and args.engine is None:
        if session.worker.graphs is not None:
            deployment = _with_graphs(deployment, session.worker.graphs.sizes[-1])
        logs = []
        for number, trace in enumerate(calibration_traces(worker.max_num_seqs, worker.max_model_len), 1):
            progress(f"calibrating the engine, {trace.name}")
            logs.append((deployment, session.serve(trace, seed=args.seed + number).steps))
        fit = fit_engine(logs, launches=worker.device != "cpu")
        deployment = dataclasses.replace(deployment, engine=fitted_engine(deployment.engine, fit), _cache={})
        notes.append(
            f"{model.name}: engine fitted on {fit.num_steps} steps of other requests: "
            + ", ".join(f"{k} {v * 1e3:.3g} ms" for k, v in fit.seconds.items())
            + f"; kernels explain {fit.kernel_share:.0%}; step time median error {fit.median_error:.1%}"
        )
        if out is not None:
            files[f"engine-{stem}.yaml"] = engine_yaml(deployment.engine, fit, f"{worker.device}, {model.name}")
            places["engine"] = str(out / f"engine-{stem}.yaml")
    comparisons: list[Any] = []
    for name, trace in case["loads"]:
        if comparisons and late():
            notes.append(f"{model.name}, {name}: left out, --time-limit was reached")
            continue
        repeats = []
        for repeat in range(args.repeats):
            progress(f"serving {name}, {repeat + 1} of {args.repeats}")
            repeats.append(session.serve(trace, seed=args.seed, progress=None))
        label = f"{stem} {name}"
        slug = label.replace(" ", "-").replace("/", "-per-")
        described = describe(
            label,
            trace,
            deployment,
            trace_file=f"{slug}-requests.csv",
            note="; ".join(session.worker.notes),
            dtype=worker.dtype,
            **places,
        )
        comparisons.append(compare(label, repeats, deployment, described, predict=args.profile is not None))
        files[f"{slug}-requests.csv"] = requests_csv(comparisons[-1].served)
        files[f"{slug}-steps.csv"] = steps_csv(comparisons[-1].served)
    if args.profile is None:
        notes.append("no --profile: nothing was predicted ('apex-sim calibrate --out profile.yaml' measures one)")
    return comparisons, files, notes


def _settings(case: dict[str, Any], args: argparse.Namespace) -> Any:
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


def _blocks_that_fit(model: Any, dtype: str, device: Any, block: int, enough: int) -> int:
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


def _deployment(settings: Any, args: argparse.Namespace) -> Any:
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


def _with_graphs(deployment: Any, largest: int) -> Any:
    """The deployment with decode steps replayed from CUDA graphs."""
    engine = dataclasses.replace(deployment.engine, cuda_graphs="decode", max_cudagraph_capture_size=largest)
    return dataclasses.replace(deployment, engine=engine, _cache={})


def _json(comparison: Any) -> dict[str, Any]:
    return {
        "run": comparison.name,
        "measured": dict(comparison.run.measured),
        "predicted": dict(comparison.predicted),
        "noise": dict(comparison.noise),
    }


class _Progress:
    """One line on a terminal's standard error that says what is going on."""

    def __init__(self, what: str) -> None:
        self._what = what

    def __call__(self, text: str) -> None:
        if sys.stderr is not None and sys.stderr.isatty():
            print(f"{self._what}: {text}", file=sys.stderr)
