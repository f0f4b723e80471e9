"""Latency against load, with the knee and what saturates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from workloads.figure_labels import end_labels, free_start, level, vertical
from workloads.figure_style import (
    AMBER,
    BLUE,
    GREEN,
    INK,
    MARKERS,
    MUTED,
    ORANGE,
    PALETTE,
    SKY,
    headline,
    new_figure,
    plain_log,
    require,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from apex_sim.load import LoadCurve

TOP = 20.0
"""A latency axis ends at this many times the limit, or the latency at the knee: beyond, it is the length of the run."""
NAMES = {"ttft": "TTFT", "tpot": "TPOT"}


def load_figure(curve: LoadCurve) -> Figure:
    """TTFT and TPOT (median and p95) against the request rate, and below them what is used up: the knee, and why."""
    figure, axes = new_figure(3, 1, height=1.75, sharex=True)
    table, (top, middle, bottom) = curve.table, axes[:, 0]
    slo = next(iter(curve.results.values())).slo
    rates = table.index.to_numpy(dtype=np.float64)
    for axis, metric in ((top, "ttft"), (middle, "tpot")):
        limit = None if slo is None else getattr(slo, f"{metric}_s")
        _latencies(axis, curve, metric, rates, None if limit is None else 1e3 * limit)
    used = (
        ("compute", 100 * table["mfu"], BLUE, "o"),
        ("bandwidth", 100 * table["mbu"], SKY, "v"),
        ("KV blocks", 100 * table["kv_usage"], ORANGE, "s"),
        ("batch places", 100 * table["running"] / table["max_num_seqs"], GREEN, "^"),
    )
    for _, values, colour, marker in used:
        bottom.plot(rates, values, color=colour, marker=marker, markersize=3.5, linewidth=1.3)
    bottom.set_ylim(0, 108)
    bottom.set_ylabel("in use [%]")
    bottom.set_xlabel("request rate [1/s]")
    bottom.set_xlim(0, rates[-1] * 1.02)
    end_labels(bottom, [(rates[-1], float(values.iloc[-1]), name, colour) for name, values, colour, _ in used])
    where = "beyond " if len(rates) > 1 and curve.knee_per_s == rates[-1] else ""
    for axis in (top, middle, bottom):
        vertical(axis, curve.knee_per_s, f"knee {where}{curve.knee_per_s:g}/s" if axis is top else "", INK, ":",
                 room=curve.knee_per_s < 0.6 * rates[-1])  # fmt: skip
    held = (
        "" if slo is None else f"SLO kept up to {curve.slo_per_s:g}/s. " if curve.slo_per_s else "SLO kept at no rate. "
    )
    headline(figure, curve.title, f"{held}{_limit_words(curve)}")
    return figure


def _limit_words(curve: LoadCurve) -> str:
    """What runs out, at the highest rate."""
    last = next(reversed(curve.results))
    return f"{'Limit' if curve.limit.reached else 'Limit not reached'}: at {last:g}/s {curve.limit.why}"


def _latencies(axis: Any, curve: LoadCurve, metric: str, rates: Any, limit_ms: float | None) -> None:
    """Median and p95 with the SLO's limit, on a logarithmic axis."""
    middle = curve.table[f"median_{metric}_ms"]
    tail = curve.table[f"p95_{metric}_ms"]
    axis.plot(rates, tail, color=BLUE, marker="o", markersize=3.5, linewidth=1.5)
    axis.plot(rates, middle, color=SKY, marker="s", markersize=3.5, linewidth=1.2)
    axis.set_ylabel(f"{NAMES[metric]} [ms]")
    axis.set_xlim(0, rates[-1] * 1.02)
    if not np.isfinite(tail).any():
        axis.set_yticks([])
        axis.text(0.5, 0.5, "no request has one", transform=axis.transAxes, ha="center", color=MUTED)
        return
    axis.set_yscale("log")
    at_knee = float(tail.loc[curve.knee_per_s])
    reference = max(limit_ms or 0.0, at_knee if np.isfinite(at_knee) else float(np.nanmin(tail)))
    low, high = 0.7 * float(np.nanmin(middle)), min(1.4 * float(np.nanmax(tail)), TOP * reference)
    axis.set_ylim(_reach(low, limit_ms), max(high, 1.6 * reference))
    plain_log(axis.yaxis, axis.get_ylim(), most=5)
    end_labels(
        axis, [(rates[-1], float(tail.iloc[-1]), "p95", BLUE), (rates[-1], float(middle.iloc[-1]), "median", SKY)]
    )
    if limit_ms is not None:
        _limit(axis, limit_ms, AMBER)


def _reach(low: float, limit_ms: float | None) -> float:
    """Lower end of an axis: a limit below all that was seen is shown, unless it is so far below that nothing else would be."""
    return low if limit_ms is None or limit_ms > low or limit_ms < low / TOP else 0.7 * limit_ms


def _limit(axis: Any, limit_ms: float, colour: str) -> None:
    text = f"SLO {limit_ms:,.10g} ms"
    level(axis, limit_ms, text, colour, at=free_start(axis, limit_ms, text))


def compare_load_figure(curves: Mapping[str, LoadCurve], *, title: str = "", dollars: bool = True) -> Figure:
    """Several deployments under one load: p95 TTFT and TPOT against the rate, and dollars per million output tokens where
    the SLO is kept."""
    require(curves, "compare_load_figure: curves", "{'a name': load_curve(...)}")
    with_price = dollars and all(c.table["usd_per_million_output_tokens"].notna().all() for c in curves.values())
    figure, axes = new_figure(3 if with_price else 2, 1, height=1.9, sharex=True)
    first = next(iter(curves.values()))
    slo = next(iter(first.results.values())).slo
    panels = [("p95_ttft_ms", "p95 TTFT [ms]", None if slo is None else slo.ttft_s),
              ("p95_tpot_ms", "p95 TPOT [ms]", None if slo is None else slo.tpot_s)]  # fmt: skip
    if with_price:
        panels.append(("usd_per_million_output_tokens", "$ per 1M output tokens", None))
    longest = max(float(curve.table.index[-1]) for curve in curves.values())
    for axis, (field, label, limit_s) in zip(axes[:, 0], panels, strict=True):
        _panel(axis, curves, field, label, None if limit_s is None else 1e3 * limit_s, longest)
    axes[-1, 0].set_xlabel("request rate [1/s]")
    if with_price and slo is not None:
        axes[-1, 0].set_ylabel("$ per 1M output\ntokens within SLO")
    headline(figure, title or first.title)
    return figure


def _panel(
    axis: Any, curves: Mapping[str, LoadCurve], field: str, label: str, limit_ms: float | None, longest: float
) -> None:
    ends = []
    values = np.concatenate([_within(curve, field).to_numpy() for curve in curves.values()])
    values = values[np.isfinite(values) & (values > 0)]
    values = values if len(values) else np.ones(1)
    high = max(float(values.min()), min(float(values.max()), np.inf if limit_ms is None else TOP * limit_ms))
    axis.set_yscale("log")
    axis.set_ylim(_reach(0.8 * float(values.min()), limit_ms), 1.3 * max(high, limit_ms or 0.0))
    axis.set_xlim(0, 1.02 * longest)
    plain_log(axis.yaxis, axis.get_ylim(), most=5)
    for i, (name, curve) in enumerate(curves.items()):
        shown = _within(curve, field)
        if not len(shown):
            continue
        colour = PALETTE[i] if i < len(PALETTE) else MUTED
        axis.plot(shown.index, shown, color=colour, marker=MARKERS[i % len(MARKERS)], markersize=3.5, linewidth=1.3)
        low, top = axis.get_ylim()
        inside = shown[(shown >= low) & (shown <= top)]
        if len(inside):
            ends.append((float(inside.index[-1]), float(inside.iloc[-1]), name, colour))
    axis.set_ylabel(label)
    end_labels(axis, ends)
    if limit_ms is not None:
        _limit(axis, limit_ms, MUTED)


def _within(curve: LoadCurve, field: str) -> Any:
    """A column; dollars only where the SLO is kept."""
    column = curve.table[field]
    slo = next(iter(curve.results.values())).slo
    if slo is None or not field.startswith("usd"):
        return column
    return column[column.index <= (curve.slo_per_s or 0.0)]
