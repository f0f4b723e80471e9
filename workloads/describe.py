"""What a trace looks like: the statistics that matter for capacity, as a dict, as text and as a figure."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np

from hardware_profiles.errors import UserError
from workloads.figure_labels import level, vertical
from workloads.figure_style import (
    BLUE,
    GREEN,
    GRID,
    INK,
    MUTED,
    ORANGE,
    SMALL_PT,
    headline,
    new_figure,
    plain_ticks,
    save,
)
from workloads.prefixes import prompt_blocks_hit
from workloads.trace import FloatArray, IntArray, Trace

PERCENTILES = (50, 90, 95, 99)


def describe(trace: Trace) -> dict[str, Any]:
    """Statistics of a trace, ready for JSON; None where a quantity does not exist (a closed loop has no rate).

    ``interarrival_cv``: standard deviation over mean of the gaps (Poisson: 1). ``dispersion_Ns``: variance over mean of
    the arrivals per N seconds (Poisson: 1). ``tie_share``: share of requests that arrive at the same instant as the
    one before. ``hit_share`` of prefixes: prompt pieces that a cache without limit would hit.
    """
    timed = trace.concurrency is None and len(trace) > 1 and trace.duration_s > 0
    gaps = np.diff(trace.arrival_s)
    return {
        "name": trace.name,
        "source": trace.source,
        "requests": len(trace),
        "duration_s": trace.duration_s if timed else None,
        "request_rate_per_s": trace.request_rate_per_s if timed else None,
        "interarrival_cv": float(gaps.std() / gaps.mean()) if timed else None,
        "dispersion_1s": dispersion(trace.arrival_s, 1.0) if timed else None,
        "dispersion_60s": dispersion(trace.arrival_s, 60.0) if timed else None,
        "peak_to_mean_60s": _peak_to_mean(trace.arrival_s, 60.0) if timed else None,
        "tie_share": float(np.count_nonzero(gaps == 0) / len(trace)),
        "input_tokens": length_statistics(trace.input_tokens),
        "output_tokens": length_statistics(trace.output_tokens),
        "concurrency": trace.concurrency,
        "prefixes": _prefixes(trace),
        "sessions": _sessions(trace),
        "read": _report(trace),
    }


def length_statistics(tokens: IntArray) -> dict[str, float]:
    """Mean, percentiles (linear between ranks) and extremes."""
    values = dict(zip((f"p{p}" for p in PERCENTILES), np.percentile(tokens, PERCENTILES).tolist(), strict=True))
    return {"mean": float(tokens.mean()), **values, "min": int(tokens.min()), "max": int(tokens.max())}


def window_counts(arrival_s: FloatArray, window_s: float) -> IntArray:
    """Arrivals per window from the first arrival on; the last window may be partial."""
    window = ((arrival_s - arrival_s[0]) // window_s).astype(np.int64)
    return np.bincount(window)


def _whole_windows(arrival_s: FloatArray, window_s: float) -> IntArray:
    counts = window_counts(arrival_s, window_s)
    return counts[: int((arrival_s[-1] - arrival_s[0]) // window_s)]


def dispersion(arrival_s: FloatArray, window_s: float) -> float | None:
    """Index of dispersion of counts: variance over mean of the arrivals per whole window; None below two windows."""
    counts = _whole_windows(arrival_s, window_s)
    return float(counts.var() / counts.mean()) if len(counts) > 1 else None


def _peak_to_mean(arrival_s: FloatArray, window_s: float) -> float | None:
    counts = _whole_windows(arrival_s, window_s)
    return float(counts.max() / counts.mean()) if len(counts) > 1 else None


def _prefixes(trace: Trace) -> dict[str, Any] | None:
    if trace.prefix_ids is None:
        return None
    hit, total = prompt_blocks_hit(trace)
    return {"block_tokens": trace.prefix_block_tokens, "prompt_blocks": total, "hit_share": hit / total}


def _sessions(trace: Trace) -> dict[str, Any] | None:
    if trace.previous is None or trace.think_s is None:
        return None
    _, turns = np.unique(trace.session_roots(), return_counts=True)
    later = trace.previous >= 0
    return {
        "sessions": len(turns),
        "mean_turns": float(turns.mean()),
        "max_turns": int(turns.max()),
        "mean_think_s": float(trace.think_s[later].mean()) if later.any() else None,
    }


def _report(trace: Trace) -> dict[str, Any] | None:
    if trace.report is None:
        return None
    report = trace.report
    return {
        "format": report.format,
        "rows_read": report.rows_read,
        "emitted": report.emitted,
        "dropped": dict(report.dropped),
        "notes": list(report.notes),
    }


def format_description(facts: dict[str, Any]) -> str:
    """The dict of ``describe`` as text for a terminal."""
    lines = [f"{facts['name']}  ({facts['source']})"]
    lines += [f"  {label:<22}{value}" for label, value in _labelled(facts) if value is not None]
    columns = ("mean", "p50", "p90", "p95", "p99", "min", "max")
    lines.append("  " + " " * 22 + "".join(f"{c:>9}" for c in columns))
    for label, key in (("input [tokens]", "input_tokens"), ("output [tokens]", "output_tokens")):
        lines.append(f"  {label:<22}" + "".join(f"{facts[key][c]:>9,.0f}" for c in columns))
    return "\n".join(lines)


def _labelled(facts: dict[str, Any]) -> list[tuple[str, str | None]]:
    def shown(key: str, template: str) -> str | None:
        return None if facts[key] is None else template.format(facts[key])

    read, prefixes, sessions = facts["read"], facts["prefixes"], facts["sessions"]
    rows: list[tuple[str, str | None]] = [
        ("requests", f"{facts['requests']:,}"),
        ("duration", shown("duration_s", "{:,.1f} s")),
        ("rate", shown("request_rate_per_s", "{:.4g} requests/s")),
        ("closed loop", shown("concurrency", "{} requests in flight")),
        ("inter-arrival CV", shown("interarrival_cv", "{:.2f}  (Poisson: 1)")),
        ("dispersion, 1 s", shown("dispersion_1s", "{:.2f}  (Poisson: 1)")),
        ("dispersion, 60 s", shown("dispersion_60s", "{:.2f}  (Poisson: 1)")),
        ("peak / mean minute", shown("peak_to_mean_60s", "{:.2f}")),
        ("ties", shown("tie_share", "{:.1%} of requests arrive together with the one before")),
    ]
    if prefixes is not None:
        text = f"{prefixes['hit_share']:.1%} of {prefixes['prompt_blocks']:,} prompt blocks"
        rows.append(("prefix reuse", f"{text} of {prefixes['block_tokens']} tokens, with an unbounded cache"))
    if sessions is not None:
        pause = "" if sessions["mean_think_s"] is None else f", mean pause {sessions['mean_think_s']:.1f} s"
        rows.append(("sessions", f"{sessions['sessions']:,}, {sessions['mean_turns']:.2f} turns each{pause}"))
    if read is not None:
        dropped = "".join(f", {count:,} dropped: {reason}" for reason, count in read["dropped"].items())
        rows.append(("read", f"{read['rows_read']:,} rows as {read['format']}{dropped}"))
        rows += [("", note) for note in read["notes"]]
    return rows


def plot(trace: Trace, path: str | Path) -> None:
    """One figure with the rate over time, the gaps between arrivals, and both length distributions."""
    figure, axes = new_figure(4, 1, height=1.7)
    headline(figure, f"{trace.name}: {len(trace):,} requests")
    _plot_rate(axes[0, 0], trace)
    _plot_gaps(axes[1, 0], trace)
    _plot_lengths(axes[2, 0], trace.input_tokens, "input", BLUE)
    _plot_lengths(axes[3, 0], trace.output_tokens, "output", ORANGE)
    try:
        save(figure, path)
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot write the figure: {error}") from error


def _plot_rate(axis: Any, trace: Trace) -> None:
    if trace.concurrency is not None or trace.duration_s == 0:
        text = "all at once" if trace.concurrency is None else f"closed loop, {trace.concurrency} in flight"
        axis.text(0.5, 0.5, text, ha="center", va="center", transform=axis.transAxes)
        axis.set_axis_off()
        return
    window_s = max(1.0, float(f"{trace.duration_s / 120:.1g}"))
    counts = window_counts(trace.arrival_s, window_s)
    unit_s, unit = (3600.0, "h") if trace.duration_s > 3 * 3600 else (1.0, "s")
    edges = (trace.arrival_s[0] + np.arange(len(counts) + 1) * window_s) / unit_s
    axis.stairs(counts / window_s, edges, fill=True, color=GRID)
    axis.stairs(counts / window_s, edges, color=MUTED, linewidth=1.0)
    level(axis, trace.request_rate_per_s, f"mean {trace.request_rate_per_s:.3g}/s", INK)
    axis.set(xlabel=f"arrival [{unit}], by {window_s:g} s", ylabel="requests/s", ylim=(0, None))


def _plot_gaps(axis: Any, trace: Trace) -> None:
    """Share of gaps longer than x, on a log axis: a Poisson process is a straight line."""
    gaps = np.diff(trace.arrival_s)
    if trace.concurrency is not None or not gaps.any():
        axis.set_axis_off()
        return
    ordered = np.sort(gaps)
    longer = 1 - np.arange(len(ordered)) / len(ordered)
    span = np.linspace(0, float(ordered[-1]), 200)
    poisson = np.exp(-span * trace.request_rate_per_s)
    axis.step(ordered, longer, where="post", color=GREEN, label=f"trace, CV {gaps.std() / gaps.mean():.2f}")
    axis.plot(span, poisson, color=INK, lw=1, ls="--", label="Poisson at the same rate")
    axis.set(xlabel="gap [s]", ylabel="share longer", yscale="log", ylim=(0.5 / len(ordered), 1.5))
    axis.legend(frameon=False, fontsize=SMALL_PT, labelcolor=INK)


def _plot_lengths(axis: Any, tokens: IntArray, what: str, color: str) -> None:
    """Histogram with equal steps of the logarithm, marked at the percentiles that size a service."""
    low, high = math.log10(max(1, tokens.min())), math.log10(tokens.max() + 1)
    edges = np.unique(np.rint(np.logspace(low, high, 60)))
    edges = edges if len(edges) > 1 else np.array([edges[0], edges[0] + 1])
    axis.hist(tokens, bins=edges, color=color, alpha=0.6)
    axis.set(xscale="log", xlabel=f"{what} [tokens]", ylabel="requests")
    plain_ticks(axis)
    axis.set_ylim(top=1.3 * axis.get_ylim()[1])
    ends = []
    for percentile in (50, 95, 99):
        value = float(np.percentile(tokens, percentile))
        ends.append((value, f"p{percentile} {value:,.0f}"))
    for i, (value, text) in enumerate(ends):
        vertical(axis, value, text, INK, ("-", "--", ":")[i], room=i != 1)
