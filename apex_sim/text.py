"""Tables and numbers for terminals."""

from __future__ import annotations

import math
from collections.abc import Sequence

from apex_sim.progress import ProgressBar as ProgressBar


def number(value: float | None, digits: int = 3) -> str:
    """A number with ``digits`` significant digits, thousands separated; a dash for None and NaN."""
    if value is None or not math.isfinite(value):
        return "-"
    if value == 0:
        return "0"
    if abs(value) >= 10 ** (digits - 1):
        return f"{value:,.0f}"
    return f"{value:.{digits}g}"


def dollars(value: float | None) -> str:
    """Cents from a dollar on, three significant digits below, no exponents; a dash for None and NaN."""
    if value is None or not math.isfinite(value):
        return "-"
    value = float(f"{value:.3g}") if value < 1 else value
    if value == 0 or value >= 1:
        return f"${value:,.2f}"
    return f"${value:.{2 - math.floor(math.log10(value))}f}"


def monthly(usd_per_hour: float) -> str:
    """Dollars for a month of 730 hours."""
    from hardware_profiles.terms import HOURS_PER_MONTH

    usd = HOURS_PER_MONTH * usd_per_hour
    return f"{f'${usd:,.0f}' if usd >= 100 else dollars(usd)} a month of {HOURS_PER_MONTH:g} h"


def hourly(usd_per_hour: float) -> str:
    """Dollars per hour, and per month."""
    return f"{dollars(usd_per_hour)}/h ({monthly(usd_per_hour)})"


def milliseconds(value: float | None) -> str:
    """Milliseconds, in seconds from ten thousand on."""
    if value is None or not math.isfinite(value):
        return "-"
    return f"{value / 1e3:,.1f} s" if abs(value) >= 1e4 else f"{number(value)} ms"


def share(value: float | None) -> str:
    """A share as a percentage."""
    return "-" if value is None or not math.isfinite(value) else f"{100 * value:.1f}%"


def table(header: Sequence[str], rows: Sequence[Sequence[str]], left: int = 1) -> str:
    """Aligned columns: the first ``left`` to the left, the others to the right."""
    cells = [list(header), *[list(row) for row in rows]]
    widths = [max(len(row[i]) for row in cells) for i in range(len(header))]

    def line(row: Sequence[str]) -> str:
        parts = [
            cell.ljust(w) if i < left else cell.rjust(w) for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(parts).rstrip()

    return "\n".join([line(cells[0]), "  ".join("-" * w for w in widths), *map(line, cells[1:])])
