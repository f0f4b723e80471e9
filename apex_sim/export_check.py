"""An exported folder checked: files against its plan, a measured benchmark against what was expected."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_sim.files import read_json_fields
from hardware_profiles.errors import UserError

if TYPE_CHECKING:
    from planners.export.bundle import Export


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCheck:
    """One file of an export."""

    name: str
    status: str
    """as written; changed (and still what was planned); missing; differs; left over (of another export)."""
    problem: str = ""
    note: str = ""
    """What was added that changes nothing of what was simulated, and what to give the benchmark for it."""

    @property
    def good(self) -> bool:
        """The file starts, or measures, what was planned."""
        return not self.problem


@dataclass(frozen=True, slots=True, kw_only=True)
class Compared:
    """One figure of a benchmark."""

    metric: str
    expected: float
    measured: float
    low: float | None = None
    high: float | None = None
    """Range in which four in five measured figures lie; None: not known."""

    @property
    def difference(self) -> float | None:
        """Measured over expected, less one."""
        return self.measured / self.expected - 1 if self.expected else None


def check_export(folder: str | Path) -> list[FileCheck]:
    """Every file that ``--export`` wrote there. Raises UserError where the folder has no export.json that can be read."""
    from apex_sim.exporting import REPLAY, left_over, read_export
    from planners.export.bundle import files_of

    place = Path(folder)
    if not place.is_dir():
        raise UserError(f"--check {place}: is no folder; give the one that --export or --out wrote")
    export = read_export(str(place / "export.json"))
    written = files_of(export)
    others = left_over(place, {*written, *REPLAY})  # among them manifests for an image of the user's own
    return [_check(export, place / name, written.get(name)) for name in [*written, *others]]


def _check(export: Export, path: Path, written: str | None) -> FileCheck:
    import yaml

    from planners.export.readback import Mismatch, check_file

    name = path.name
    try:
        text = path.read_text("utf-8")
    except FileNotFoundError:
        return FileCheck(name=name, status="missing", problem=f"{name}: is missing")
    except (OSError, ValueError) as error:
        return FileCheck(name=name, status="differs", problem=f"{name}: cannot be read ({error})")
    if text == written:
        return FileCheck(name=name, status="as written")
    try:
        if name in ("expected.json", "routes.json"):
            if written is None:
                raise StopIteration
            raise Mismatch(f"{name}: other figures than the simulator's")
        check_file(export, name, text)
    except (UserError, Mismatch, ValueError, yaml.YAMLError) as error:
        words = " ".join(str(error).split())
        return FileCheck(name=name, status="differs", problem=words if name in words else f"{name}: {words}")
    except StopIteration:
        return FileCheck(
            name=name, status="left over", problem=f"{name}: belongs to no server of this export; delete it"
        )
    except (AttributeError, LookupError, TypeError) as error:
        return FileCheck(name=name, status="differs", problem=f"{name}: lacks {error}")
    return FileCheck(name=name, status="changed", note=_note(export, name, text))


BENCH_NEEDS = {
    "--api-key": "OPENAI_API_KEY in the environment of bench.sh",
    "--served-model-name": "--served-model-name and --tokenizer in bench.sh",
}
"""Flag of a server -> what ``vllm bench serve`` needs beside it."""


def _note(export: Export, name: str, text: str) -> str:
    """Flags of a command that the plan does not have and that change nothing of it."""
    from planners.export.flags import engines

    if name.startswith(("bench", "replay")):
        return ""
    known = {flag for server in export.servers for flag in engines()[server.engine].harmless}
    found = sorted(known & set(re.findall(r"--[\w-]+", text)))
    if not found:
        return ""
    needs = [what for flag, what in BENCH_NEEDS.items() if flag in found]
    return f"{name}: {', '.join(found)}: not of the plan, and changes nothing of it" + "".join(
        f"; give {what}" for what in needs
    )


def compare_folder(folder: str | Path, measured: str | Path) -> tuple[list[Compared], list[str]]:
    """Figures of a result of ``vllm bench serve`` beside those of expected.json, and what makes them hard to compare."""
    from apex_sim.exporting import read_export

    found = read_json_fields(measured, f"--measured {Path(measured)}", "the JSON of vllm bench serve")
    export = read_export(str(Path(folder) / "export.json"))
    runs = list(zip(export.benchmarks, export.expected, strict=True))
    if not runs:
        raise UserError(f"--measured {measured}: the export has no benchmark to compare with")
    names = {f"measured{'-' * bool(bench.target)}{bench.target}.json": (bench, figures) for bench, figures in runs}
    bench, expected = names.get(Path(measured).name, runs[0]) if len(runs) > 1 else runs[0]
    rows = _rows(expected, found)
    if not rows:
        raise UserError(
            f"--measured {measured}: has none of the figures of expected.json; give the result of {bench.file}"
        )
    notes = []
    for name, wanted, what in (
        ("completed", bench.num_requests, "requests completed"),
        ("request_rate", bench.rate_per_s, "requests per second sent"),
        ("max_concurrency", bench.concurrency, "requests in flight"),
    ):
        given = found.get(name)
        if wanted is not None and given is not None and _is_number(given) and abs(given - wanted) > 1e-3 * wanted:
            notes.append(f"{what}: {given:g}, the plan's benchmark has {wanted:g}")
    return rows, notes


def _rows(expected: Mapping[str, Any], found: Mapping[str, Any]) -> list[Compared]:
    from apex_sim.export_readme import figures_of

    given = dict(found) | {"request_goodput": found.get("request_goodput", found.get("request_goodput:"))}  # vLLM 0.8
    return [
        Compared(
            metric=name,
            expected=float(value),
            measured=float(given[name]),
            low=expected.get(f"{name}_low"),
            high=expected.get(f"{name}_high"),
        )
        for name, value in figures_of(expected)
        if _is_number(value) and _is_number(given.get(name))
    ]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def text_of(files: Sequence[FileCheck], rows: Sequence[Compared], notes: Sequence[str]) -> str:
    """What the command prints."""
    width = max(len(file.name) for file in files)
    lines = [f"{file.name:<{width}}  {file.status}" for file in files]
    lines += ["", *(file.problem for file in files if not file.good)] if not all(f.good for f in files) else []
    if rows:
        lines += ["", f"{'':<23}{'expected':>10}{'measured':>10}{'difference':>12}  80 % range"]
        lines += [_line(row) for row in rows]
    added = [file.note for file in files if file.note]
    return "\n".join([*lines, *(f"note: {note}" for note in (*added, *notes))])


def _line(row: Compared) -> str:
    gap = "" if row.difference is None else f"{row.difference:+.1%}"
    where = ""
    if row.low is not None and row.high is not None:
        outside = "" if row.low <= row.measured <= row.high else ", outside"
        where = f"  {row.low:.4g} to {row.high:.4g}{outside}"
    return f"{row.metric:<23}{row.expected:>10.4g}{row.measured:>10.4g}{gap:>12}{where}"
