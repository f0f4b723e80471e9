"""Points as a CSV file: one row per kernel, and what the device said of itself in comment lines above."""

from __future__ import annotations

import csv
import dataclasses
import io
import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

from hardware_profiles.errors import UserError
from simulator.kernel_runner.backend import DeviceFacts
from simulator.kernel_runner.kernel import SHAPE_FIELDS, Family, Kernel, Point

FORMAT = "apex-sim kernel points 1"
NUMBERS = ("seconds", "quartile1_s", "quartile3_s", "repeats", "power_w")
COLUMNS = ("family", "op", "dtype", *SHAPE_FIELDS, *NUMBERS, "implementation")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PointsFile:
    """Everything a fit needs, without the device."""

    facts: DeviceFacts
    points: tuple[Point, ...]
    suite: str = ""
    idle_w: float | None = None
    notes: tuple[str, ...] = ()
    """What was cut, missing or dropped, in words."""


def to_csv(file: PointsFile) -> str:
    """Text of the file; equal points give equal text."""
    out = io.StringIO()
    head = {
        "facts": dataclasses.asdict(file.facts),
        "suite": file.suite,
        "idle_w": file.idle_w,
        "notes": list(file.notes),
    }
    out.write(f"# {FORMAT}\n")
    for key, value in head.items():
        out.write(f"# {key}: {json.dumps(value)}\n")
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(_row(point) for point in file.points)
    return out.getvalue()


def _row(point: Point) -> list[object]:
    shape = dict(point.kernel.shape)
    kernel = point.kernel
    numbers = [repr(point.seconds), repr(point.quartile1_s), repr(point.quartile3_s), point.repeats]
    watts = "" if point.power_w is None else repr(point.power_w)
    return [
        *(kernel.family, kernel.op, kernel.dtype),
        *(shape.get(name, "") for name in SHAPE_FIELDS),
        *(*numbers, watts, point.implementation),
    ]


def read_points(path: Path) -> PointsFile:
    """Read a points file. Raises UserError that names the line and what is wrong with it."""
    try:
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); give a file written by --points") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not text; give a file written by --points") from None
    lines = text.splitlines()
    comments = [line[2:] for line in lines if line.startswith("# ")]
    if not comments or comments[0] != FORMAT:
        raise UserError(f"{path.name}: does not begin with '# {FORMAT}'; give a file written by --points")
    head = _head(comments[1:], path.name)
    rows = csv.reader(line for line in lines if not line.startswith("#"))
    header = next(rows, [])
    if tuple(header) != COLUMNS:
        wrong = next((c for c in COLUMNS if c not in header), None)
        problem = f"has no column '{wrong}'" if wrong else "has other columns, or in another order"
        raise UserError(f"{path.name}: {problem}; its columns are {', '.join(COLUMNS)}")
    first_line = len(comments) + 2
    points = tuple(_point(row, f"{path.name} line {first_line + i}") for i, row in enumerate(rows) if row)
    _no_duplicates(points, path.name)
    if not points:
        raise UserError(f"{path.name}: has no points; run apex-sim calibrate with --points again")
    return PointsFile(
        facts=_facts(head.get("facts"), path.name),
        points=points,
        suite=str(head.get("suite", "")),
        idle_w=_optional_number(head.get("idle_w"), f"{path.name}: idle_w"),
        notes=tuple(str(note) for note in head.get("notes", [])),
    )


def _head(comments: Iterable[str], where: str) -> dict[str, Any]:
    head: dict[str, Any] = {}
    for comment in comments:
        key, _, value = comment.partition(": ")
        try:
            head[key] = json.loads(value)
        except ValueError:
            raise UserError(
                f"{where}: the comment '{key}' is not JSON; leave the lines that begin with # alone"
            ) from None
    return head


def _facts(content: object, where: str) -> DeviceFacts:
    from hardware_profiles.records import from_mapping

    if not isinstance(content, Mapping):
        raise UserError(f"{where}: has no comment line '# facts: ...'; give a file written by --points")
    return from_mapping(DeviceFacts, content, where=where, field="facts")


def _point(row: Sequence[str], where: str) -> Point:
    if len(row) != len(COLUMNS):
        raise UserError(f"{where}: has {len(row)} values, not {len(COLUMNS)}; restore the row")
    cells = dict(zip(COLUMNS, row, strict=True))
    if cells["family"] not in get_args(Family):
        raise UserError(f"{where}: family is {cells['family']!r}; use one of {', '.join(get_args(Family))}")
    shape = tuple((name, _count(cells[name], name, where)) for name in SHAPE_FIELDS if cells[name])
    numbers = {name: _positive(cells[name], name, where) for name in ("seconds", "quartile1_s", "quartile3_s")}
    if numbers["seconds"] > LONGEST_S:
        raise UserError(
            f"{where}: seconds is {cells['seconds']}; a kernel takes less than {LONGEST_S:g} s, check the unit"
        )
    return Point(
        kernel=Kernel(cells["family"], cells["op"], cells["dtype"], shape),  # type: ignore[arg-type]  # checked above
        seconds=numbers["seconds"],
        quartile1_s=numbers["quartile1_s"],
        quartile3_s=numbers["quartile3_s"],
        repeats=_count(cells["repeats"], "repeats", where),
        power_w=_positive(cells["power_w"], "power_w", where) if cells["power_w"] else None,
        implementation=cells["implementation"],
    )


LONGEST_S = 600.0
"""No single kernel of the suites takes minutes: larger numbers are in another unit."""


def _positive(text: str, name: str, where: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not (math.isfinite(value) and value > 0):
        raise UserError(f"{where}: {name} is {text!r}; write a number above zero")
    return value


def _count(text: str, name: str, where: str) -> int:
    if not text.isdigit():
        raise UserError(f"{where}: {name} is {text!r}; write a whole number")
    return int(text)


def _optional_number(value: object, where: str) -> float | None:
    if value is None:
        return None
    if not isinstance(value, int | float) or value < 0:
        raise UserError(f"{where} is {value!r}; write watts or null")
    return float(value)


def _no_duplicates(points: Sequence[Point], where: str) -> None:
    seen: set[Kernel] = set()
    for point in points:
        if point.kernel in seen:
            raise UserError(f"{where}: {point.kernel.label} is there twice; keep one of the rows")
        seen.add(point.kernel)
