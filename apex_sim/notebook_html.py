"""What Jupyter shows of a result: a line, and a table below it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 24


def table_html(line: str, frame: pd.DataFrame) -> str:
    """HTML of a frame below its line; numbers to four significant digits, the frame itself is not touched."""
    shown = frame.head(MOST_ROWS).dropna(axis=1, how="all").to_html(float_format=short, na_rep="-", border=0)
    more = len(frame) - MOST_ROWS
    rest = f"<div>{more:,} more rows in <code>.table</code></div>" if more > 0 else ""
    return f"<div>{escape(line)}</div>{shown}{rest}"


def short(value: Any) -> str:
    """Four significant digits, thousands with commas."""
    if abs(value) >= 1e4:
        return f"{value:,.0f}"
    return f"{value:.4g}"
