"""Tokens per GPU and layer under placements of experts."""

from __future__ import annotations

from collections.abc import Mapping
from textwrap import shorten
from typing import TYPE_CHECKING

import numpy as np

from workloads.figure_style import INK, MUTED, SMALL_PT, headline, new_figure, panel_title, require

if TYPE_CHECKING:
    import numpy.typing as npt
    from matplotlib.figure import Figure

    from simulator.experts.placement import Placement
    from simulator.experts.routing import Demand


def rank_loads(demand: Demand, placement: Placement) -> npt.NDArray[np.float64]:
    """float64[ranks, layers]: tokens of each GPU over the mean GPU of the layer."""
    loads = np.stack([demand.loads[layer] @ placement.shares(layer) for layer in range(demand.num_layers)])
    relative: npt.NDArray[np.float64] = (loads / loads.mean(axis=1, keepdims=True)).T
    return relative


def expert_load_figure(demand: Demand, placements: Mapping[str, Placement], *, title: str = "") -> Figure:
    """A heat map per placement, ``{name: placement}``: layers across, GPUs down, 1 is an even load. One scale for all.

    ``demand``: tokens per layer and expert, best of tokens that the placements were not planned on.
    """
    require(placements, "expert_load_figure: placements", "{'a name': Placement}")
    tables = {name: rank_loads(demand, placement) for name, placement in placements.items()}
    ranks = next(iter(tables.values())).shape[0]
    figure, axes = new_figure(len(tables), 1, height=min(2.4, max(1.1, 0.16 * ranks + 0.55)), sharex=True)
    least = min(float(table.min()) for table in tables.values())
    most = max(float(table.max()) for table in tables.values())
    image = None
    for axis, (name, table) in zip(axes[:, 0], tables.items(), strict=True):
        image = axis.imshow(table, aspect="auto", cmap="cividis", vmin=least, vmax=most, interpolation="nearest")
        axis.grid(False)
        waits = float(table.max(axis=0).mean())
        panel_title(axis, f"{shorten(name, 24, placeholder=' ...')}: busiest GPU {waits:.3f} times the layer's mean")
        axis.set_ylabel("GPU")
        axis.set_yticks(range(0, ranks, 1 + (ranks - 1) // 8))
    axes[-1, 0].set_xlabel("MoE layer")
    axes[-1, 0].xaxis.get_major_locator().set_params(integer=True)
    assert image is not None
    bar = figure.colorbar(image, ax=axes[:, 0].tolist(), fraction=0.035, pad=0.02)
    bar.set_label("tokens / mean", fontsize=SMALL_PT, color=INK)
    bar.ax.tick_params(labelsize=SMALL_PT, color=MUTED, labelcolor=INK)
    bar.outline.set_visible(False)
    headline(figure, title or "Load of the GPUs by layer")
    return figure
