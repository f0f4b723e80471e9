"""A step's cost as text or as plain values: where the time goes, what bounds it, and where a device's memory goes."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from simulator.physics.components import ComponentCost
from simulator.physics.memory import MemoryPlan
from simulator.physics.moe_load import dropped_choices
from simulator.physics.shape import StepShape, window_pairs
from simulator.physics.step_model import StepModel


def step_shape(
    *, decode_seqs: int = 0, context: int = 0, prefill: int = 0, cached: int = 0, window: int | None = None
) -> StepShape:
    """A batch of ``decode_seqs`` sequences with ``context`` cached tokens each and one chunk of ``prefill`` tokens.

    The chunk comes after ``cached`` tokens and completes its prompt. Counts of windowed layers follow from ``window``.
    """
    near = context if window is None else min(context, window)
    pairs = prefill * cached + prefill * (prefill + 1) // 2
    return StepShape(
        decode_seqs=decode_seqs,
        context_tokens=decode_seqs * context,
        window_tokens=decode_seqs * near,
        prefill_tokens=prefill,
        prefill_pairs=pairs,
        window_pairs=pairs if window is None else window_pairs(prefill, cached, window),
        prefill_seqs=1 if prefill else 0,
        prefill_context=cached if prefill else 0,
        logits_rows=decode_seqs + (1 if prefill else 0),
    )


def _rate(amount: float, seconds: float, peak: float) -> float:
    return amount / (seconds * peak) if seconds > 0 and peak > 0 else 0.0


def explain_values(model: StepModel, shape: StepShape, memory: MemoryPlan | None = None) -> dict[str, Any]:
    """Everything ``format_explanation`` prints, as numbers in SI units, for JSON."""
    seconds, joules = model.step(shape)
    flop, nbytes = model.flop(shape), model.hbm_bytes(shape)
    values: dict[str, Any] = {
        "seconds": seconds,
        "joules": joules if model.power_known else None,
        "flop": flop,
        "hbm_bytes": nbytes,
        "mfu": _rate(flop, seconds, model.peak_flop_per_s * model.num_devices),
        "mbu": _rate(nbytes, seconds, model.bandwidth_bytes_per_s * model.num_devices),
        "num_devices": model.num_devices,
        "provenance": model.provenance,
        "stage_seconds": list(model.stage_s(shape)),
        "shape": shape._asdict(),
        "components": [asdict(c) for c in model.explain(shape)],
    }
    if (dropped := dropped_choices(model.stages, shape.decode_seqs + shape.prefill_tokens)) is not None:
        values["dropped_choices"] = dropped
    if memory is not None:
        values["memory"] = {**asdict(memory), "kv_tokens": memory.kv_tokens}
    return values


def _component_line(c: ComponentCost, model: StepModel, width: int) -> str:
    devices = model.num_devices / len(model.stages)
    mfu = _rate(c.flop, c.seconds, model.peak_flop_per_s * devices)
    mbu = _rate(c.hbm_bytes, c.seconds, model.bandwidth_bytes_per_s * devices)
    return (
        f"{c.name:<{width}} {c.seconds * 1e3:10.4f} {c.share:7.1%}  {c.bound:<8}"
        f"{c.flop / 1e9:12.2f} {c.hbm_bytes / 1e9:11.4f} {c.link_bytes / 1e6:10.2f} {mfu:7.1%} {mbu:7.1%}"
    )


def format_explanation(model: StepModel, shape: StepShape, memory: MemoryPlan | None = None) -> str:
    """Breakdown of a step as a table, longest component first, then totals and the memory of a device."""
    components = model.explain(shape)
    values = explain_values(model, shape)
    width = max([len(c.name) for c in components] + [len("component")])
    lines = [
        f"{'component':<{width}} {'ms':>10} {'share':>7}  {'bound':<8}{'GFLOP':>12} {'HBM GB':>11} {'link MB':>10} "
        f"{'MFU':>7} {'MBU':>7}"
    ]
    lines += [_component_line(c, model, width) for c in components]
    lines.append(
        f"{'total':<{width}} {values['seconds'] * 1e3:10.4f} {1:7.1%}  {'':<8}{values['flop'] / 1e9:12.2f} "
        f"{values['hbm_bytes'] / 1e9:11.4f} {sum(c.link_bytes for c in components) / 1e6:10.2f} "
        f"{values['mfu']:7.1%} {values['mbu']:7.1%}"
    )
    joules = values["joules"]
    energy = "energy unknown" if joules is None else f"energy {joules:.3f} J"
    lines.append(f"{energy} on {model.num_devices} device(s); kernels: {model.provenance}")
    if len(model.stages) > 1:
        stages = ", ".join(f"{s * 1e3:.4f}" for s in values["stage_seconds"])
        lines.append(f"pipeline stages [ms]: {stages}")
    if "dropped_choices" in values:
        lines.append(f"choices of experts that find no slot: {values['dropped_choices']:.2%}")
    if memory is not None:
        lines += ["", *format_memory(memory)]
    return "\n".join(lines)


def format_memory(memory: MemoryPlan) -> list[str]:
    """Lines about the fullest device's memory."""
    rows = [
        ("weights", memory.weight_bytes),
        ("activations (peak)", memory.activation_bytes),
        ("engine reserve", memory.reserve_bytes),
        ("constant states", memory.state_bytes),
        ("KV cache", memory.kv_bytes),
    ]
    lines = [
        f"memory per device: {memory.device_bytes / 1e9:.1f} GB, engine's share {memory.budget_bytes / 1e9:.1f} GB"
    ]
    lines += [f"  {name:<20}{nbytes / 1e9:9.2f} GB" for name, nbytes in rows if nbytes]
    if not memory.kv_bytes_per_token:
        return [*lines, "  no KV cache"]
    lines.append(
        f"  {memory.num_blocks} blocks of {memory.block_size} tokens = {memory.kv_tokens} tokens, "
        f"{memory.kv_bytes_per_token:.0f} B per token and device"
    )
    return lines
