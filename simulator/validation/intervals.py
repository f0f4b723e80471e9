"""``python -m simulator.validation.intervals FILES``: what intervals the residuals of measured runs give, and their coverage.

Every run is replayed with the device's own kernel efficiencies, with those of another generation and with the datasheet
defaults, as if nobody had measured the device: that is what predictions for unmeasured devices rest on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardware_profiles.errors import UserError
from simulator.calibration.fitting import rounded
from simulator.physics.sums import in_order
from simulator.uncertainty import (
    CHAIN,
    FAMILIES,
    LABELS,
    SHARE,
    Interval,
    committed_rows,
    engine_family,
    family_of,
    pick,
)
from simulator.validation.files import check_unique, read_runs
from simulator.validation.replay import KERNELS, Options, predict_all
from simulator.validation.run import MeasuredRun
from simulator.validation.score import Residual, residuals_of

FEWEST = 8
"""Figures from which a kind of run has an interval of its own."""
FEWEST_GROUPS = 3
"""Models on devices from which it has one."""
WIDENINGS = tuple(1.0 + 0.1 * step for step in range(41))
WIDEST = 4.0
"""Figures further off than this factor are not of the kind the intervals are about; they count as that far off."""
TARGET = Path(__file__).resolve().parents[1] / "uncertainty.yaml"

Rows = dict[tuple[str, tuple[tuple[str, str], ...]], tuple[float, float, int]]


def labels_of(residual: Residual) -> dict[str, str]:
    """What decides which interval a figure belongs to."""
    return {"engine": engine_family(residual.run.engine), **{name: residual.classes[name] for name in LABELS[1:]}}


def interval_of(residual: Residual) -> Interval | None:
    """The interval that the prediction carries."""
    family = family_of(residual.metric)
    return None if family is None else pick(committed_rows(), family, labels_of(residual))


def group_of(residual: Residual) -> str:
    """Runs that err alike and count as one: a model on a device, from one source."""
    return f"{residual.run.source}: {residual.run.model} on {residual.run.device}"


def rows_of(residuals: Iterable[Residual], widening: Mapping[str, float] | None = None) -> Rows:
    """One row per family of metrics and kind of run with enough figures from enough groups, in a fixed order.

    ``widening`` moves both ends of a family's intervals away from the median, in logarithms.
    """
    widening = widening or {}
    found: dict[tuple[str, tuple[tuple[str, str], ...]], dict[str, list[float]]] = {}
    for residual in residuals:
        family = family_of(residual.metric)
        if family is None or not residual.predicted > 0.0:
            continue
        ratio = min(WIDEST, max(1.0 / WIDEST, residual.measured / residual.predicted))
        labels = labels_of(residual)
        for names in CHAIN:
            key = tuple((name, labels[name]) for name in LABELS if name in names)
            found.setdefault((family, key), {}).setdefault(group_of(residual), []).append(ratio)
    rows: Rows = {}
    for kind, groups in sorted(found.items()):
        count = sum(len(ratios) for ratios in groups.values())
        if count >= FEWEST and len(groups) >= FEWEST_GROUPS:
            rows[kind] = (*_widened(groups, widening.get(kind[0], 1.0)), count)
    return rows


def _widened(groups: Mapping[str, Sequence[float]], factor: float) -> tuple[float, float]:
    """Ends of the interval. Groups count alike, however many figures they have."""
    ratios = [(ratio, 1.0 / len(group)) for group in groups.values() for ratio in group]
    low, middle, high = (weighted_quantile(ratios, share) for share in ((1 - SHARE) / 2, 0.5, (1 + SHARE) / 2))
    return middle * (low / middle) ** factor, middle * (high / middle) ** factor


def weighted_quantile(values: Sequence[tuple[float, float]], share: float) -> float:
    """The smallest value up to which at least ``share`` of the weight lies; entries are (value, weight)."""
    ordered = sorted(values)
    wanted = share * in_order(weight for _, weight in ordered)
    total = 0.0
    for value, weight in ordered:
        total += weight
        if total >= wanted:
            return value
    return ordered[-1][0]


def fit_widening(residuals: Sequence[Residual]) -> dict[str, float]:
    """By family: the least factor with which intervals from the other groups hold SHARE of the figures of a group left out."""
    factors: dict[str, float] = {}
    for family in FAMILIES:
        own = [r for r in residuals if family_of(r.metric) == family]
        for factor in WIDENINGS:
            factors[family] = factor
            judged = leave_groups_out(own, {family: factor})
            if not judged or in_order(entry.share * entry.total for entry in judged) >= SHARE * in_order(
                e.total for e in judged
            ):
                break
    return factors


def leave_groups_out(residuals: Sequence[Residual], widening: Mapping[str, float]) -> list[Coverage]:
    """Coverage of each group's figures by the intervals of all the others."""
    judged: list[tuple[str, float, Interval]] = []
    for group in dict.fromkeys(group_of(r) for r in residuals):
        rows = rows_of((r for r in residuals if group_of(r) != group), widening)
        judged += _judge((r for r in residuals if group_of(r) == group), rows)
    return [_summary(f, [e for e in judged if e[0] == f]) for f in dict.fromkeys(e[0] for e in judged)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How many figures of one family lay in their intervals."""

    family: str
    inside: int
    total: int
    width: float
    """Median of high / low."""

    @property
    def share(self) -> float:
        """Of the figures."""
        return self.inside / self.total


def coverage(residuals: Sequence[Residual], rows: Mapping[Any, tuple[float, float, int]]) -> list[Coverage]:
    """Share of figures inside the intervals of ``rows``, by family."""
    judged = _judge(residuals, rows)
    return [_summary(f, [e for e in judged if e[0] == f]) for f in dict.fromkeys(e[0] for e in judged)]


def _judge(
    residuals: Iterable[Residual], rows: Mapping[Any, tuple[float, float, int]]
) -> list[tuple[str, float, Interval]]:
    found = []
    for residual in residuals:
        family = family_of(residual.metric)
        interval = pick(rows, family, labels_of(residual)) if family else None
        if family and interval is not None and residual.predicted > 0.0:
            found.append((family, residual.measured / residual.predicted, interval))
    return found


def _summary(family: str, judged: Sequence[tuple[str, float, Interval]]) -> Coverage:
    widths = sorted(interval.high / interval.low for _, _, interval in judged)
    inside = sum(interval.low <= ratio <= interval.high for _, ratio, interval in judged)
    return Coverage(family=family, inside=inside, total=len(judged), width=widths[len(widths) // 2])


def to_yaml(rows: Rows, sources: Sequence[str]) -> str:
    """Text of uncertainty.yaml."""
    import yaml

    data = [
        {"family": family, **dict(key), "low": rounded(low, 3), "high": rounded(high, 3), "runs": runs}
        for (family, key), (low, high, runs) in rows.items()
    ]
    head = (
        "# 10th and 90th percentile of measured / predicted, by kind of run. Written by\n"
        f"# python -m simulator.validation.intervals from replays of: {', '.join(sources)}.\n"
    )
    return head + "rows:\n" + "".join(f"- {_flow(yaml, row)}" for row in data)


def _flow(yaml: Any, row: Mapping[str, Any]) -> str:
    text: str = yaml.safe_dump(dict(row), default_flow_style=True, sort_keys=False, width=10_000)
    return text


def replay_all(runs: Sequence[MeasuredRun], *, jobs: int = 1) -> list[Residual]:
    """Residuals under every kind of kernel efficiencies; failures are left to ``validate``."""
    residuals: list[Residual] = []
    for kernels in KERNELS:
        residuals += residuals_of(predict_all(runs, Options(seeds=1, fast=True, kernels=kernels), jobs=jobs))
    return residuals


def main(argv: list[str] | None = None) -> int:
    """Print coverage; --write replaces uncertainty.yaml."""
    parser = argparse.ArgumentParser(prog="python -m simulator.validation.intervals", description=__doc__)
    parser.add_argument("files", nargs="+", metavar="FILE", help="measured runs")
    parser.add_argument("--write", action="store_true", help=f"replace {TARGET.name}")
    parser.add_argument("--jobs", type=int, default=1, help="processes")
    args = parser.parse_args(argv)
    try:
        runs = [run for file in args.files for run in read_runs(file)]
        check_unique(runs)
        residuals = replay_all(runs, jobs=args.jobs)
    except UserError as error:
        print(f"intervals: error: {error}", file=sys.stderr)
        return 2
    widening = fit_widening(residuals)
    rows = rows_of(residuals, widening)
    print(f"{len(residuals)} figures, {len(rows)} kinds; {SHARE:.0%} should lie inside")
    for entry in leave_groups_out(residuals, widening):
        print(
            f"  {entry.family}: {entry.share:.0%} of {entry.total} inside intervals from other models and devices, "
            f"widened x{widening[entry.family]:.2f} to a median of x{entry.width:.2f} from end to end"
        )
    if args.write:
        temporary = TARGET.with_suffix(".tmp")
        temporary.write_text(to_yaml(rows, sorted({run.source for run in runs})), encoding="utf-8")
        temporary.replace(TARGET)
    return 0


if __name__ == "__main__":
    sys.exit(main())
