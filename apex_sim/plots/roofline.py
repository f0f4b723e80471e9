"""The roofline of a device with the operators of a step on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from apex_sim.plots.step import batch_words, kind_of
from workloads.figure_labels import note, vertical
from workloads.figure_style import BLUE, GREEN, INK, MUTED, ORANGE, headline, new_figure, plain_log, short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from simulator.deployment import Deployment

COLOURS = {"compute": ORANGE, "memory": BLUE, "latency": GREEN}
SHAPES = {"compute": "o", "memory": "s", "latency": "^"}
WORDS = {
    "compute": "arithmetic (orange circles)",
    "memory": "memory (blue squares)",
    "latency": "launches (green triangles)",
}
LEAST = 0.005
"""Share of the step below which an operator is left out."""


def roofline_figure(
    deployment: Deployment,
    *,
    decode_seqs: int = 0,
    context_tokens: int = 0,
    prefill_tokens: int = 0,
    cached_tokens: int = 0,
) -> Figure:
    """FLOP/s of each operator of a step against its FLOP per byte, per device, under the roofs of the datasheet.

    The area of a point is its share of the step's time. Operators without arithmetic (links, host) are not on it.
    Williams, Waterman, Patterson, Roofline: an insightful visual performance model, CACM 52(4), 2009.
    """
    from apex_sim.frames import explain_step

    frame = explain_step(
        deployment,
        decode_seqs=decode_seqs,
        context_tokens=context_tokens,
        prefill_tokens=prefill_tokens,
        cached_tokens=cached_tokens,
    )
    model = deployment.step_model
    devices = model.num_devices / len(model.stages)
    shown = frame[(frame["flop"] > 0) & (frame["hbm_bytes"] > 0) & (frame["share"] > LEAST)]
    intensity = (shown["flop"] / shown["hbm_bytes"]).to_numpy()
    rate = (shown["flop"] / shown["seconds"] / devices).to_numpy() / 1e12
    peak, bandwidth = model.peak_flop_per_s / 1e12, model.bandwidth_bytes_per_s / 1e12
    figure, axes = new_figure(1, 1, height=3.5)
    axis = axes[0, 0]
    ridge = peak / bandwidth
    low = 0.5 * min([0.5 * ridge, *intensity])
    high = 9 * max([1.2 * ridge, *intensity])
    axis.plot([low, ridge, high], [low * bandwidth, peak, peak], color=INK, linewidth=1.4, zorder=2)
    axis.set(xscale="log", yscale="log", xlim=(low, high))
    axis.set_ylim(0.5 * min([low * bandwidth * 2, *rate]), 2.2 * peak)
    note(axis, high, peak, f"{peak:,.0f} TFLOP/s dense", MUTED, ha="right", va="bottom", xytext=(-2, 3))
    vertical(axis, ridge, f"ridge {ridge:,.0f} FLOP/B", MUTED, ":", low=True)
    for x, y, (_, row) in zip(intensity, rate, shown.iterrows(), strict=True):
        colour = COLOURS.get(str(row["bound"]), MUTED)
        axis.scatter([x], [y], s=20 + 500 * float(row["share"]), color=colour, marker=SHAPES.get(str(row["bound"]), "o"),
                     alpha=0.75, linewidths=0, zorder=3)  # fmt: skip
        axis.plot([x, x], [y, min(peak, x * bandwidth)], color=colour, linewidth=0.7, linestyle=":", zorder=2.5)
    _names(axis, intensity, rate, shown, peak)
    plain_log(axis.xaxis, axis.get_xlim())
    plain_log(axis.yaxis, axis.get_ylim())
    axis.set_xlabel("FLOP per byte of memory traffic")
    axis.set_ylabel("TFLOP/s of a device")
    bounds = ", ".join(words for bound, words in WORDS.items() if (shown["bound"] == bound).any())
    headline(
        figure,
        f"{short_name(deployment.model.name)} on {deployment.cluster.name}: "
        f"{batch_words(decode_seqs, prefill_tokens, cached_tokens)}",
        f"Bound by {bounds}. Area: share of the step{_elsewhere(frame, shown)}",
    )
    return figure


def _elsewhere(frame: Any, shown: Any) -> str:
    """What of the step is not in the figure, by kind, the largest first."""
    rest = frame["share"].drop(shown.index)
    kinds = rest.groupby([kind_of(str(name)) for name in rest.index]).sum().sort_values(ascending=False)
    words = ", ".join(kind for kind, share in kinds.items() if share > LEAST)
    return f"; not shown: {100 * float(rest.sum()):.0f} % ({words})" if words else ""


def _names(axis: Any, xs: Any, ys: Any, shown: Any, peak: float) -> None:
    """Names beside the points, those of crowded ones above each other."""
    from workloads.figure_labels import spread
    from workloads.figure_style import SMALL_PT

    figure = axis.figure
    size = figure.get_size_inches() * 72
    transform = axis.transScale + axis.transLimits
    at = transform.transform(np.column_stack((xs, ys))) * np.array([0.82 * size[0], 0.7 * size[1]])
    roof = float(transform.transform((1.0, peak))[1]) * 0.7 * size[1] - 0.8 * SMALL_PT
    order = np.argsort(at[:, 1])
    placed = np.empty(len(order))
    groups: list[list[int]] = []
    for i in order:
        for group in groups:
            if any(abs(at[i, 0] - at[j, 0]) < 95 and abs(at[i, 1] - at[j, 1]) < 14 for j in group):
                group.append(int(i))
                break
        else:
            groups.append([int(i)])
    for group in groups:
        for i, y in zip(group, spread([float(at[i, 1]) for i in group], 1.2 * SMALL_PT, roof), strict=True):
            placed[i] = y
    for i, name in enumerate(shown.index):
        right = at[i, 0] > 0.8 * 0.82 * size[0]
        radius = 4 + 10 * float(shown["share"].iloc[i]) ** 0.5
        note(axis, xs[i], ys[i], str(name), INK, xytext=(-radius if right else radius, placed[i] - at[i, 1]), va="center",
             ha="right" if right else "left", zorder=4)  # fmt: skip
