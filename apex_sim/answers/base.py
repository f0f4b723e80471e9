"""What all answers have."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from workloads.notebook_html import table_html

if TYPE_CHECKING:
    import pandas as pd


@dataclass(eq=False, kw_only=True)
class Answered:
    """What all of them have. ``print(result)`` shows what the command prints."""

    args: argparse.Namespace = field(repr=False)
    """What was asked, as arguments of the command."""

    @cached_property
    def data(self) -> dict[str, Any]:
        """Everything as plain values: what the command writes with ``--json``."""
        raise NotImplementedError

    @cached_property
    def summary(self) -> dict[str, Any]:
        """The figures that matter most, by name."""
        raise NotImplementedError

    @cached_property
    def table(self) -> pd.DataFrame:
        """A row per choice that was compared."""
        raise NotImplementedError

    @property
    def headline(self) -> str:
        """The answer in a line."""
        raise NotImplementedError

    def html(self) -> str:
        """The report itself."""
        raise NotImplementedError

    def write_report(self, path: str | Path) -> Path:
        """Write the command's ``--report``: one HTML file that needs no network (docs/reports.md)."""
        from apex_sim.html.write import write_report

        return write_report(self, path)

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.headline}>"

    def _repr_html_(self) -> str:
        """What Jupyter shows for the last line of a cell."""
        return table_html(self.headline, self.table)
