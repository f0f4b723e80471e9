"""How far predictions may be off: 80 % intervals from the errors of replayed measured runs of the same kind.

``uncertainty.yaml`` holds, per kind of run, the 10th and 90th percentile of measured / predicted; it is written by
``python -m simulator.validation.intervals``. A prediction takes the row of the most specific kind that it belongs to.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

SHARE = 0.8
"""Of measured values that should lie inside."""
OVERLOAD_SHARE = 0.25
"""Of a request's time spent in the queue, from which a run counts as overloaded."""
WAIT_STEPS = 2.0
"""A request that waits longer than so many steps waits for a place, not for the step in flight."""

PROVENANCES = ("measured", "transferred", "datasheet")
LABELS = ("engine", "provenance", "experts", "load")
CHAIN: tuple[tuple[str, ...], ...] = (
    ("engine", "provenance", "experts", "load"),
    ("engine", "provenance", "load"),
    ("engine", "provenance"),
    ("provenance", "load"),
    ("provenance",),
)
"""Labels that a row is about, most specific first."""
FAMILIES = ("ttft", "tpot", "itl", "e2e", "throughput", "energy")
"""Metrics whose errors are pooled: every mean and percentile of a latency counts as that latency."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Interval:
    """Factors on a prediction between which 80 % of such measurements lay."""

    low: float
    high: float
    runs: int
    """Measured figures behind it."""
    kind: tuple[str, ...]
    """Which ones: values of the labels of a link of CHAIN."""

    @property
    def kind_text(self) -> str:
        """The kind in words: vllm, measured kernels, dense, unsaturated."""
        return ", ".join(f"{name} kernels" if name in PROVENANCES else name for name in self.kind)

    def around(self, value: float) -> tuple[float, float]:
        """The interval of a prediction, in its unit."""
        return value * self.low, value * self.high


def family_of(metric: str) -> str | None:
    """ttft_mean_ms -> ttft; throughputs and energies by their kind; None for what has no interval (KV blocks)."""
    name = metric.partition("_")[0]
    if name in ("ttft", "tpot", "itl", "e2e"):
        return name
    if metric == "token_time_ms":
        return "tpot"
    if metric == "prompt_time_ms":
        return "ttft"
    if "tok_s" in metric or metric == "req_s":
        return "throughput"
    return "energy" if metric.startswith(("energy", "power")) else None


def load_class(*, closed: bool, queue_mean_s: float, queue_p90_s: float, tpot_mean_s: float, e2e_mean_s: float) -> str:
    """``closed loop`` (and all at once), or of an open load: ``unsaturated``, ``saturated`` (one request in ten waits for a
    place in the batch), ``overloaded`` (waiting is a large part of what requests do). Queues without the front end."""
    if closed:
        return "closed loop"
    if queue_mean_s > OVERLOAD_SHARE * e2e_mean_s:
        return "overloaded"
    return "saturated" if queue_p90_s > WAIT_STEPS * tpot_mean_s else "unsaturated"


def engine_family(name: str) -> str:
    """vllm-v1 and vllm-v0 are vllm; other engines are themselves."""
    return "vllm" if name.startswith("vllm") else name


@cache
def committed_rows() -> Mapping[tuple[str, tuple[tuple[str, str], ...]], tuple[float, float, int]]:
    """(family, kind) -> (low, high, figures), from uncertainty.yaml."""
    import yaml

    text = resources.files("simulator").joinpath("uncertainty.yaml").read_text("utf-8")
    rows = yaml.load(text, Loader=getattr(yaml, "CSafeLoader", yaml.SafeLoader))["rows"]
    return {(row["family"], _key(row)): (row["low"], row["high"], row["runs"]) for row in rows}


def _key(row: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    return tuple((label, str(row[label])) for label in LABELS if label in row)


def interval(family: str, labels: Mapping[str, str]) -> Interval | None:
    """The interval of one family of metrics for a run with these ``labels``; None where nothing alike was ever measured."""
    return pick(committed_rows(), family, labels)


def pick(
    rows: Mapping[tuple[str, tuple[tuple[str, str], ...]], tuple[float, float, int]],
    family: str,
    labels: Mapping[str, str],
    chain: Sequence[tuple[str, ...]] = CHAIN,
) -> Interval | None:
    """The first link of ``chain`` that has a row."""
    for names in chain:
        key = _key({name: labels[name] for name in names})
        found = rows.get((family, key))
        if found is not None:
            return Interval(low=found[0], high=found[1], runs=found[2], kind=tuple(labels[name] for name in names))
    return None
