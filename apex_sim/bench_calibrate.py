"""``apex-sim calibrate --from-bench``: engine constants from a user's own benchmarks."""

from __future__ import annotations

import argparse
import dataclasses
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from hardware_profiles.errors import UserError

if TYPE_CHECKING:
    from simulator.validation.bench.fit import BenchFit
    from simulator.validation.run import MeasuredRun

SHARED = (
    *("max_num_seqs", "max_num_batched_tokens", "max_model_len", "block_size", "num_gpu_blocks_override"),
    *("dtype", "enforce_eager"),
)
"""Options of --serve that describe the engine that was benchmarked as well."""
OWN = ("cluster", "tp", "pp", "dp", "ep", "quantization", "kv_cache_dtype", "constants")
DEGREES = ("tp", "pp", "dp", "ep")


class _Adder(Protocol):
    def add_argument(self, *names: str, **options: Any) -> argparse.Action: ...


def add_arguments(parser: _Adder) -> None:
    """Options beside --model, --engine, --out and --json, which calibrate has, and those of SHARED."""
    add = parser.add_argument
    add(
        "--from-bench",
        "--from-vllm-log",
        nargs="+",
        metavar="FILE",
        help="results of vllm bench serve, sglang bench_serving, GenAI-Perf, AIPerf, GuideLLM or InferenceX, or the log of a "
        "vLLM server: fit the host times of --engine to them",
    )
    add("--cluster", metavar="SPEC", help="what the benchmarks ran on, as in 'apex-sim simulate'")
    for name in DEGREES:
        add(f"--{name}", type=int, metavar="N", help=f"{name} of the benchmarked server (1, or the files')")
    add("--quantization", metavar="METHOD", help="fp8, awq ... as in 'apex-sim simulate'")
    add("--kv-cache-dtype", metavar="NAME", help="auto or fp8")
    add("--constants", metavar="A,B", help="constants to fit (step_fixed_s,request_fixed_s)")


def run(args: argparse.Namespace, others: Sequence[str] = ()) -> int:
    """Read, fit, judge, write; 1 when the fit does not help, and nothing is written then.

    others: options that measure this machine's kernels, which have no meaning here.
    """
    from apex_sim.files import prepare_file, to_json, write_text
    from apex_sim.text import ProgressBar

    _refuse(args, others)
    as_json = prepare_file(args.json, "--json") if args.json not in (None, False, True, "-") else None
    out = _target(args)
    names = None if args.constants is None else tuple(n.strip() for n in args.constants.split(",") if n.strip())
    deployment = _deployment(args)
    if out is not None:
        prepare_file(out, "--out")
    with ProgressBar("fitting") as progress:
        fit, runs = _fitted(args.from_bench, args.model, deployment, names, progress)
    before = fit.profile
    if out is not None and fit.helps:
        write_text(out, profile_text(fit, runs, args.from_bench, _engine(args), out))
    if as_json is not None:
        write_text(as_json, to_json(_as_dict(fit, before)))
    if args.json in (True, "-"):
        print(to_json(_as_dict(fit, before)), end="")
    else:
        print(_as_text(fit, before))
        if not fit.helps:
            print(refusal(fit))
        elif out is not None:
            print(f"written: {out}\nuse it: apex-sim simulate --engine {out} ...")
    return 0 if fit.helps else 1


def calibrate_from_bench(
    files: Sequence[str | Path],
    cluster: str,
    *,
    model: str | None = None,
    engine: str = "vllm-v1",
    constants: Sequence[str] | None = None,
    out: str | Path | None = None,
    **settings: Any,
) -> BenchFit:
    """Fit an engine's host times to results of benchmark tools, as ``apex-sim calibrate --from-bench``.

    constants: step_fixed_s and request_fixed_s unless named. out: the engine profile to write, YAML; not written when the fit
    does not help (``.helps``). settings: tp, pp, dp, ep and engine settings as in `apex_sim.simulate`. Raises UserError when
    the files do not identify the constants.
    """
    from apex_sim.files import prepare_file, write_text

    degrees = {name: settings.pop(name) for name in DEGREES if name in settings}
    deployment = {"cluster": cluster, "engine": engine, "settings": settings, **degrees}
    target = None if out is None else prepare_file(out, "out")
    fit, runs = _fitted(files, model, deployment, None if constants is None else tuple(constants))
    if target is not None and fit.helps:
        write_text(target, profile_text(fit, runs, [str(file) for file in files], engine, target))
    return fit


def _fitted(
    files: Sequence[str | Path],
    model: str | None,
    deployment: Mapping[str, Any],
    names: tuple[str, ...] | None,
    progress: Any = None,
) -> tuple[BenchFit, list[MeasuredRun]]:
    from apex_sim.checks.measured import read_all, runs_of
    from simulator.validation.bench.constants import bounds_of, shown_by
    from simulator.validation.bench.fit import fit_bench
    from simulator.validation.replay import deployment_of

    runs = _distinct(runs_of(read_all(files), model, deployment))
    bounds = bounds_of(shown_by(runs) if names is None else names, deployment_of(runs[0]).engine)
    return fit_bench(runs, bounds, progress=progress), runs


def _refuse(args: argparse.Namespace, others: Sequence[str]) -> None:
    """What measures this machine has no meaning beside results of another one."""
    from apex_sim import serve

    probe = argparse.ArgumentParser(add_help=False)
    serve.add_arguments(probe.add_argument_group())
    defaults = {**dict.fromkeys((*others, "quick", "serve")), **vars(probe.parse_args([])), "device": "cpu"}
    for name, value in defaults.items():
        if name not in (*SHARED, "model", "engine") and (getattr(args, name) or None) != (value or None):
            flag = name.replace("_", "-")
            raise UserError(f"--{flag} measures this machine, and --from-bench does not; leave one of them out")


def _target(args: argparse.Namespace) -> Path | None:
    if args.out is not None and not args.out.lower().endswith((".yaml", ".yml")):
        raise UserError(f"--out {args.out}: an engine profile is YAML; end its name in .yaml")
    return None if args.out is None else Path(args.out)


def _engine(args: argparse.Namespace) -> str:
    return args.engine or "vllm-v1"


def _deployment(args: argparse.Namespace) -> dict[str, Any]:
    """Fields of a MeasuredRun from the arguments."""
    from hardware_profiles.cluster import parse_cluster

    if args.cluster is None:
        raise UserError("--from-bench needs --cluster: what the benchmark ran on, such as h100-sxm:8")
    parse_cluster(args.cluster)
    names = (*SHARED, "quantization", "kv_cache_dtype")
    settings = {name: value for name in names if (value := getattr(args, name)) not in (None, False)}
    degrees = {name: value for name in DEGREES if (value := getattr(args, name)) is not None}
    return {"cluster": args.cluster, "engine": _engine(args), "settings": settings, **degrees}


def _distinct(runs: Sequence[MeasuredRun]) -> list[MeasuredRun]:
    """Ids that tell files of one name in several folders apart."""
    ids = [run.id for run in runs]
    return [
        dataclasses.replace(run, id=f"{run.id} ({i + 1})") if ids.count(run.id) > 1 else run
        for i, run in enumerate(runs)
    ]


def profile_text(fit: BenchFit, runs: Sequence[MeasuredRun], files: Sequence[str], engine: str, out: Path) -> str:
    """The engine profile: the old one as base, the constants, and where they come from."""
    import yaml

    if engine.partition("@")[0].endswith((".yaml", ".yml")):
        engine = os.path.relpath(engine, out.resolve().parent)
    tools = ", ".join(sorted({run.source for run in runs}))
    names = ", ".join(Path(file).name for file in files)
    errors = "; ".join(f"{b.key[0]} {b.mean:.1%} -> {a.mean:.1%}" for b, a in zip(fit.before, fit.after, strict=True))
    judged = f"mean error of {fit.held_out} held-out results" if fit.held_out else "mean error of the same result"
    where = f"{runs[0].model} on {runs[0].cluster}, tp={runs[0].tp}"
    about = f"{fit.num_results} results of {tools} ({names}): {where}; {judged}: {errors}"
    data: dict[str, Any] = {"base": engine, "name": out.stem}
    data |= {name: float(value) for name, value in fit.constants.items()}
    data["sources"] = {
        name: f"fitted with apex-sim calibrate --from-bench on {about}; within a factor of {fit.factors[name]:.2f}"
        for name in fit.constants
    }
    return yaml.safe_dump(data, sort_keys=False, allow_unicode=True, width=128)


def refusal(fit: BenchFit) -> str:
    """Why a fit that does not help is not written."""
    if not fit.worse:
        return "nothing written: the profile as it is predicts these results as well"
    paid = ", ".join(f"{b.key[0]} ({b.mean:.1%} -> {a.mean:.1%})" for b, a in fit.worse)
    known = {b.key[0] for b, _ in fit.worse}
    pairs = zip(fit.before, fit.after, strict=True)
    won = ", ".join(f"{b.key[0]} ({b.mean:.1%} -> {a.mean:.1%})" for b, a in pairs if b.key[0] not in known)
    return (
        f"nothing written: the fit makes {paid} worse"
        + (f" for the sake of {won}" if won else "")
        + "; no host time explains both. Check the server's settings (--max-num-batched-tokens, --max-num-seqs, the engine's "
        "version), fit other constants (--constants), or give --save-detailed files"
    )


def _as_dict(fit: BenchFit, before: Mapping[str, float]) -> dict[str, Any]:
    return {
        "results": fit.num_results,
        "held_out": fit.held_out,
        "helps": fit.helps,
        "worse": [b.key[0] for b, _ in fit.worse],
        "constants": {
            name: {"before": before[name], "after": value, "factor": fit.factors[name]}
            for name, value in fit.constants.items()
        },
        "errors": [
            {"metric": b.key[0], "n": b.n, "mean_abs_before": b.mean, "mean_abs_after": a.mean}
            for b, a in zip(fit.before, fit.after, strict=True)
        ],
    }


def _as_text(fit: BenchFit, before: Mapping[str, float]) -> str:
    """Constants, then errors before and after."""
    from apex_sim.text import share, table

    rows = [
        (name, f"{before[name]:.2g}", f"{value:.2g}", f"{fit.factors[name]:.2f}")
        for name, value in fit.constants.items()
    ]
    errors = [
        (b.key[0], str(b.n), share(b.mean), share(a.mean), share(b.signed), share(a.signed))
        for b, a in zip(fit.before, fit.after, strict=True)
    ]
    if fit.held_out:
        judged = f"errors on {fit.held_out} results, each under constants fitted to the other half"
    else:
        judged = (
            "errors on the one result that the constants were fitted to: give a second file to see what they are worth"
        )
    return "\n".join(
        [
            table(("constant [s]", "before", "after", "factor"), rows),
            "factor: by which the value may be off, from what the results leave open",
            "",
            table(("metric", "n", "before", "after", "bias before", "after"), errors),
            judged,
        ]
    )
