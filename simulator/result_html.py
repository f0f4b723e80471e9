"""What Jupyter shows of a run: its line, latencies, and the figures that matter most."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from workloads.notebook_html import line_of, short, table_html

if TYPE_CHECKING:
    from simulator.result import SimulationResult

STATISTICS = ("mean", "median", "p95", "p99")
LATENCIES = {"ttft": "TTFT", "tpot": "TPOT", "itl": "ITL", "e2el": "E2E", "queue": "queue"}
"""Part of a summary field's name -> how it is called in the text of a report."""
FIGURES = (
    ("request_throughput", "requests/s", 1.0),
    ("output_throughput", "output tokens/s", 1.0),
    ("slo_attainment", "% within the SLO", 100.0),
    ("utilisation", "% of the time busy", 100.0),
    ("peak_kv_usage", "% of KV blocks at most", 100.0),
    ("prefix_hit_rate", "% of prompt tokens from the cache", 100.0),
    ("usd_per_million_output_tokens", "$ per million output tokens", 1.0),
    ("joules_per_output_token", "J per output token", 1.0),
)
"""Field of the summary, its words and the factor to their unit; left out where it is None or zero."""


def result_html(result: SimulationResult) -> str:
    """Latencies in ms by statistic, below them throughput, cost and what was used."""
    import pandas as pd

    summary = result.summary
    rows = {
        f"{words} [ms]": [summary.get(f"{statistic}_{name}_ms") for statistic in STATISTICS]
        for name, words in LATENCIES.items()
    }
    frame = pd.DataFrame.from_dict(rows, orient="index", columns=list(STATISTICS), dtype=float)
    rest = ", ".join(
        f"{short(factor * summary[name])} {words}" for name, words, factor in FIGURES if _known(summary, name)
    )
    return table_html(line_of(result), frame) + (f"<div>{rest}</div>" if rest else "")


def _known(summary: dict[str, Any], name: str) -> bool:
    value = summary.get(name)
    return value is not None and value == value and (value != 0 or name == "slo_attainment")
