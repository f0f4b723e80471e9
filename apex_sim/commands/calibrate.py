"""``apex-sim calibrate``: measure this machine's own kernels (or, with --serve, a small engine) and write a profile."""

from __future__ import annotations

import argparse
import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_sim.json_option import add_json, check_json, wants_json

if TYPE_CHECKING:
    from hardware_profiles.schema import DeviceProfile
    from simulator.kernel_runner.points import PointsFile
    from simulator.kernel_runner.runner import Options, Profile

SERVE = "apex_sim.serve"
BENCH = "apex_sim.bench_calibrate"
NOISY = 0.10
"""Distance of quartiles above which a device was hardly alone; an idle one stays below 5 %."""
COMMENT = "Written by `{command}`. What the figures mean: docs/kernel_runner.md"


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register ``calibrate``; --device, --out, --quick and --json are shared with --serve, whose --threads serves both."""
    parser = subparsers.add_parser("calibrate", help="measure a real device and write its hardware profile")
    parser.add_argument("--device", default="cpu", metavar="cpu|cuda:N", help="what to measure (%(default)s)")
    parser.add_argument("--out", "-o", metavar="FILE", help="the profile to write, YAML")
    parser.add_argument("--quick", action="store_true", help="fewer shapes: under two minutes")
    add_json(parser)
    parser.add_argument("--serve", action="store_true", help="run a small serving engine instead of single kernels")
    kernels = parser.add_argument_group("kernels (without --serve)")
    kernels.add_argument("--dtypes", metavar="A,B", help="matrix dtypes, such as bfloat16,fp8 (all the device has)")
    kernels.add_argument("--base", metavar="DEVICE", help="profile that gives peaks, price and limits of this device")
    kernels.add_argument("--name", help="name of the profile (that of --base, or the device's)")
    kernels.add_argument("--scratch", metavar="DIR", help="measure the drive of this folder too (256 MiB, O_DIRECT)")
    kernels.add_argument("--points", metavar="FILE", help="save what was measured, CSV")
    kernels.add_argument("--from-points", metavar="FILE", help="fit saved points again instead of measuring")
    kernels.add_argument("--allow-partial", action="store_true", help="write the families whose fit converged")
    kernels.add_argument("--budget", type=float, metavar="SECONDS", help="time for measuring (80 quick, 420 full)")
    kernels.add_argument("--tiny", action="store_true", help="a few small shapes, for trying it out")
    serve = import_module(SERVE) if find_spec(SERVE) is not None else None
    if serve is not None and hasattr(serve, "add_arguments"):
        serve.add_arguments(parser.add_argument_group("with --serve"))
    import_module(BENCH).add_arguments(parser.add_argument_group("from a benchmark of a real server (docs/checks.md)"))


def run(args: argparse.Namespace) -> int:
    """Dispatch to the serving engine or to the kernels."""
    if args.from_bench is not None:
        code: int = import_module(BENCH).run(args, OF_KERNELS)
        return code
    _refuse_other_mode(args)
    check_json(args)
    _refuse_too_many_threads(_threads(args))
    if args.serve:
        code = import_module(SERVE).run(args)
        return code
    return _kernels(args)


def _refuse_too_many_threads(threads: int | None) -> None:
    """Thousands of them end in a crash of the libraries."""
    from hardware_profiles.errors import UserError

    cpus = os.cpu_count() or 1
    if threads is not None and threads > cpus:
        raise UserError(f"--threads is {threads}; this machine has {cpus} CPUs")


OF_KERNELS = ("dtypes", "base", "name", "scratch", "points", "from_points", "allow_partial", "budget", "tiny")
"""Options that --serve has no use for."""


def _refuse_other_mode(args: argparse.Namespace) -> None:
    """An option of the other mode would be ignored, so it is refused."""
    from hardware_profiles.errors import UserError

    given: list[str]
    bench = next((name for name in import_module(BENCH).OWN if getattr(args, name, None) is not None), None)
    if bench is not None:
        raise UserError(f"--{bench.replace('_', '-')} is about a benchmark of a real server; add --from-bench FILE")
    if args.serve:
        given = [name for name in OF_KERNELS if getattr(args, name, None)]
        remedy = "leave it or --serve out"
    else:
        probe = argparse.ArgumentParser(add_help=False)
        import_module(SERVE).add_arguments(probe.add_argument_group())
        defaults = vars(probe.parse_args([]))
        given = [n for n, value in defaults.items() if n != "threads" and getattr(args, n, value) != value]
        remedy = "add --serve, or leave it out"
    if given:
        flag = given[0].replace("_", "-")
        raise UserError(f"--{flag} is {'not ' if args.serve else ''}about the serving engine; {remedy}")


def _kernels(args: argparse.Namespace) -> int:
    """Measure or read points, fit, and write the profile at the very end; 0."""
    from hardware_profiles.loader import load_device
    from simulator.kernel_runner.runner import make_profile, require_scipy

    out, points = _outputs(args)
    options = _options(args)
    base = load_device(args.base) if args.base else None
    require_scipy()
    file = _measured(args, options, base, points)
    made = make_profile(
        file,
        base=base,
        name=args.name,
        scratch=options.scratch,
        allow_partial=args.allow_partial,
    )
    written = _write(made, out, _command(args)) if out is not None else []
    if not wants_json(args, _as_json(file, made, written)):
        print(_as_text(file, made, written))
    return 0


def _outputs(args: argparse.Namespace) -> tuple[Path | None, Path | None]:
    """The files to write, checked before the long work."""
    from apex_sim.files import prepare_file
    from hardware_profiles.errors import UserError

    if not args.out and not args.points:
        raise UserError("give --out FILE for the profile, --points FILE for what was measured, or both")
    if args.out and not args.out.lower().endswith((".yaml", ".yml")):
        raise UserError(f"--out {args.out}: a profile is YAML; end its name in .yaml")
    out = prepare_file(args.out, "--out") if args.out else None
    points = prepare_file(args.points, "--points") if args.points else None
    if out is not None and points is not None and out.resolve() == points.resolve():
        raise UserError(f"--points {args.points}: is the same file as --out; name another")
    return out, points


def _options(args: argparse.Namespace) -> Options:
    from hardware_profiles.errors import UserError
    from simulator.kernel_runner.runner import Options
    from simulator.kernel_runner.storage import check_folder

    if args.from_points:
        given = [name for name in ("quick", "tiny", "budget", "dtypes", "threads") if getattr(args, name, None)]
        if given:
            raise UserError(
                f"--{given[0]} is about measuring, and --from-points measures nothing; leave one of them out"
            )
    if args.quick and args.tiny:
        raise UserError("--quick and --tiny contradict each other; give one of them")
    if args.budget is not None and not 0 < args.budget < float("inf"):
        raise UserError(f"--budget is {args.budget:g}; give seconds above zero")
    threads = _threads(args)
    if threads is not None and threads < 1:
        raise UserError(f"--threads is {threads}; give 1 or more")
    dtypes = tuple(d.strip().lower() for d in (args.dtypes or "").split(",") if d.strip())
    if args.dtypes is not None and not dtypes:
        raise UserError("--dtypes is empty; write names such as bfloat16,fp8, or leave it out")
    return Options(
        suite="tiny" if args.tiny else "quick" if args.quick else "full",
        dtypes=tuple(
            dict.fromkeys({"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}.get(d, d) for d in dtypes)
        ),
        scratch=check_folder(Path(args.scratch)) if args.scratch else None,
        budget_s=args.budget,
    )


def _measured(
    args: argparse.Namespace, options: Options, base: DeviceProfile | None, points: Path | None
) -> PointsFile:
    """Points from the device or from a file; those of the device are saved before anything is fitted."""
    from apex_sim.files import write_text
    from simulator.kernel_runner.measure import DeviceLostError
    from simulator.kernel_runner.points import read_points, to_csv
    from simulator.kernel_runner.profile import check_base
    from simulator.kernel_runner.runner import open_backend, partial_file, run_kernels

    if args.from_points:
        file = read_points(Path(args.from_points))
    else:
        backend = open_backend(args.device, _threads(args))
        if base is not None:
            check_base(base, backend.facts)
        try:
            file = run_kernels(backend, options, _progress)
        except DeviceLostError as lost:
            if points is not None and lost.points:
                write_text(points, to_csv(partial_file(backend, options, lost)))
            raise
    if points is not None:
        write_text(points, to_csv(file))
    return file


def _threads(args: argparse.Namespace) -> int | None:
    threads: int | None = getattr(args, "threads", None)
    return threads


def _progress(text: str) -> None:
    from apex_sim.progress import shows_progress

    if shows_progress(sys.stderr):
        print(f"apex-sim: measuring {text}", file=sys.stderr)


def _command(args: argparse.Namespace) -> str:
    """The command that gives the profile again, without the places of files."""
    flags = [f"--device {args.device}"] if not args.from_points else ["--from-points FILE"]
    flags += [f"--{name}" for name in ("quick", "tiny", "allow_partial") if getattr(args, name)]
    flags += [
        f"--{name} {getattr(args, name)}" for name in ("dtypes", "base", "name", "threads") if getattr(args, name, None)
    ]
    return "apex-sim calibrate " + " ".join(flags).replace("_", "-")


def _write(made: Profile, out: Path, command: str) -> list[Path]:
    """The device's profile and, where a drive was measured, that one's beside it."""
    from apex_sim.files import write_atomically
    from simulator.kernel_runner.profile import to_text, write_profile

    targets = [(out, made.device)]
    if made.drive is not None:
        targets.append((out.with_name(f"{out.stem}-drive{out.suffix}"), made.drive))
    for path, profile in targets:
        text = to_text(profile, COMMENT.format(command=command))
        write_atomically(path, lambda temporary, text=text: write_profile(temporary, text))  # type: ignore[misc]
    return [path for path, _ in targets]


def _as_json(file: PointsFile, made: Profile, written: list[Path]) -> dict[str, Any]:
    """Everything the text says, in SI units."""
    import dataclasses

    from hardware_profiles.records import to_mapping

    return {
        "device": dataclasses.asdict(file.facts),
        "suite": file.suite,
        "points": len(file.points),
        "idle_w": file.idle_w,
        "fits": [dataclasses.asdict(result) for result in made.fits.results],
        "notes": list(file.notes),
        "profile": to_mapping(made.device),
        "drive": None if made.drive is None else to_mapping(made.drive),
        "written": [str(path) for path in written],
    }


def _as_text(file: PointsFile, made: Profile, written: list[Path]) -> str:
    """Device, one line per fit, and what is missing."""
    from apex_sim.text import share, table

    facts, device = file.facts, made.device
    peaks = ", ".join(f"{dtype} {peak / 1e12:.4g} TFLOP/s" for dtype, peak in device.dense_flop_per_s.items())
    lines = [
        f"{facts.name} ({facts.device}; {facts.framework} {facts.framework_version}; {facts.runtime})",
        f"{len(file.points)} points; {peaks}; memory {device.memory_bandwidth_bytes_per_s / 1e9:,.4g} GB/s",
    ]
    if file.idle_w is not None:
        lines.append(f"idle power {file.idle_w:.0f} W")
    launches = {p.kernel.op: p.seconds for p in file.points if p.kernel.family == "launch"}
    if launches:
        lines.append(
            "smallest kernel: " + ", ".join(f"{op} {seconds * 1e6:.2g} us" for op, seconds in launches.items())
        )
    rows = [
        (r.name, str(r.points), share(r.median_error), share(r.p90_error), share(r.spread), r.problem or "ok")
        for r in made.fits.results
    ]
    header = ("fit", "points", "median error", "p90 error", "noise", "")
    lines += ["", table(header, rows), "", "errors are on shapes the fit has not seen (elementwise, power: on all)"]
    noisy = [r.name for r in made.fits.results if r.spread > NOISY]
    if noisy:
        lines.append(f"repeats differ by more than {NOISY:.0%} ({', '.join(noisy)}): measure on an idle device")
    lines += file.notes
    lines += [f"written: {path}" for path in written]
    if written:
        lines.append(f"use it: apex-sim simulate --cluster {_as_argument(written[0])}:1 ...")
    return "\n".join(lines)


def _as_argument(path: Path) -> str:
    """A path that cannot be taken for a device's name."""
    text = str(path)
    return text if "/" in text else f"./{text}"
