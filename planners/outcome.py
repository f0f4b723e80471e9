"""What the parallel planner hands back: every candidate with its fate, the winner, the front."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

from hardware_profiles.schema import Cluster
from planners.caches import cache_settings
from planners.launch import notes_of, vllm_commands
from planners.limits import Bounds
from planners.pareto import pareto_front
from planners.pool import Measured
from planners.pools import AnyDeployment, build_any
from planners.space import Candidate, SearchSpace
from simulator.speculative.config import given_fields
from workloads.model import ModelSpec
from workloads.slo import Slo
from workloads.trace import Trace

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Objective = Literal["cost", "request-cost", "goodput", "ttft", "tpot", "energy", "kwh", "carbon"]
Status = Literal["best", "pareto", "met", "missed", "screened", "bounded", "unfit"]

OBJECTIVES: dict[Objective, tuple[str, bool, str]] = {
    "cost": ("usd_per_million_output_tokens", False, "$/1M output tokens"),
    "request-cost": ("usd_per_request", False, "$/request"),
    "goodput": ("request_goodput", True, "good requests/s"),
    "ttft": ("p95_ttft_ms", False, "ms p95 TTFT"),
    "tpot": ("p95_tpot_ms", False, "ms p95 TPOT"),
    "energy": ("joules_per_output_token", False, "J/output token"),
    "kwh": ("facility_kwh_per_million_output_tokens", False, "kWh/1M output tokens"),
    "carbon": ("gco2e_per_million_output_tokens", False, "gCO2e/1M output tokens"),
}
"""Objective -> (field of the summary, larger is better, unit in words)."""

FRONT = (("p95_ttft_ms", 1), ("p95_tpot_ms", 1), ("request_goodput", -1), ("usd_per_million_output_tokens", 1),
         ("joules_per_output_token", 1))  # fmt: skip
"""What the Pareto front is over: latency, goodput, dollars, joules; -1: larger is better."""

TIE = 0.005
"""Relative difference below which two values of the objective count as equal."""


@dataclass(slots=True, eq=False)
class Entry:
    """One candidate and what became of it."""

    candidate: Candidate
    status: Status = "screened"
    reason: str = ""
    bounds: Bounds | None = None
    screen: Measured | None = None
    """On the busiest stretch."""
    measured: Measured | None = None
    """On the whole trace."""
    max_rate_per_s: float | None = None
    """Highest rate within the SLO; infinite when even all requests at once meet it."""

    @property
    def best_known(self) -> Measured | None:
        """The full run if there is one, else the screening."""
        return self.measured or self.screen


@dataclass(eq=False)
class PlanResult:
    """Outcome of a search. ``entries`` in order of enumeration, every candidate accounted for."""

    model: ModelSpec
    cluster: Cluster
    trace: Trace
    slo: Slo | None
    objective: Objective
    space: SearchSpace
    entries: list[Entry]
    best: Entry
    seed: int = 0
    by_rate: bool = False
    """The winner is the plan with the highest rate within the SLO."""
    counts: dict[str, int] = field(default_factory=dict)
    """How many candidates were enumerated, fitted, survived the bounds, were simulated in full."""

    def __repr__(self) -> str:
        return (
            f"<PlanResult: {self.model.name} on {self.cluster.name}, best by {self.objective}: {self.best.candidate.layout}, "
            f"of {len(self.entries)} candidates>"
        )

    def _repr_html_(self) -> str:
        from planners.outcome_html import plan_html

        return plan_html(self)

    def deployment(self, entry: Entry | None = None) -> AnyDeployment:
        """The deployment of an entry (default: the best)."""
        return build_any(self.model, self.cluster, self.space, (entry or self.best).candidate)

    @property
    def meets_slo(self) -> bool:
        """Whether the best plan does; where none does, ``best`` is the nearest to it."""
        return self.best.measured is not None and not missing(self.best.measured, self.slo)

    def plot_pareto(self) -> Figure:
        """Cost against latency of all simulated candidates."""
        from planners.figures import pareto_figure

        return pareto_figure(self)

    @cached_property
    def launch_command(self) -> str:
        """The vLLM command of the best plan; of two pools one a line."""
        return vllm_commands(self.deployment())

    @cached_property
    def launch_notes(self) -> list[str]:
        """What the command alone does not say: other nodes, several servers, checkpoints."""
        return notes_of(self.deployment())

    @cached_property
    def pareto(self) -> list[Entry]:
        """Fully simulated entries within the SLO that nothing beats in latency, goodput, dollars and joules together."""
        return front_of(self.entries, self.slo)

    @cached_property
    def table(self) -> pd.DataFrame:
        """One row per candidate: layout, settings, status, reason, metrics (full run, else screening)."""
        import pandas as pd

        counts = ["max_num_seqs", "max_num_batched_tokens", "completed", "failed", "num_gpus", "num_preemptions"]
        counts += ["decode_tp", "decode_dp"] if self.space.pools else []
        return pd.DataFrame([_flat(row) for row in self.rows()]).astype(dict.fromkeys(counts, "Int64"))

    def rows(self) -> list[dict[str, Any]]:
        """The table as plain dicts."""
        front = {id(entry) for entry in self.pareto}
        return [self._row(entry, id(entry) in front) for entry in self.entries]

    def _decode_pool(self, candidate: Candidate) -> dict[str, int | None]:
        """Columns of a search that may split the cluster; the others are the prefill pool's then."""
        if not self.space.pools:
            return {}
        tp, dp = candidate.decode or (None, None)
        return {"decode_tp": tp, "decode_dp": dp}

    def _techniques(self, candidate: Candidate) -> dict[str, Any]:
        """Columns of what was searched beside layouts and formats."""
        columns: dict[str, Any] = {}
        if self.space.drafts:
            config = self.space.drafts.get(candidate.draft)
            columns |= {"drafts": candidate.draft or None, "speculative_config": config and given_fields(config)}
        if len(self.space.caches) > 1:
            settings = cache_settings(self.cluster, candidate)
            tiers = {name: settings.get(name) for name in ("kv_offloading_size", "kv_offloading_disk")}
            columns |= {"prefix_cache": candidate.cache, **tiers}
        return columns

    def _row(self, entry: Entry, on_front: bool) -> dict[str, Any]:
        candidate, known = entry.candidate, entry.best_known
        limits = candidate if known is None else known
        row: dict[str, Any] = {
            "layout": candidate.layout,
            "tp": candidate.tp,
            "pp": candidate.pp,
            "dp": candidate.dp,
            "ep": candidate.ep,
            **self._decode_pool(candidate),
            "num_gpus": candidate.num_devices,
            "quantization": candidate.quantization or None,
            "kv_cache_dtype": candidate.kv_cache_dtype,
            **self._techniques(candidate),
            "max_num_seqs": limits.max_num_seqs,
            "max_num_batched_tokens": limits.max_num_batched_tokens,
            "status": entry.status,
            "pareto": on_front,
            "reason": entry.reason,
            "simulated": "full" if entry.measured else "screen" if entry.screen else None,
            "capacity_bound_per_s": entry.bounds.capacity_per_s if entry.bounds else None,
            "max_rate_per_s": entry.max_rate_per_s,
        }
        metrics = {} if known is None else known.metrics
        return row | {name: metrics.get(name) for name in Measured.FIELDS if name not in row}


def _flat(row: dict[str, Any]) -> dict[str, Any]:
    """A row whose mappings are JSON text, for tables."""
    return {name: json.dumps(value) if isinstance(value, dict) else value for name, value in row.items()}


def front_point(measured: Measured) -> tuple[float, ...]:
    """Coordinates on the Pareto front, smaller is better; a metric the profile cannot give counts as equal."""
    return tuple(sign * (measured.metrics[name] or 0.0) for name, sign in FRONT)


def front_of(entries: list[Entry], slo: Slo | None) -> list[Entry]:
    """The Pareto front of the fully simulated entries within the SLO."""
    full = [e for e in entries if e.measured is not None and not missing(e.measured, slo)]
    return [full[i] for i in pareto_front([front_point(e.measured) for e in full if e.measured])]


def missing(measured: Measured, slo: Slo | None) -> float:
    """By how much the wanted attainment is missed; 0 when it is met."""
    return 0.0 if slo is None else max(0.0, slo.attainment - (measured.metrics["slo_attainment"] or 0.0))


def excess(measured: Measured, slo: Slo) -> float:
    """Largest ratio of a p95 latency to its limit: how far a run that misses the SLO is from it."""
    m = measured.metrics
    pairs = ((m["p95_ttft_ms"], slo.ttft_s), (m["p95_tpot_ms"], slo.tpot_s), (m["p95_e2el_ms"], slo.e2e_s))
    ratios = [value / (limit * 1e3) for value, limit in pairs if limit is not None and value is not None]
    return max((ratio for ratio in ratios if ratio == ratio), default=float("inf"))


def coarse(value: float | None, tie: float = TIE) -> float:
    """Grid on which nearly equal values are equal: a plan is not better for the drain of its last requests.

    None and NaN (nothing measured) are worse than anything.
    """
    if value is None or value != value:
        return math.inf
    return float(round(math.log(value) / tie)) if value > 0 else -math.inf


def score(measured: Measured, slo: Slo | None, objective: Objective) -> tuple[float, float, float, float]:
    """Sort key, smaller is better: (SLO missed by, objective, devices, mean latency)."""
    name, larger, _ = OBJECTIVES[objective]
    value = coarse(measured.metrics[name])
    value = -value if larger and value < math.inf else value
    latency = coarse(measured.metrics["mean_e2el_ms"])
    return (missing(measured, slo), value, measured.metrics["num_gpus"], latency)


def choose(full: list[Entry], slo: Slo | None, objective: Objective) -> Entry:
    """The winner of fully simulated entries: within the SLO, best by the objective; among those that tie with it, on the
    fewest devices, then with the lowest mean latency. Nearest to the SLO when none meets it."""
    ranked = sorted(full, key=lambda e: score(e.measured, slo, objective) if e.measured else ())
    good = [e for e in ranked if e.measured and not missing(e.measured, slo)]
    if not good:
        return ranked[0]
    name, larger, _ = OBJECTIVES[objective]
    values = [v for e in good if e.measured and (v := e.measured.metrics[name]) is not None and v == v]
    if not values:
        return good[0]
    top = max(values) if larger else min(values)
    ties = [e for e in good if e.measured and ties_with(e.measured.metrics[name], top)]
    return min(ties, key=lambda e: score(e.measured, slo, objective)[2:] if e.measured else ())


def ties_with(value: float | None, best: float | None) -> bool:
    """Equal but for TIE."""
    return value == best if value is None or best is None else abs(value - best) <= TIE * abs(best)
