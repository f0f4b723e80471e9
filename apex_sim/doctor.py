"""Checks of an installation: what is there, what works, what is missing and how to get it."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

State = Literal["ok", "missing", "failed"]
REQUIRED = ("numpy", "pandas", "simpy", "pulp", "pyyaml", "matplotlib")
OPTIONAL = {
    "pyarrow": ("parquet", "Parquet files"),
    "scipy": ("calibrate", "fits of kernel measurements"),
    "highspy": ("solvers", "the HiGHS solver"),
    "torch": ("gpu", "measuring a GPU, or serving on a device"),
    "pynvml": ("gpu", "power and clocks of a measured GPU"),
    "ray": ("ray", "sweeps on a Ray cluster"),
    "distributed": ("dask", "sweeps on a Dask cluster"),
    "nbclient": ("notebooks", "executing the notebooks"),
    "zensical": ("docs", "building the documentation"),
}
"""Module: (extra of this package that brings it, what it is for)."""
DISTRIBUTIONS = {"pynvml": "nvidia-ml-py"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One line of the report. ``failed`` is an error of the installation, ``missing`` something that is optional."""

    group: str
    name: str
    state: State
    detail: str


def examine() -> list[Finding]:
    """Every check, in the order of the report."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (_versions, _solvers, _gpus, _profiles, _extras, _folders)
    return [finding for check in checks for finding in check()]


def as_dict(findings: list[Finding]) -> dict[str, Any]:
    """For JSON."""
    return {"healthy": healthy(findings), "findings": [asdict(finding) for finding in findings]}


def healthy(findings: list[Finding]) -> bool:
    """Nothing failed."""
    return all(finding.state != "failed" for finding in findings)


def as_text(findings: list[Finding]) -> str:
    """Lines by group, and what to do."""
    width = max(len(finding.name) for finding in findings)
    lines: list[str] = []
    group = ""
    for f in findings:
        if f.group != group:
            lines += ["", f.group] if group else [f.group]
            group = f.group
        lines.append(f"  {f.state:<7}  {f.name:<{width}}  {f.detail}".rstrip())
    bad = sum(f.state == "failed" for f in findings)
    return "\n".join([*lines, "", "all that is required works" if not bad else f"{bad} checks failed"])


def _version_of(module: str) -> str | None:
    try:
        return version(DISTRIBUTIONS.get(module, module))
    except PackageNotFoundError:
        return None


def _versions() -> Iterator[Finding]:
    from apex_sim import __version__

    yield Finding(group="versions", name="apex-sim", state="ok", detail=f"{__version__} in {Path(__file__).parent}")
    python = ".".join(map(str, sys.version_info[:3]))
    yield Finding(
        group="versions",
        name="python",
        state="ok" if sys.version_info >= (3, 11) else "failed",
        detail=f"{python} at {sys.executable}",
    )
    needed = _needed()
    for name in REQUIRED:
        found = _version_of(name)
        wanted = needed.get(name, "")
        if found is None:
            yield Finding(
                group="versions", name=name, state="failed", detail=f"not installed; pip install '{name}{wanted}'"
            )
        else:
            late = _at_least(found, wanted)
            detail = found if late else f"{found} is too old; pip install '{name}{wanted}'"
            yield Finding(group="versions", name=name, state="ok" if late else "failed", detail=detail)


def _needed() -> dict[str, str]:
    """What this package requires, such as {"numpy": ">=2.0"}."""
    try:
        lines = requires("apex-sim") or []
    except PackageNotFoundError:  # run from a folder
        return {}
    plain = [line for line in lines if ";" not in line]
    return {name: line[len(name) :] for line in plain for name in REQUIRED if line.lower().startswith(name)}


def _at_least(found: str, wanted: str) -> bool:
    """Whether version ``found`` meets the lower bound of ``wanted``, such as ">=3.3,<4"."""
    low = next((part[2:] for part in wanted.replace(" ", "").split(",") if part.startswith(">=")), "0")
    return _numbers(found) >= _numbers(low)


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(".")[:3] if part.isdigit())


def _solvers() -> Iterator[Finding]:
    """A knapsack with a known answer through each solver that is installed; the first is the one that is used."""
    try:
        import pulp
    except ImportError as error:
        yield Finding(group="solvers", name="PuLP", state="failed", detail=str(error))
        return
    runs: list[tuple[str, Callable[[], Any]]] = [("CBC", lambda: pulp.PULP_CBC_CMD(msg=False, threads=1))]
    if find_spec("highspy") is not None:
        runs.insert(0, ("HiGHS", lambda: pulp.HiGHS(msg=False)))
    for name, solver in runs:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)
                value = _knapsack(pulp, solver())
            good, detail = value == 11.0, f"solved a small integer programme: {value:g}, 11 is right"
        except Exception as error:
            good, detail = False, f"cannot solve: {type(error).__name__}: {' '.join(str(error).split())[:100]}"
        yield Finding(group="solvers", name=name, state="ok" if good else "failed", detail=detail)


def _knapsack(pulp: Any, solver: Any) -> float:
    """The most value (6, 5, 4) of weights (4, 3, 2) within 7: 6 + 5."""
    problem = pulp.LpProblem("doctor", pulp.LpMaximize)
    take = [pulp.LpVariable(f"x{i}", cat="Binary") for i in range(3)]
    problem += pulp.lpSum(v * x for v, x in zip((6, 5, 4), take, strict=True))
    problem += pulp.lpSum(w * x for w, x in zip((4, 3, 2), take, strict=True)) <= 7
    problem.solve(solver)
    return float(round(pulp.value(problem.objective), 6))


def _gpus() -> Iterator[Finding]:
    """What nvidia-smi sees, and the profile that it matches. Predictions need no GPU."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        yield Finding(
            group="gpu", name="nvidia-smi", state="missing", detail="none seen; only measuring a GPU needs one"
        )
        return
    try:
        query = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
        rows = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    except (OSError, subprocess.SubprocessError) as error:
        yield Finding(group="gpu", name="nvidia-smi", state="missing", detail=f"does not work: {str(error)[:100]}")
        return
    for i, row in enumerate(rows):
        yield Finding(group="gpu", name=f"gpu {i}", state="ok", detail=row)
    if not rows:
        yield Finding(group="gpu", name="nvidia-smi", state="missing", detail="lists no GPU")


def _profiles() -> Iterator[Finding]:
    """Every bundled file is read and checked as a run would do."""
    from hardware_profiles.loader import device_names, load_device
    from hardware_profiles.sites import grids
    from simulator.engine_files import engine_names
    from simulator.engine_loader import load_engine
    from workloads.catalog import catalog, load_model

    yield _loaded("devices", device_names(), load_device)
    device = load_device("h100-sxm")
    yield _loaded("engines", engine_names(), lambda name: load_engine(name, device))
    yield _loaded("models", catalog(), load_model)
    yield _loaded("grids", grids(), lambda name: grids()[name])


def _loaded(what: str, names: Any, load: Callable[[str], Any]) -> Finding:
    bad = []
    for name in names:
        try:
            load(name)
        except Exception as error:
            bad.append(f"{name}: {error}")
    detail = f"{len(names)} loaded and checked" if not bad else f"{len(bad)} of {len(names)} are broken: {bad[0]}"
    return Finding(group="profiles", name=what, state="failed" if bad or not names else "ok", detail=detail)


def _extras() -> Iterator[Finding]:
    for module, (extra, purpose) in OPTIONAL.items():
        if find_spec(module) is None:
            detail = f"for {purpose}: pip install 'apex-sim[{extra}]'"
            yield Finding(group="extras", name=module, state="missing", detail=detail)
        else:
            yield Finding(group="extras", name=module, state="ok", detail=_version_of(module) or "")


def _folders() -> Iterator[Finding]:
    from apex_sim.gpus_inputs import cache_folder

    cache = cache_folder(None)
    yield _writable("cache", cache, "throughputs of apex-sim gpus; use --cache DIR or XDG_CACHE_HOME")
    yield _writable("temporary", Path(tempfile.gettempdir()), "solvers write there; set TMPDIR")


def _writable(name: str, folder: Path, purpose: str) -> Finding:
    """Whether files can be made in ``folder``, or in the nearest folder above it that exists; nothing is left behind."""
    existing = next((path for path in (folder, *folder.parents) if path.exists()), folder)
    try:
        with tempfile.TemporaryFile(dir=existing):
            pass
        if not os.access(existing, os.X_OK):
            raise PermissionError(13, "Permission denied")
    except OSError as error:
        detail = f"{folder} cannot be written ({error.strerror or error}): {purpose}"
        return Finding(group="folders", name=name, state="failed", detail=detail)
    return Finding(group="folders", name=name, state="ok", detail=f"{folder} is writable")
