"""The row of ``apex-sim power`` over time: minute by minute as values, and drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from planners.oversubscribe.row import readings
from planners.oversubscribe.services import PRIORITIES
from planners.oversubscribe.study import Outcome, Study
from workloads.figure_labels import end_labels, level
from workloads.figure_style import AMBER, BLUE, GREEN, MUTED, ORANGE, PINK, headline, hours_axis, lay_out, new_figure

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HOUR_S = 3600.0
MINUTE_S = 60
CLOCK_S = 900
"""Clocks switch within seconds: they are drawn as means of a quarter of an hour."""


def series_dict(study: Study, outcome: Outcome) -> dict[str, Any]:
    """The row over time, minute by minute: mean and highest power, clocks, and its racks."""
    run, uncapped = outcome.run, outcome.row.uncapped_w(study.library.max_mhz)
    data: dict[str, Any] = {
        "period_s": MINUTE_S,
        "power_w": _rounded(readings(run.power_w, MINUTE_S)),
        "highest_power_w": _rounded(_minutes(run.power_w).max(axis=-1)),
        "uncapped_power_w": _rounded(readings(uncapped, MINUTE_S)),
        "braked_s": _minutes(run.braked).sum(axis=-1).tolist(),
        "clock_mhz": {p: _rounded(readings(run.clock_mhz[p], MINUTE_S)) for p in PRIORITIES},
    }
    if outcome.rack_w is not None:
        data["rack_power_w"] = [_rounded(rack) for rack in readings(outcome.rack_w, MINUTE_S)]
    return data


def _minutes(values: Any) -> Any:
    whole = len(values) // MINUTE_S * MINUTE_S
    return values[:whole].reshape(-1, MINUTE_S)


def _rounded(values: Any) -> list[float]:
    return [round(float(value), 1) for value in values]


def power_figure(study: Study, outcome: Outcome) -> Figure:
    """Power of the row with and without control against the budget, minute by minute, and the mean clocks."""
    figure, axes = new_figure(2, 1, height=1.9, sharex=True, height_ratios=[2.6, 1])
    top, bottom = axes[:, 0]
    uncapped = outcome.row.uncapped_w(study.library.max_mhz)
    ends = []
    for label, power, colour in (("uncapped", uncapped, MUTED), ("controlled", outcome.run.power_w, BLUE)):
        minutes = 100 * _minutes(power) / study.budget_w
        hours = _hours(minutes.shape[0])
        top.fill_between(hours, minutes.min(axis=1), minutes.max(axis=1), color=colour, alpha=0.3, linewidth=0)
        top.plot(hours, minutes.mean(axis=1), color=colour, linewidth=1)
        ends.append((hours[-1], float(minutes[-1].mean()), label, colour))
    if outcome.rack_w is not None and study.rack_budget_w is not None:
        racks = _minutes(outcome.rack_w.T.reshape(-1, outcome.rack_w.shape[0]).max(axis=1)) / study.rack_budget_w
        fullest = 100 * racks.max(axis=1)
        top.plot(_hours(len(racks)), fullest, color=AMBER, linewidth=0.8)
        ends.append((_hours(len(racks))[-1], float(fullest[-1]), "fullest rack", AMBER))
    level(top, 100.0, "budget", ORANGE, "-")
    for threshold in sorted({rule.threshold for rule in outcome.policy.rules}):
        level(top, 100 * threshold, f"{100 * threshold:g} %", ORANGE)
    top.set_ylabel("power [% of budget]")
    names = _clocks(bottom, outcome)
    bottom.set_xlim(0, len(outcome.run.power_w) / HOUR_S)
    hours_axis(bottom.xaxis, 0.0, len(outcome.run.power_w) / HOUR_S)
    held = "no brake" if not outcome.run.num_brakes else f"{outcome.run.num_brakes} brakes"
    headline(
        figure,
        f"{outcome.num_servers} servers in a row made for {study.setting.num_servers}: {held}",
        f"Highest power {100 * outcome.peak:.0f} % of the budget, {100 * outcome.uncapped_peak:.0f} % without control "
        "(mean and range of each minute)",
    )
    lay_out(figure)
    end_labels(top, ends)
    end_labels(bottom, names)
    return figure


def _clocks(axis: Any, outcome: Outcome) -> list[tuple[float, float, str, str]]:
    """Mean clocks by priority; names at the ends, to be placed."""
    ends = []
    for priority, colour, style in zip(PRIORITIES, (GREEN, PINK), ("-", "--"), strict=True):
        clocks = readings(outcome.run.clock_mhz[priority], CLOCK_S)
        edges = np.arange(len(clocks) + 1) * CLOCK_S / HOUR_S
        axis.stairs(clocks, edges, baseline=None, color=colour, linewidth=1.2, linestyle=style)
        ends.append((float(edges[-1]), float(clocks[-1]), f"{priority} priority", colour))
    axis.set_ylabel("mean clock\n[MHz]")
    axis.set_xlabel("time [h]")
    return ends


def _hours(minutes: int) -> Any:
    return np.arange(minutes) * MINUTE_S / HOUR_S
