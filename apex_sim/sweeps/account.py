"""What a sweep came to, in lines for a terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Any


def counts(status: list[str]) -> dict[str, int]:
    """Runs of every status."""
    return {kind: status.count(kind) for kind in ("ok", "failed", "error", "crashed")}


def report(columns: dict[str, list[Any]], summary: dict[str, Any], paths: list[Path]) -> list[str]:
    """Counts, the reasons of what failed, the files."""
    from collections import Counter

    done = len(columns["status"])
    parts = [f"{summary[kind]:,} {kind}" for kind in ("ok", "failed", "error", "crashed") if summary[kind]]
    lines = [f"{done:,} of {summary['points']:,} runs: {', '.join(parts) or 'none'}"]
    reasons = Counter(reason for reason in columns["reason"] if reason is not None)
    lines += [f"  {count:,} x {reason}" for reason, count in reasons.most_common(5)]
    if len(reasons) > 5:
        lines.append(f"  and {len(reasons) - 5:,} other reasons, in column reason")
    if summary["crashed"]:
        lines.append("crashed runs are carried out again by the same command")
    if paths:
        lines.append(f"wrote {', '.join(str(path) for path in paths)}")
        if all(path.suffix != ".parquet" for path in paths):
            lines.append("no Parquet without pyarrow; install it with: pip install 'apex-sim[parquet]'")
    return lines


def listing(header: list[str], rows: list[list[str]]) -> str:
    """A table whose first column is its left edge."""
    from apex_sim.text import table

    return table(header, rows, left=0)


def cell(value: Any) -> str:
    """Five significant digits, texts of 40 characters at most, a dash for nothing."""
    if value is None or value != value:
        return "-"
    if isinstance(value, float):
        return f"{value:.5g}"
    text = str(value)
    return text if len(text) <= 40 else text[:37] + "..."
