"""``apex-sim calibrate --serve``: serve real requests with the small engine, and predict the same run."""

from __future__ import annotations

import argparse
import dataclasses
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from apex_sim.serve_settings import DEFAULT_MODEL, cases_of, check_arguments, deployment_of, settings_of
from hardware_profiles.errors import UserError

if TYPE_CHECKING:
    from simulator.deployment import Deployment
    from simulator.serve_runner.compare import Comparison
    from simulator.serve_runner.session import ServeSettings, Session
    from workloads.trace import Trace

BUSY_SHARE = 0.93
"""CPU time over wall time below which the machine was busy with something else (an idle one reaches 0.97 to 1)."""


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
    from apex_sim.files import prepare_folder
    from apex_sim.json_option import wants_json
    from simulator.serve_runner.compare import runs_yaml, table
    from simulator.serve_runner.files import write_all

    check_arguments(args)
    cases = cases_of(args)
    out = prepare_folder(args.out) if args.out else None
    begin = time.monotonic()

    def late() -> bool:
        return args.time_limit is not None and time.monotonic() - begin > args.time_limit

    comparisons: list[Comparison] = []
    files: dict[str, str] = {}
    notes: list[str] = []
    for case in cases:
        if late():
            notes.append(f"{case['model']}: left out, --time-limit was reached")
            continue
        served = _serve_case(case, args, out, late)
        comparisons += served.comparisons
        files |= served.files
        notes += served.notes
    if not comparisons:
        raise UserError("--time-limit: was reached before the first load; allow more")
    if out is not None:
        write_all(out, {**files, "runs.yaml": runs_yaml(comparisons)})
    if wants_json(args, [_json(c) for c in comparisons]):
        return 0
    print(table(comparisons), end="")
    for note in dict.fromkeys(notes):
        print(note)
    if out is not None:
        then = "repeats the predictions" if args.profile else "predicts them with another device's profile"
        print(f"wrote {out}; 'apex-sim validate {out / 'runs.yaml'}' {then}")
    return 0


@dataclass(slots=True)
class _Case:
    """One model on its way: what serves it, what it is called in files, and what has come out so far."""

    session: Session
    deployment: Deployment
    stem: str
    places: dict[str, str]
    """Model, cluster and engine as the written runs name them."""
    say: _Progress
    comparisons: list[Comparison] = field(default_factory=list)
    files: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def note(self, text: str) -> None:
        """Remember something for the end of the output."""
        self.notes.append(f"{self.stem}: {text}")


def _serve_case(wanted: dict[str, Any], args: argparse.Namespace, out: Path | None, late: Callable[[], bool]) -> _Case:
    """Serve all loads of one model."""
    settings = settings_of(wanted, args)
    for name, trace in wanted["loads"]:
        if int(trace.input_tokens.max()) >= settings.worker.max_model_len:
            raise UserError(
                f"{name}: a prompt of {trace.input_tokens.max()} tokens leaves no room for an answer within "
                f"--max-model-len {settings.worker.max_model_len}; raise it"
            )
    case = _open(wanted["model"], settings, args, out)
    if args.profile is None:
        case.note("no --profile, nothing was predicted ('apex-sim calibrate --out profile.yaml' measures one)")
    elif args.engine is None:
        _fit_engine(case, args, out)
    for name, trace in wanted["loads"]:
        if case.comparisons and late():
            case.note(f"{name} left out, --time-limit was reached")
            continue
        _serve_load(case, name, trace, args)
    return case


def _open(model: str, settings: ServeSettings, args: argparse.Namespace, out: Path | None) -> _Case:
    """Load the model and warm it up."""
    from simulator.serve_runner.files import model_json
    from simulator.serve_runner.session import Session
    from simulator.serve_runner.shapes import OWN_SHAPES

    deployment = deployment_of(settings, args)
    say = _Progress(f"{settings.model.name} on {settings.worker.device}")
    say("loading and warming up")
    session = Session(settings, args.seed)
    session.warm_up()
    if session.worker.graphs is not None:
        deployment = _with_graphs(deployment, session.worker.graphs.sizes[-1])
    stem = settings.model.name.split("/")[-1].lower()
    cluster = args.profile or deployment.cluster.device.name
    case = _Case(
        session, deployment, stem, {"model": model, "cluster": cluster, "engine": args.engine or "apex-serve"}, say
    )
    for note in session.worker.notes:
        case.note(note)
    if out is not None and model in OWN_SHAPES:
        case.files[f"{stem}.json"] = model_json(settings.model, OWN_SHAPES[model])
        case.places["model"] = str(out / f"{stem}.json")
    return case


def _fit_engine(case: _Case, args: argparse.Namespace, out: Path | None) -> None:
    """Serve other requests and fit the engine's host times on their steps."""
    from simulator.serve_runner.engine_fit import calibration_traces, fit_engine
    from simulator.serve_runner.files import engine_yaml, fitted_engine, steps_csv

    worker = case.session.settings.worker
    logs = []
    for number, trace in enumerate(calibration_traces(worker.max_num_seqs, worker.max_model_len), 1):
        case.say(f"{trace.name}")
        steps = case.session.calibrate(trace, seed=args.seed + number)
        logs.append((case.deployment, steps))
        case.files[f"{case.stem}-calibration-{trace.concurrency}-steps.csv"] = steps_csv(steps)
    fit = fit_engine(logs, launches=worker.device != "cpu")
    case.deployment = dataclasses.replace(case.deployment, engine=fitted_engine(case.deployment.engine, fit), _cache={})
    times = ", ".join(f"{name} {seconds * 1e3:.3g} ms" for name, seconds in fit.seconds.items())
    case.note(
        f"engine fitted on {fit.num_steps} steps of other requests: {times}; kernels explain {fit.kernel_share:.0%}, "
        f"error of a step's time {fit.median_error:.1%} (median)"
    )
    if out is not None:
        name = f"{case.stem}-engine.yaml"
        case.files[name] = engine_yaml(case.deployment.engine, fit, f"{worker.device}, {case.stem}")
        case.places["engine"] = str(out / name)


def _serve_load(case: _Case, name: str, trace: Trace, args: argparse.Namespace) -> None:
    """Serve one load as often as asked and compare."""
    from simulator.serve_runner.compare import compare, describe
    from simulator.serve_runner.files import requests_csv, steps_csv

    repeats = []
    for repeat in range(1, args.repeats + 1):
        case.say(f"serving {name}, {repeat} of {args.repeats}")
        repeats.append(case.session.serve(trace, seed=args.seed))
    shares = [r.cpu_share for r in repeats if r.cpu_share is not None]
    if shares and min(shares) < BUSY_SHARE:
        case.note(f"{name}: other processes took {1 - min(shares):.0%} of the processor; repeat on an idle machine")
    label = f"{case.stem} {name}"
    slug = label.replace(" ", "-").replace("/", "-per-")
    described = describe(
        label,
        trace,
        case.deployment,
        trace_file=f"{slug}-requests.csv",
        note="; ".join(case.session.worker.notes),
        dtype=case.session.settings.worker.dtype,
        **case.places,
    )
    comparison = compare(label, repeats, case.deployment, described, predict=args.profile is not None)
    case.comparisons.append(comparison)
    case.files[f"{slug}-requests.csv"] = requests_csv(comparison.served)
    case.files[f"{slug}-steps.csv"] = steps_csv(comparison.served.steps)


def _with_graphs(deployment: Deployment, largest: int) -> Deployment:
    """The deployment with decode steps replayed from CUDA graphs."""
    engine = dataclasses.replace(deployment.engine, cuda_graphs="decode", max_cudagraph_capture_size=largest)
    return dataclasses.replace(deployment, engine=engine, _cache={})


def _json(comparison: Comparison) -> dict[str, Any]:
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
