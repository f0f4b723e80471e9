"""One iteration over time: the host, the pipeline stages, and inside a stage the kernels of one layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from apex_sim.plots.step import KINDS, batch_words, kind_of
from workloads.figure_labels import note
from workloads.figure_style import INK, MUTED, ON_LIGHT, PAPER, SMALL_PT, headline, new_figure, short_name

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from simulator.deployment import Deployment

ORDER = (
    "attention.qkv", "attention.kv", "attention.q_", "attention", "ssm", "attention.o_proj", "all_reduce.attention",
    "all_gather.attention", "mlp.gate", "mlp.up", "mlp.down", "moe.router", "all_to_all.dispatch", "moe", "shared_experts",
    "mlp", "all_to_all.combine", "all_reduce.mlp", "all_reduce.moe", "reduce_scatter", "elementwise",
)  # fmt: skip
"""Beginnings of names, in the order in which a layer runs them; the longest that fits counts."""
OUTSIDE = ("host", "launch", "step_fixed", "lm_head", "sampler", "embedding", "pipeline_send", "all_reduce.embedding",
           "all_gather.logits", "weights.prefetch", "lora")  # fmt: skip
"""Beginnings of names that no layer has."""
LANES = {
    "compute": "compute-bound",
    "memory": "memory-bound",
    "link": "links",
    "latency": "latency-bound",
    "host": "host",
    "power": "power limit",
}


def gantt_figure(
    deployment: Deployment,
    *,
    decode_seqs: int = 0,
    context_tokens: int = 0,
    prefill_tokens: int = 0,
    cached_tokens: int = 0,
) -> Figure:
    """An engine step from left to right: above, the host and each pipeline stage; below, one layer kernel by kernel.

    The layer is the mean of all; kernels run in sequence, in lanes by what bounds them. With several stages other batches
    fill the time in which this one is elsewhere.
    """
    from apex_sim.frames import explain_step
    from simulator.physics.explain import step_shape

    batch = {
        "decode_seqs": decode_seqs,
        "context_tokens": context_tokens,
        "prefill_tokens": prefill_tokens,
        "cached_tokens": cached_tokens,
    }
    frame = explain_step(deployment, **batch)
    frame = frame[frame["seconds"] > 0]
    model = deployment.step_model
    shape = step_shape(decode_seqs=decode_seqs, context=context_tokens, prefill=prefill_tokens, cached=cached_tokens,
                       window=model.window)  # fmt: skip
    rows = 1 + len(model.stages)
    figure, axes = new_figure(2, 1, height=2.1, height_ratios=[0.45 + 0.28 * rows, 1.9])
    _stages(axes[0, 0], frame, list(model.stage_s(shape)))
    _layer(axes[1, 0], frame, int(deployment.model.num_layers))
    words = batch_words(decode_seqs, prefill_tokens, cached_tokens)
    title = f"{short_name(deployment.model.name)} on {deployment.cluster.name}: {words}"
    headline(figure, title, f"One iteration of {1e3 * float(frame['seconds'].sum()):.3g} ms, and the mean layer in it")
    return figure


def _outside(name: str) -> bool:
    return name.startswith(OUTSIDE)


def _stages(axis: Any, frame: Any, stage_s: list[float]) -> None:
    """Host first, then the stages one after the other; what comes before and after the layers is set apart."""
    host_ms = 1e3 * float(frame["seconds"][[n for n in frame.index if kind_of(n) == "host, launches"]].sum())
    ends = [n for n in frame.index if kind_of(n) == "vocabulary, sampler" or n == "all_gather.logits"]
    end_ms = 1e3 * float(frame["seconds"][ends].sum())
    total = 1e3 * float(frame["seconds"].sum())
    axis.barh(0, host_ms, left=0, color=KINDS["host, launches"], height=0.6)
    note(axis, host_ms, 0, f"host, launches {host_ms:.3g} ms", xytext=(4, 0), va="center")
    left = host_ms
    for i, seconds in enumerate(stage_s):
        last = i == len(stage_s) - 1
        width = 1e3 * seconds - (host_ms if i == 0 else 0.0) - (end_ms if last else 0.0)
        axis.barh(1 + i, width, left=left, color=KINDS["MLP"], height=0.6, edgecolor=PAPER, linewidth=0.8)
        if width > 0.12 * total:
            axis.text(
                left + width / 2,
                1 + i,
                f"layers {width:.3g} ms" if width > 0.25 * total else f"{width:.3g} ms",
                ha="center",
                va="center",
                fontsize=SMALL_PT,
                color=ON_LIGHT,
            )
        left += width
        if last and end_ms > 0:
            axis.barh(
                1 + i, end_ms, left=left, color=KINDS["vocabulary, sampler"], height=0.6, edgecolor=PAPER, linewidth=0.8
            )
            note(axis, left + end_ms, 1 + i, f"head, sampler\n{end_ms:.2g} ms", xytext=(3, 0), va="center")
    axis.set_yticks(
        range(1 + len(stage_s)),
        ["host", *(f"stage {i}" if len(stage_s) > 1 else "devices" for i in range(len(stage_s)))],
    )
    axis.set_ylim(len(stage_s) + 0.6, -0.6)
    axis.grid(False, axis="y")
    axis.set_xlim(0, 1.2 * total)
    axis.set_xlabel("time [ms]")


def _layer(axis: Any, frame: Any, num_layers: int) -> None:
    """Kernels of the mean layer, one after the other, in a lane for what bounds them."""
    inside = frame[[not _outside(str(name)) for name in frame.index]]
    lanes = [lane for lane in (*LANES, *sorted(set(inside["bound"]) - set(LANES))) if (inside["bound"] == lane).any()]
    left, placed = 0.0, []
    total = 1e6 * float(inside["seconds"].sum()) / num_layers
    for name in sorted(inside.index, key=_place):
        width = 1e6 * float(inside["seconds"][name]) / num_layers
        lane = lanes.index(str(inside["bound"][name]))
        axis.barh(lane, width, left=left, color=KINDS[kind_of(name)], height=0.5, edgecolor=PAPER, linewidth=0.8)
        placed.append((left + width / 2, lane, width, name))
        left += width
    taken: dict[tuple[int, bool], list[tuple[float, float]]] = {}
    for x, lane, width, name in placed:
        text = f"{_short(name)} {width:.3g}"
        half = 0.0095 * total * len(text)
        centre = min(max(x, half), 1.04 * total - half)
        free = [side for side in (False, True) if not any(centre - half < end and start < centre + half
                                                          for start, end in taken.get((lane, side), []))]  # fmt: skip
        if not free or (free[0] and width < 0.04 * total):
            continue
        above = free[0]
        taken.setdefault((lane, above), []).append((centre - half, centre + half))
        axis.annotate(text, (centre, lane + (0.28 if not above else -0.28)), ha="center", va="top" if not above else "bottom",
                      fontsize=SMALL_PT - 0.5, color=INK if width > 0.02 * total else MUTED)  # fmt: skip
    axis.set_yticks(range(len(lanes)), [LANES.get(lane, lane) for lane in lanes])
    axis.set_ylim(len(lanes) - 0.25, -0.65)
    axis.grid(False, axis="y")
    axis.set_xlim(0, 1.04 * total)
    axis.set_xlabel(f"time in one of {num_layers} layers [µs]")


def _short(name: str) -> str:
    return (
        name.removeprefix("attention.")
        .removeprefix("mlp.")
        .replace("_proj", "")
        .replace("power_limit", "power")
        .replace("all_reduce.", "all-reduce ")
    )


def _place(name: str) -> tuple[int, str]:
    fitting = [i for i, start in enumerate(ORDER) if name.startswith(start)]
    return (max(fitting, key=lambda i: len(ORDER[i])) if fitting else len(ORDER), name)
