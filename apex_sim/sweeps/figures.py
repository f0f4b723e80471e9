"""Figures of a sweep: the rows that none beats among all, and the best of one column along a setting."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from apex_sim.sweeps.pareto import Goal, front_of, goal_of, good_rows, parse_goals, split_way
from hardware_profiles.errors import UserError
from workloads.figure_labels import end_labels, note
from workloads.figure_style import BLUE, INK, MARKERS, MUTED, PALETTE, SMALL_PT, headline, new_figure, plain_log

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

LOG_RATIO = 20.0
"""Largest over smallest value from which an axis is logarithmic."""
NAMED = 14
"""Rows of the front that the key names."""
NEAR = 0.03
"""Of the axes' length: marks closer than this share one label."""
UNITS = {
    "_ms": "[ms]",
    "_s": "[s]",
    "_w": "[W]",
    "_j": "[J]",
    "throughput": "[1/s]",
    "rate": "[1/s]",
    "hit_rate": "",
    "acceptance_rate": "",
    "goodput": "[1/s]",
    "_throughput_per_gpu": "[tokens/s]",
    "token_throughput": "[tokens/s]",
    "output_throughput": "[tokens/s]",
}
WORDS = {
    "usd_per_million_output_tokens": "$ per 1M output tokens",
    "usd_per_million_tokens": "$ per 1M tokens",
    "usd_per_request": "$ per request",
    "usd_per_hour": "$ per hour",
    "joules_per_output_token": "energy [J per output token]",
    "gco2e_per_million_output_tokens": "gCO2e per 1M output tokens",
    "tp": "tensor parallel degree",
    "dp": "replicas",
    "num_gpus": "devices",
}
SHORT = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2el": "E2E", "slo": "SLO"}


def words(column: str) -> str:
    """A column as the label of an axis, with its unit where it has one."""
    if column in WORDS:
        return WORDS[column]
    unit = next(
        (unit for end, unit in sorted(UNITS.items(), key=lambda item: -len(item[0])) if column.endswith(end)), ""
    )
    for end in ("_ms", "_s", "_w", "_j"):
        column = column.removesuffix(end)
    return " ".join([*(SHORT.get(part, part) for part in column.split("_")), unit]).strip()


def sweep_figure(frame: pd.DataFrame, pareto: str | Sequence[str], where: str | None = None) -> Figure:
    """All rows that meet ``where`` and the front over two columns, ``"x,y"``; the front's rows are numbered as
    :func:`apex_sim.sweeps.pareto.sweep_front` orders them."""
    goals = parse_goals(pareto, list(frame.columns))
    rows = good_rows(frame, where)
    front = front_of(rows, goals)
    if front.empty:
        raise UserError(f"no run has figures of {', '.join(g.column for g in goals)}; there is nothing to draw")
    x, y = goals[0], goals[1]
    key = _key(frame, front)
    figure, axes = new_figure(height=2.9 + 0.16 * len(key))
    axis = axes[0][0]
    axis.scatter(rows[x.column], rows[y.column], s=10, color=MUTED, linewidths=0, alpha=0.7)
    line = front.sort_values(x.column)
    flat = len(goals) == 2
    axis.plot(line[x.column], line[y.column], "o-" if flat else "o", color=BLUE, markersize=4.5, linewidth=1.2)
    _scales(axis, rows, x.column, y.column)
    _marks(axis, front, x.column, y.column)
    axis.set_xlabel(_label(x))
    axis.set_ylabel(_label(y))
    others = f", with {', '.join(words(g.column) for g in goals[2:])}" if not flat else ""
    headline(
        figure,
        f"{len(front):,} of {len(rows):,} runs are beaten by none{others}",
        "Numbers: see below; grey: other runs",
    )
    figure.supxlabel(
        "\n".join(key), x=0.02, ha="left", fontsize=SMALL_PT, color=INK, linespacing=1.35, parse_math=False
    )
    return figure


def _label(goal: Goal) -> str:
    return f"{words(goal.column)}, {'more' if goal.more else 'less'} is better"


def varied(frame: pd.DataFrame) -> list[str]:
    """Columns of the settings: those before ``key``."""
    names = list(frame.columns)
    return names[: names.index("key")] if "key" in names else []


def _key(frame: pd.DataFrame, front: pd.DataFrame) -> list[str]:
    """What each number of the figure is: settings that are the same along the front once, then the others."""
    names = varied(frame)
    same = [name for name in names if front[name].astype(str).nunique() == 1]
    shared = ", ".join(f"{name}={_short(front[name].iloc[0])}" for name in same if _is_set(front[name].iloc[0]))
    lines = [f"all: {shared}"] if shared and len(front) > 1 else []
    for i, (_, row) in enumerate(front.iterrows(), 1):
        shown = names if len(front) == 1 else [name for name in names if name not in same]
        lines.append(f"{i}: " + ", ".join(f"{name}={_short(row[name])}" for name in shown if _is_set(row[name])))
    return lines[:NAMED] + ([f"and {len(lines) - NAMED:,} more"] if len(lines) > NAMED else [])


def _is_set(value: Any) -> bool:
    return value is not None and value == value


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _scales(axis: Any, rows: pd.DataFrame, x: str, y: str) -> None:
    for name, line, log in ((x, axis.xaxis, axis.set_xscale), (y, axis.yaxis, axis.set_yscale)):
        values = rows[name].dropna()
        if len(values) and values.min() > 0 and values.max() > LOG_RATIO * values.min():
            log("log")
            plain_log(line, (float(values.min()), float(values.max())))


def _marks(axis: Any, front: pd.DataFrame, x: str, y: str) -> None:
    """Numbers of the front's rows; marks that nearly coincide share one label."""
    axis.autoscale_view()
    transform = axis.transScale + axis.transLimits
    at = transform.transform(front[[x, y]].to_numpy(dtype=float))
    groups: list[list[int]] = []
    for i in range(len(at)):
        near = [g for g in groups if abs(at[g[-1]] - at[i]).max() < NEAR]
        if near:
            near[0].append(i)
        else:
            groups.append([i])
    for group in groups:
        row = front.iloc[group[0]]
        text = f"{group[0] + 1}" if len(group) == 1 else f"{group[0] + 1}-{group[-1] + 1}"
        runs = group == list(range(group[0], group[-1] + 1))
        text = text if runs else ",".join(str(i + 1) for i in group)
        note(axis, float(row[x]), float(row[y]), text, colour=BLUE, xytext=(4, 5))


def parse_lines(columns: str | Sequence[str]) -> list[str]:
    """x, y and perhaps what the lines are."""
    names = [name.strip() for name in (columns.split(",") if isinstance(columns, str) else columns)]
    if len(names) not in (2, 3):
        raise UserError(f"--lines is {columns!r}; name x, y and perhaps what the lines are, as in rate,p95_tpot_ms,tp")
    return names


def sweep_lines(frame: pd.DataFrame, columns: str | Sequence[str], where: str | None = None) -> Figure:
    """The best of a column along a setting, over all other settings: ``"x,y"``, or ``"x,y,by"`` with a line per value."""
    x, y, *rest = parse_lines(columns)
    way, y = split_way(y, "--lines")
    goal = goal_of(way, y, list(frame.columns))
    for name in (x, *rest):
        goal_of("", name, list(frame.columns))
    by = rest[0] if rest else None
    rows = good_rows(frame, where).dropna(subset=[x, goal.column])
    for column in (x, goal.column):
        if rows.empty or rows[column].map(type).isin((str, list)).any():
            raise UserError(f"--lines: no run has numbers in column {column!r}; name another or loosen --where")
    figure, axes = new_figure(height=3.0)
    axis = axes[0][0]
    ends = []
    groups = [(None, rows)] if by is None else list(rows.groupby(by, sort=True, dropna=False))
    for i, (value, group) in enumerate(groups):
        best = group.groupby(x)[goal.column].agg("max" if goal.more else "min").astype(float)
        colour = PALETTE[i % len(PALETTE)]
        axis.plot(
            best.index, best.to_numpy(), marker=MARKERS[i % len(MARKERS)], color=colour, markersize=4, linewidth=1.4
        )
        text = "" if by is None else f"{by} {_short(value) if _is_set(value) else 'not set'}"
        ends.append((float(best.index[-1]), float(best.iloc[-1]), text, colour))
    _scales(axis, rows, x, goal.column)
    axis.set_xlabel(words(x))
    axis.set_ylabel(_label(goal))
    if by is not None:
        axis.autoscale_view()
        end_labels(axis, ends)
    headline(figure, f"{'Most' if goal.more else 'Least'} {words(goal.column)} over all other settings")
    return figure
