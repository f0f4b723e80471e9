"""Points as the tables that ``simulator.calibration`` fits: its columns, its units, its names of layers."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from hardware_profiles.schema import DeviceProfile
from simulator.calibration import profiles
from simulator.calibration.power import FRAMEWORK as POWER_FRAMEWORK
from simulator.calibration.tables import Column, Table
from simulator.kernel_runner.backend import DeviceFacts
from simulator.kernel_runner.kernel import HEAD_DIM, Family, Point
from simulator.kernel_runner.work import flop, moved_bytes

NAME = "kernel-runner"
"""Stands where the name of a table file stands in the source of a fit."""


def of(points: Sequence[Point], family: Family, dtype: str = "", op: str = "") -> list[Point]:
    """The points of one family (and dtype, and op)."""
    return [
        p for p in points if p.kernel.family == family and dtype in ("", p.kernel.dtype) and op in ("", p.kernel.op)
    ]


def gemm_table(points: Sequence[Point], facts: DeviceFacts) -> Table:
    """Columns of gemm.csv."""
    return _table(points, facts, {name: _shape(name) for name in ("m", "n", "k")})


def prefill_table(points: Sequence[Point], facts: DeviceFacts) -> Table:
    """Columns of attention_prefill.csv."""
    names = {"batch_size": "batch", "isl": "tokens", "prefix_len": "cached"} | _HEADS
    return _table(points, facts, {name: _shape(field) for name, field in names.items()}, _ATTENTION)


def decode_table(points: Sequence[Point], facts: DeviceFacts) -> Table:
    """Columns of attention_decode.csv."""
    names = {"batch_size": "batch"} | _HEADS
    columns = {name: _shape(field) for name, field in names.items()}
    return _table(points, facts, columns | {"kv_len_minus_1": lambda p: p.kernel["context"] - 1.0}, _ATTENTION)


_HEADS = {"num_heads": "heads", "num_key_value_heads": "kv_heads"}
_ATTENTION = {"head_dim": float(HEAD_DIM), "window_size": 0.0}


def moe_table(points: Sequence[Point], facts: DeviceFacts) -> Table:
    """Columns of moe.csv."""
    names = {
        "num_tokens": "tokens",
        "hidden_size": "hidden",
        "inter_size": "intermediate",
        "num_experts": "experts",
        "topk": "top_k",
    }
    columns = {name: _shape(field) for name, field in names.items()}
    return _table(points, facts, columns, {"moe_tp_size": 1.0, "moe_ep_size": 1.0})


def collective_table(points: Sequence[Point], facts: DeviceFacts) -> Table:
    """Columns of collectives.csv."""
    return _table(points, facts, {"num_gpus": _shape("ranks"), "bytes": _shape("bytes")})


def elementwise_table(points: Sequence[Point], facts: DeviceFacts) -> Table:
    """Columns of the per-layer profiles, of the model whose layers the shapes are."""
    table = _table(points, facts, {"tokens_or_seqs": _shape("tokens"), "time_us": lambda p: p.seconds * 1e6})
    count = len(points)
    texts = {"model": profiles.MODEL, "kind": "nongemm", "source": facts.framework, "hardware": facts.name}
    columns: dict[str, Column] = {name: np.full(count, text) for name, text in texts.items()}
    columns |= {"layer": np.array([p.kernel.op for p in points]), "tp": np.ones(count)}
    return Table(NAME, {**table.columns, **columns})


def power_table(points: Sequence[Point], device: DeviceProfile, facts: DeviceFacts, limit_w: float) -> Table:
    """Columns of op_power.csv: watts beside the shares of the peaks that the kernel reached."""

    def compute(p: Point) -> float:
        peak = device.dense_flop_per_s.get(p.kernel.dtype)
        return flop(p.kernel) / p.seconds / peak if peak else 0.0

    def memory(p: Point) -> float:
        return moved_bytes(p.kernel) / p.seconds / device.memory_bandwidth_bytes_per_s

    columns: dict[str, Callable[[Point], float]] = {
        "power_w": lambda p: p.power_w or 0.0,
        "compute_util_of_spec": compute,
        "hbm_util_of_spec": memory,
        # the kernel ran on end for as long as its power was averaged: no sensor window is too long
        "latency_s": lambda p: max(1.0, p.seconds),
    }
    table = _table([p for p in points if p.power_w], facts, columns, {"power_limit_w": limit_w})
    return Table(NAME, {**table.columns, "framework": np.full(len(table), POWER_FRAMEWORK)})


def _shape(field: str) -> Callable[[Point], float]:
    return lambda p: float(p.kernel[field])


def _table(
    points: Sequence[Point],
    facts: DeviceFacts,
    columns: dict[str, Callable[[Point], float]],
    constants: dict[str, float] | None = None,
) -> Table:
    """Numbers by column, with what every table has: framework, version, kernel and milliseconds."""
    count = len(points)
    found: dict[str, Column] = {
        "framework": np.full(count, facts.framework),
        "version": np.full(count, facts.framework_version),
        "kernel_source": np.array([p.implementation.partition(";")[0] for p in points], dtype=np.str_),
        "latency_ms": np.array([p.seconds * 1e3 for p in points]),
    }
    found |= {name: np.array([value(p) for p in points], dtype=np.float64) for name, value in columns.items()}
    found |= {name: np.full(count, value) for name, value in (constants or {}).items()}
    return Table(NAME, found)
