"""Published tables of measured runs in layouts of their own: one module each, found by the columns of the file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from simulator.validation.rows import Row
from simulator.validation.run import MeasuredRun
from simulator.validation.sources import dgx, endtoend, ispass26, mlenergy, sharegpt, sim2real


@dataclass(frozen=True, slots=True)
class Source:
    """A layout: the columns that give it away and the function that turns its rows into runs."""

    name: str
    columns: frozenset[str]
    read: Callable[[Path, Sequence[Row]], list[MeasuredRun]]


SOURCES = (
    Source("sim2real", frozenset({"experiment", "scope", "tpot_corrected_ms", "hardware", "num_gpus_tp"}), sim2real.read),
    Source("sharegpt", frozenset({"run", "workload_csv", "vllm_ttft_ms_mean", "vllm_tpot_ms_mean"}), sharegpt.read),
    Source("ispass26", frozenset({"scenario", "framework", "parallelism", "mean_ttft_ms", "mean_tpot_ms"}), ispass26.read),
    Source("endtoend", frozenset({"len_kind", "concurrency", "ttft_mean_ms", "tpot_mean_ms", "isl", "osl"}), endtoend.read),
    Source("mlenergy", frozenset({"task", "model_id", "median_itl_ms", "energy_per_token_j", "max_num_seqs"}), mlenergy.read),
    Source("dgx", frozenset({"prompt_size", "batch_size", "token_size", "prompt_time_ms", "token_time_ms"}), dgx.read),
)  # fmt: skip
"""The first whose columns are all there."""


def source_of(columns: Sequence[str]) -> Source | None:
    """The layout of a table with these columns; None for our own."""
    return next((source for source in SOURCES if source.columns <= set(columns)), None)
