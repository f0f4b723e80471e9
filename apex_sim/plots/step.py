"""Where the time of engine steps goes: stacked bars by kind of component."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from workloads.figure_labels import note
from workloads.figure_style import (
    AMBER,
    BLUE,
    GREEN,
    GRID,
    INK,
    MUTED,
    ON_DARK,
    ON_LIGHT,
    ORANGE,
    PAPER,
    PINK,
    SKY,
    SMALL_PT,
    headline,
    new_figure,
    require,
)

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

KINDS = {
    "projections": BLUE,
    "MLP": SKY,
    "experts": PINK,
    "attention": ORANGE,
    "communication": GREEN,
    "vocabulary, sampler": AMBER,
    "norms, small kernels": MUTED,
    "host, launches": INK,
    "power limit": "#7a4f9a",
    "other": GRID,
}
"""Kind of component -> colour: the same in every figure."""
PREFIXES = (
    ("attention.decode", "attention"),
    ("attention.prefill", "attention"),
    ("attention.mixed", "attention"),
    ("attention.", "projections"),
    ("mlp.", "MLP"),
    ("moe.", "experts"),
    ("shared_experts.", "experts"),
    ("all_", "communication"),
    ("reduce_", "communication"),
    ("pipeline_send", "communication"),
    ("lm_head", "vocabulary, sampler"),
    ("sampler", "vocabulary, sampler"),
    ("embedding", "vocabulary, sampler"),
    ("elementwise", "norms, small kernels"),
    ("host", "host, launches"),
    ("launch", "host, launches"),
    ("step_fixed", "host, launches"),
    ("power_limit", "power limit"),
)
"""Beginning of a component's name -> its kind; the first that fits."""
WIDE = 0.09
"""Part of the axis from which a number fits into a segment."""


def kind_of(component: str) -> str:
    """Kind of a component by its name."""
    return next((kind for prefix, kind in PREFIXES if component.startswith(prefix)), "other")


def batch_words(decode_seqs: int, prefill_tokens: int, cached_tokens: int = 0) -> str:
    """What a step does, for titles."""
    plural = "s decode" if decode_seqs > 1 else " decodes"
    cached = f" after {cached_tokens:,} cached" if cached_tokens else ""
    parts = [
        f"{decode_seqs:,} sequence{plural}" if decode_seqs else "",
        f"prompt of {prefill_tokens:,}{cached}" if prefill_tokens else "",
    ]
    return ", ".join(part for part in parts if part)


def step_figure(steps: Mapping[str, pd.DataFrame], *, title: str = "") -> Figure:
    """One bar per step, ``{label: explain_step(...)}``: milliseconds by kind of component."""
    require(steps, "step_figure: steps", "{'a label': explain_step(...)}")
    figure, axes = new_figure(1, 1, height=max(1.9, 1.0 + 0.42 * len(steps)))
    axis = axes[0, 0]
    longest = max(1e3 * float(frame["seconds"].sum()) for frame in steps.values())
    used: dict[str, str] = {}
    for row, frame in enumerate(steps.values()):
        sums = (1e3 * frame["seconds"]).groupby([kind_of(str(name)) for name in frame.index]).sum()
        left = 0.0
        for kind, colour in KINDS.items():
            width = float(sums.get(kind, 0.0))
            if width <= 0:
                continue
            axis.barh(row, width, left=left, color=colour, height=0.66, edgecolor=PAPER, linewidth=0.8)
            if width > WIDE * longest:
                ink = ON_LIGHT if colour in (SKY, AMBER, PINK, GRID) else ON_DARK
                axis.text(left + width / 2, row, f"{width:.3g}", ha="center", va="center", fontsize=SMALL_PT, color=ink)
            used[kind] = colour
            left += width
        note(axis, left, row, f"{left:.3g} ms", xytext=(4, 0), va="center")
    axis.set_yticks(range(len(steps)), list(steps))
    axis.invert_yaxis()
    axis.grid(False, axis="y")
    axis.set_xlim(0, 1.13 * longest)
    axis.set_xlabel("time of the step [ms]")
    from matplotlib.patches import Patch

    handles = [Patch(color=used[kind], label=kind) for kind in KINDS if kind in used]
    figure.legend(handles=handles, ncols=3, frameon=False, fontsize=SMALL_PT, loc="outside lower left", labelcolor=INK,
                  handlelength=1.0, columnspacing=1.2)  # fmt: skip
    headline(figure, title or "Where the time of a step goes")
    return figure
