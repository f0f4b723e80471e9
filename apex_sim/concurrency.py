"""Closed loops: one deployment with more and more users, each of whom sends when the last answer has come."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from apex_sim.load import highest_kept, mean_of, simulate_all
from apex_sim.load_limit import Limit, limit_of, seats_of
from hardware_profiles.errors import UserError
from workloads.figure_style import short_name
from workloads.notebook_html import line_of, table_html

if TYPE_CHECKING:
    import pandas as pd

    from simulator.result import SimulationResult
    from workloads.slo import Slo
    from workloads.trace import Trace

SHOWN = (
    *("request_throughput", "median_ttft_ms", "p95_ttft_ms", "median_tpot_ms", "p95_tpot_ms"),
    *("output_throughput_per_gpu", "output_throughput_per_user", "running", "kv_usage"),
)
"""Columns of the table that a notebook shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ConcurrencyCurve:
    """A deployment with more and more users."""

    table: pd.DataFrame
    """A row per concurrency [users] (the index): fields of the summary, ``output_throughput_per_user`` [tokens/s], which is
    1 / median TPOT (what InferenceMAX calls interactivity), means over time of ``running``, ``waiting`` [requests] and
    ``kv_usage`` [share], and ``max_num_seqs``."""
    knee: int
    """Of the concurrencies tried, the one with the highest power: throughput over mean end-to-end latency."""
    slo_concurrency: int | None
    """Highest concurrency tried that keeps the SLO, with all below; None: none does, or there is no SLO."""
    limit: Limit
    """What runs out with the most users."""
    results: dict[int, SimulationResult]
    title: str

    def __repr__(self) -> str:
        return f"<ConcurrencyCurve: {self.title}, knee {self.knee:,} users, limit: {self.limit.why}>"

    def _repr_html_(self) -> str:
        return table_html(line_of(self), self.table[list(SHOWN)])


def closed_loops(
    model: Any,
    cluster: Any,
    concurrencies: Sequence[int],
    slo: Slo | None,
    jobs: int,
    progress: Callable[[int, int], None] | None,
    settings: Mapping[str, Any],
) -> ConcurrencyCurve:
    """The curve of ``load_curve(..., concurrencies=...)``; ``settings`` as of ``simulate``."""
    from apex_sim.workload import WorkloadSettings, make_trace

    if settings.get("disaggregate") is not None:
        raise UserError(
            "load_curve: disaggregate makes two pools with a limit each; simulate(arrival='closed(concurrency=8)') has them"
        )
    if settings.get("arrival") is not None:
        raise UserError("load_curve: arrival says when requests come; concurrencies are closed loops: give one of them")
    workload: dict[str, Any] = {k: v for k, v in settings.items() if k in WorkloadSettings.__annotations__}
    others = {k: v for k, v in settings.items() if k not in workload}
    if workload.get("trace") is None:  # a trace's own arrivals are replaced below
        workload["arrival"] = "closed(concurrency=1)"
    trace = make_trace(**workload, seed=settings.get("seed", 0))
    return concurrency_curve(
        partial(_simulated, model, cluster, trace, {**others, "slo": slo}), trace, concurrencies, slo, jobs, progress
    )


def _simulated(model: Any, cluster: Any, trace: Trace, settings: dict[str, Any], users: float) -> SimulationResult:
    from apex_sim.api import simulate

    result: SimulationResult = simulate(model, cluster, **settings, trace=in_closed_loop(trace, int(users)))
    return result


def in_closed_loop(trace: Trace, users: int) -> Trace:
    """The same requests, in the same order, sent by so many users."""
    return dataclasses.replace(trace, arrival_s=np.zeros(len(trace)), concurrency=users)


def concurrency_curve(
    run: Callable[[float], SimulationResult],
    trace: Trace,
    concurrencies: Sequence[int],
    slo: Slo | None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> ConcurrencyCurve:
    """The curve of what ``run`` gives with so many users; it must be picklable for more than one of ``jobs``."""
    given = checked(concurrencies, len(trace))
    results = {int(users): result for users, result in simulate_all(run, given, jobs, progress).items()}
    table, last = _table(results), results[given[-1]]
    return ConcurrencyCurve(
        table=table,
        knee=int((table["request_throughput"] / table["mean_e2el_ms"]).idxmax()),
        slo_concurrency=highest_kept(table, given, slo),
        limit=limit_of(last),
        results=results,
        title=f"{short_name(last.deployment.model.name)} on {last.where}, {last.trace.name}",
    )


def checked(concurrencies: Sequence[int], requests: int) -> list[int]:
    """Ascending, each once. UserError for what is no number of users, and for users who would have nothing to send."""
    numbers = list(concurrencies)
    if not numbers or any(isinstance(n, bool) or n != n or n < 1 or n % 1 for n in numbers):
        raise UserError(f"--concurrencies is {numbers!r}; give whole numbers of users from 1, as [1, 2, 4, 8]")
    found = sorted({int(n) for n in numbers})
    if found[-1] > requests:
        raise UserError(
            f"--concurrencies has {found[-1]:,} users for {requests:,} requests, so that they are never {found[-1]:,} at once; "
            f"give more requests (ten per user: --num-requests {10 * found[-1]}) or fewer users"
        )
    return found


def _table(results: dict[int, SimulationResult]) -> pd.DataFrame:
    from apex_sim.frames import compare

    table = compare(results, names="concurrency").copy()
    table["output_throughput_per_user"] = 1e3 / table["median_tpot_ms"]
    for column in ("running", "waiting", "kv_usage"):
        table[column] = [mean_of(r, column, float(np.nanmax(r.column("arrival_s")))) for r in results.values()]
    table["max_num_seqs"] = [seats_of(result) for result in results.values()]
    return table
