"""What Jupyter shows of a plan: its line, and the plans that were simulated in full, the best first."""

from __future__ import annotations

from typing import TYPE_CHECKING

from planners.outcome import OBJECTIVES, score
from workloads.notebook_html import line_of, table_html

if TYPE_CHECKING:
    from planners.outcome import Entry, PlanResult

METRICS = ("p95_ttft_ms", "p95_tpot_ms", "request_throughput", "slo_attainment", "usd_per_million_output_tokens")
SETTINGS = ("quantization", "kv_cache_dtype", "drafts", "prefix_cache", "max_num_seqs", "max_num_batched_tokens")
"""Columns shown where the plans differ in them."""


def plan_html(result: PlanResult) -> str:
    """Layouts, the settings they differ in, latencies, cost and the objective."""
    full = [i for i, entry in enumerate(result.entries) if entry.measured is not None]
    order = sorted(full, key=lambda i: (result.entries[i] is not result.best, _score(result, result.entries[i])))
    table = result.table.iloc[order].set_index("layout")
    settings = [name for name in SETTINGS if name in table and table[name].nunique(dropna=False) > 1]
    figures = dict.fromkeys([*METRICS, OBJECTIVES[result.objective][0]])
    rate = ["max_rate_per_s"] if result.by_rate else []
    shown = table[["num_gpus", *settings, "status", *rate, *figures]]
    fates = len(result.entries) - len(full)
    line = line_of(result) + ("" if result.meets_slo else "; the SLO is missed, this comes nearest")
    rest = f"<div>{fates:,} more that were not simulated in full, with the reason, in <code>.table</code></div>"
    return table_html(line, shown) + (rest if fates else "")


def _score(result: PlanResult, entry: Entry) -> tuple[float, ...]:
    assert entry.measured is not None
    return score(entry.measured, result.slo, result.objective)
