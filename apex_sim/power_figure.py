"""The row of ``apex-sim power`` over time: minute by minute as values, and drawn."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from planners.oversubscribe.row import readings
from planners.oversubscribe.services import PRIORITIES
from planners.oversubscribe.study import Outcome, Study

if TYPE_CHECKING:
    from matplotlib.figure import Figure

HOUR_S = 3600.0
MINUTE_S = 60


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
    """Power of the row with and without control against the budget, and the clocks, minute by minute."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 6), layout="constrained")
    top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[3, 1])
    uncapped = outcome.row.uncapped_w(study.library.max_mhz)
    for label, power, colour in (("uncapped", uncapped, "0.7"), ("controlled", outcome.run.power_w, "tab:blue")):
        minutes = _minutes(power) / study.budget_w
        hours = _hours(minutes.shape[0])
        top.fill_between(hours, minutes.min(axis=1), minutes.max(axis=1), color=colour, alpha=0.3, linewidth=0)
        top.plot(hours, minutes.mean(axis=1), color=colour, label=label, linewidth=1)
    if outcome.rack_w is not None and study.rack_budget_w is not None:
        racks = _minutes(outcome.rack_w.T.reshape(-1, outcome.rack_w.shape[0]).max(axis=1)) / study.rack_budget_w
        top.plot(
            _hours(len(racks)), racks.max(axis=1), color="tab:olive", linewidth=0.8, label="fullest rack / its budget"
        )
    top.axhline(1.0, color="tab:red", linewidth=1, label="budget")
    for threshold in sorted({rule.threshold for rule in outcome.policy.rules}):
        top.axhline(threshold, color="tab:orange", linewidth=0.8, linestyle="--")
    top.set_ylabel("row power / budget (minute: mean, range)")
    top.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)
    for priority, colour in zip(PRIORITIES, ("tab:green", "tab:purple"), strict=True):
        clocks = outcome.run.clock_mhz[priority][::MINUTE_S]
        bottom.step(
            _hours(len(clocks)), clocks, where="post", color=colour, label=f"{priority} priority", linewidth=0.8
        )
    bottom.set_ylabel("clock [MHz]")
    bottom.set_xlabel("time [h]")
    bottom.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2, frameon=False)
    return figure


def _hours(minutes: int) -> Any:
    import numpy as np

    return np.arange(minutes) * MINUTE_S / HOUR_S
