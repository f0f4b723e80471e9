"""Placements as files: the tables of engines' expert load balancers, written, read and checked.

vLLM (distributed/eplb/eplb_state.py): physical_to_logical_map of MoE layers x physical experts, logical_to_physical_map of
MoE layers x logical experts x most copies, filled with -1, logical_replica_count. SGLang (srt/eplb/expert_location.py,
--init-expert-location FILE.json): physical_to_logical_map alone, with a row for every layer of the model, dense ones too.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hardware_profiles.errors import UserError
from simulator.experts.placement import Placement
from simulator.experts.routing import Ints

FORMAT = "apex-sim.expert-placement.v1"
MAP = "physical_to_logical_map"
Rows = Literal["moe", "all"]
"""moe: a row per MoE layer (vLLM); all: a row per layer of the model, dense ones in the order of numbers (SGLang)."""


def _with_dense(placement: Placement, moe_layers: tuple[int, ...], num_layers: int) -> Placement:
    """The placement with a row for dense layers, which no token reads."""
    count = placement.slots.shape[1]
    slots = np.tile(np.arange(count) % placement.num_experts, (num_layers, 1))
    slots[list(moe_layers)] = placement.slots
    return Placement(slots=slots, num_experts=placement.num_experts, num_ranks=placement.num_ranks)


def _logical_map(placement: Placement) -> list[list[list[int]]]:
    """Slots of each expert per layer, filled with -1 to the most copies of any."""
    copies = placement.copies()
    table = np.full((*copies.shape, int(copies.max())), -1)
    for layer, row in enumerate(placement.slots):
        order = np.argsort(row, kind="stable")
        first = np.concatenate([[0], np.cumsum(copies[layer])[:-1]])
        table[layer, row[order], np.arange(len(row)) - np.repeat(first, copies[layer])] = order
    rows: list[list[list[int]]] = table.tolist()
    return rows


def placement_dict(
    placement: Placement, moe_layers: tuple[int, ...], num_layers: int, rows: Rows = "moe"
) -> dict[str, Any]:
    """The tables; ``moe_layers``: numbers of the MoE layers in a model of ``num_layers``."""
    if rows == "all":
        placement = _with_dense(placement, moe_layers, num_layers)
    count = placement.slots.shape[1]
    return {
        "format": FORMAT,
        "rows": rows,
        "num_layers": len(placement.slots),
        "moe_layers": list(moe_layers),
        "num_logical_experts": placement.num_experts,
        "num_physical_experts": count,
        "ep_size": placement.num_ranks,
        "num_local_physical_experts": count // placement.num_ranks,
        MAP: placement.slots.tolist(),
        "logical_to_physical_map": _logical_map(placement),
        "logical_replica_count": placement.copies().tolist(),
    }


def read_placement(
    path: str | Path, num_experts: int, num_ranks: int, moe_layers: tuple[int, ...], num_layers: int
) -> Placement:
    """A placement to judge: this program's file, or any JSON object with that map, with rows for MoE layers or for all."""
    name = Path(path).name
    content = _load(Path(path))
    slots = _table(content[MAP], name)
    if len(slots) == num_layers != len(moe_layers):
        slots = slots[list(moe_layers)]
    if len(slots) != len(moe_layers):
        layers = f"{len(moe_layers)} MoE layers" + (f" of {num_layers}" if num_layers != len(moe_layers) else "")
        raise UserError(f"{name}: {MAP} has {len(slots)} rows; the model has {layers}. Give a row for each")
    if slots.min() < 0 or slots.max() >= num_experts:
        wrong = int(slots.min() if slots.min() < 0 else slots.max())
        raise UserError(f"{name}: {MAP} names expert {wrong}; the model has experts 0 to {num_experts - 1}")
    if slots.shape[1] % num_ranks:
        raise UserError(
            f"{name}: {slots.shape[1]} slots per layer do not divide by {num_ranks} GPUs. Use the --ep of the file"
        )
    if content.get("ep_size", num_ranks) != num_ranks:
        raise UserError(f"{name}: ep_size is {content['ep_size']!r}; asked for are {num_ranks} GPUs. Use the same --ep")
    placement = Placement(slots=slots, num_experts=num_experts, num_ranks=num_ranks)
    missing = np.argwhere(placement.copies() == 0)
    if len(missing):
        raise UserError(
            f"{name}: {MAP} leaves out expert {missing[0][1]} in row {missing[0][0]}; every expert needs a slot"
        )
    if "logical_to_physical_map" in content:
        _same_inverse(placement, content["logical_to_physical_map"], len(content[MAP]), moe_layers, name)
    return placement


def _load(file: Path) -> dict[str, Any]:
    if not file.is_file():
        raise UserError(f"{file}: no such file; give a placement (.json), for example one written with --out")
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError):
        raise UserError(f"{file.name}: cannot be read as JSON; a placement is an object with {MAP}") from None
    if not isinstance(content, dict) or MAP not in content:
        raise UserError(f"{file.name}: no field {MAP}; a placement is an object with that map, layers x slots")
    return content


def _table(value: Any, name: str) -> Ints:
    """int64[rows, slots], or a UserError."""
    try:
        table = np.asarray(value)
    except ValueError:
        table = np.zeros(0)
    if table.ndim != 2 or 0 in table.shape or not np.issubdtype(table.dtype, np.integer):
        raise UserError(f"{name}: {MAP} must be a list of rows of whole numbers, all rows equally long")
    return table.astype(np.int64)


def _same_inverse(placement: Placement, value: Any, rows: int, moe_layers: tuple[int, ...], name: str) -> None:
    """UserError when the file's second map says something else than its first."""
    try:
        chosen = [value[i] for i in moe_layers] if rows != len(moe_layers) else list(value)
        found = [[sorted(s for s in slots if s != -1) for slots in row] for row in chosen]
    except (TypeError, IndexError, KeyError):
        found = []
    expected = [[[s for s in slots if s != -1] for slots in row] for row in _logical_map(placement)]
    if found != expected:
        raise UserError(f"{name}: logical_to_physical_map is not the inverse of {MAP}; leave it out or write both anew")
