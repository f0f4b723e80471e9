"""The one exception class for users' mistakes, and the helper that suggests the right name.

It lives in the lowest package because everything above raises it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """A mistake in what the user gave (a file, a flag, a name).

    The message is one line that states the place, the rule, the value and the remedy.
    The CLI prints it after ``apex-sim: error:`` and exits with code 2.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython and Jupyter show below the cell: the line, without this package's insides."""
        return [f"{type(self).__name__}: {self}"]


def unknown_name(what: str, name: str, available: Iterable[str], listed: int = 12) -> UserError:
    """Return (not raise) the error for a name that is not in ``available``, with the nearest names; all of them where they
    are at most ``listed``."""
    name, names = str(name), sorted(available)
    lowered = {n.lower(): n for n in names}
    near = [lowered[n] for n in difflib.get_close_matches(name.lower(), list(lowered), n=3, cutoff=0.5)]
    hint = f" Did you mean {' or '.join(repr(n) for n in near)}?" if near else ""
    listing = f" Available: {', '.join(names)}." if len(names) <= listed else f" {len(names)} are available."
    return UserError(f"unknown {what} {name!r}.{hint}{listing}")
