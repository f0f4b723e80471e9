"""What Jupyter shows of a result: a line, and a table below it."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

MOST_ROWS = 24


def table_html(line: str, frame: pd.DataFrame, more_in: str = "table") -> str:
    """HTML of a frame below its line; numbers to four significant digits, the frame itself is not touched.

    more_in: attribute of the result that has the rows which are not shown.
    """
    shown = frame.head(MOST_ROWS).dropna(axis=1, how="all").to_html(float_format=short, na_rep="-", border=0)
    more = len(frame) - MOST_ROWS
    rest = f"<div>{more:,} more rows in <code>.{more_in}</code></div>" if more > 0 else ""
    return f"<div>{escape(line)}</div>{shown}{rest}"


def line_of(result: object) -> str:
    """The line of ``<Kind: line>``, which a result's ``repr`` is."""
    return repr(result).removeprefix("<").removesuffix(">").partition(": ")[2]


def short(value: Any) -> str:
    """Four significant digits, thousands with commas."""
    if abs(value) >= 1e4:
        return f"{value:,.0f}"
    return f"{value:.4g}"
