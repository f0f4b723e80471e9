"""One run of a sweep, wherever it is carried out: settings in, a row out, both as JSON text."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from contextlib import chdir
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_sim import __version__
from apex_sim.setting_words import as_fields
from apex_sim.sweeps.commands import ASKED, SIMULATE, figures_of
from hardware_profiles.errors import UserError

if TYPE_CHECKING:
    from workloads.trace import Trace

FAILED = "failed"
"""The settings are refused, or nothing meets the SLO, with the reason that the command gives."""
ERROR = "error"
"""The simulator itself stopped; the reason names the exception."""
CRASHED = "crashed"
"""The process ended, ran out of memory or of time; run again by the next ``apex-sim sweep``."""


def run_point(task: str) -> str:
    """Carry out a task ``{"settings": ..., "base": folder, "command": what is asked}``; the row has status, reason, results."""
    given = json.loads(task)
    wanted = given.get("version", __version__)
    if wanted != __version__:  # of a cluster's worker: its figures must not be mixed with others
        reason = f"the worker has apex-sim {__version__}, the sweep {wanted}; install the same on both"
        return json.dumps({"status": CRASHED, "reason": reason, "summary": {}, "warnings": None})
    with chdir(given["base"]), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        row = _row(given["settings"], given.get("command", SIMULATE))
    said = list(dict.fromkeys(str(w.message) for w in caught if issubclass(w.category, UserWarning)))
    return json.dumps({**row, "warnings": "; ".join(said) or None})


def _row(settings: Mapping[str, Any], command: str) -> dict[str, Any]:
    try:
        return {"status": "ok", "reason": None, "summary": _plain(figures_of(command, _taken(settings, command)))}
    except UserError as error:
        return {"status": FAILED, "reason": _line(as_fields(str(error))), "summary": {}}
    except MemoryError:
        return {"status": CRASHED, "reason": "out of memory", "summary": {}}
    except Exception as error:
        return {"status": ERROR, "reason": _line(f"{type(error).__name__}: {error}"), "summary": {}}


def _taken(settings: Mapping[str, Any], command: str) -> dict[str, Any]:
    """Settings as the function of the command takes them: objects for mappings, tuples, a trace that is read once."""
    given = dict(settings)
    if given.get("elasticity") is not None:
        given["elasticity"] = _elasticity(given["elasticity"])
    for name in ASKED[command].lists:
        if isinstance(given.get(name), list):
            given[name] = tuple(given[name])
    options: dict[str, Any] = {
        name: given.pop(name) for name in ("trace_format", "trace_sort", "spread_ties") if name in given
    }
    if isinstance(given.get("trace"), str) and given.get("arrival") is None and Path(given["trace"]).is_file():
        given["trace"], said = _trace(given["trace"], os.stat(given["trace"]).st_mtime_ns, tuple(options.items()))
        options = {}
        for text in said:
            warnings.warn(text, stacklevel=1)
    return {**given, **options}


@lru_cache(maxsize=2)
def _trace(path: str, changed_ns: int, options: tuple[tuple[str, Any], ...]) -> tuple[Trace, list[str]]:
    """A trace file, read once for many runs, and what its reader warned of, which belongs to every one of them."""
    from apex_sim.api import load_trace

    given = dict(options)
    read: dict[str, Any] = {"format": given["trace_format"]} if given.get("trace_format") else {}
    read |= {name.removeprefix("trace_"): True for name in ("trace_sort", "spread_ties") if given.get(name)}
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", UserWarning)
        trace = load_trace(path, **read)
    return trace, [str(w.message) for w in caught]


def _elasticity(content: Any) -> Any:
    from hardware_profiles.records import from_mapping
    from simulator.elastic.settings import Elasticity

    return from_mapping(Elasticity, content, where="elasticity")


def _line(text: str) -> str:
    return " ".join(text.split())


def _plain(value: Any) -> Any:
    """NaN is null; arrays' scalars are numbers."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "item") and not isinstance(value, str):
        value = value.item()
    if isinstance(value, float) and math.isnan(value):
        return None
    return value if isinstance(value, bool | int | float | str | None) else str(value)
