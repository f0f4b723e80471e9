"""Latency against load: one deployment at rising request rates, the knee of its curve, and what it runs out of."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, TypeVar, overload

import numpy as np

from apex_sim.load_limit import Limit, limit_of, mean_step, seats_of
from apex_sim.setting_words import names_arguments
from hardware_profiles.errors import UserError
from workloads.figure_style import short_name
from workloads.notebook_html import line_of, table_html

if TYPE_CHECKING:
    import pandas as pd

    from apex_sim.concurrency import ConcurrencyCurve
    from simulator.result import SimulationResult
    from workloads.slo import Slo

N = TypeVar("N", int, float)

STEPS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4)
"""Rates to simulate, as shares of what is served when everything arrives at once."""
AT_ONCE_PER_S = 1e4
"""A rate at which the whole workload waits for the devices."""
SHOWN = (
    *("request_throughput", "slo_attainment", "p95_ttft_ms", "p95_tpot_ms", "mean_e2el_ms", "running", "waiting"),
    *("kv_usage", "utilisation", "mbu", "usd_per_million_output_tokens"),
)
"""Columns of the table that a notebook shows."""
POOL_PAYS = 5_000
"""Requests to simulate, all rates together, below which starting processes costs more than it gains."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadCurve:
    """A deployment at rising rates."""

    table: pd.DataFrame
    """A row per rate [1/s] (the index): fields of the summary, means over time of ``running``, ``waiting`` [requests] and
    ``kv_usage`` [share], ``max_num_seqs``, and ``mbu``, the share of the memory's bandwidth that its mean step uses."""
    knee_per_s: float
    """Of the rates tried, the one with the highest power: throughput over mean end-to-end latency. Below it, more load
    costs little latency; above it, mostly latency is gained (Kleinrock, Power and deterministic rules of thumb for
    probabilistic problems in computer communications, ICC 1979)."""
    slo_per_s: float | None
    """Highest rate tried that keeps the SLO, with all below; None: none does, or there is no SLO."""
    limit: Limit
    """What it runs out of at the highest rate."""
    results: dict[float, SimulationResult]
    title: str

    def __repr__(self) -> str:
        return f"<LoadCurve: {self.title}, knee {self.knee_per_s:g}/s, limit: {self.limit.why}>"

    def _repr_html_(self) -> str:
        return table_html(line_of(self), self.table[[name for name in SHOWN if name in self.table]])


@overload
def load_curve(
    model: Any,
    cluster: Any,
    rates: Sequence[float] | None = None,
    *,
    concurrencies: None = None,
    slo: Any = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> LoadCurve: ...


@overload
def load_curve(
    model: Any,
    cluster: Any,
    *,
    concurrencies: Sequence[int],
    slo: Any = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> ConcurrencyCurve: ...


@names_arguments
def load_curve(
    model: Any,
    cluster: Any,
    rates: Sequence[float] | None = None,
    *,
    concurrencies: Sequence[int] | None = None,
    slo: Any = None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> LoadCurve | ConcurrencyCurve:
    """Simulate a deployment at each of ``rates`` [1/s], by default from a tenth to 1.4 times what it serves at most.

    With ``concurrencies`` instead: a closed loop of so many users each, who send when their answer has come (returns a
    ConcurrencyCurve: output tokens per second and GPU against those that a user sees).
    ``settings`` as of :func:`apex_sim.simulate`: one workload is played at every rate. ``jobs``: processes; the result does
    not depend on it. ``progress``: called with runs done and their number.
    """
    from apex_sim.workload import SAMPLE_WORKLOAD
    from workloads.slo import as_slo

    for name in ("rate", "rate_scale"):
        if name in settings:
            raise UserError(f"load_curve: {name} is what it varies; give rates=[...] or concurrencies=[...]")
    if concurrencies is not None:
        from apex_sim.concurrency import closed_loops

        if rates is not None:
            raise UserError("load_curve: rates and concurrencies are two ways to load a deployment; give one of them")
        return closed_loops(model, cluster, concurrencies, as_slo(slo), jobs, progress, settings)
    if settings.get("disaggregate") is not None:
        raise UserError(
            "load_curve: disaggregate makes two pools with a limit each; simulate the rates you are interested in"
        )
    if not {"trace", "input_len", "output_len"} & set(settings):
        settings["trace"] = SAMPLE_WORKLOAD
    refuse_closed_loop(settings.get("arrival"), settings.get("trace"))
    run = partial(_simulated, model, cluster, {**settings, "slo": slo})
    return curve_of(run, rates, as_slo(slo), jobs, progress)


def _simulated(model: Any, cluster: Any, settings: dict[str, Any], rate: float) -> SimulationResult:
    from apex_sim.api import simulate

    result: SimulationResult = simulate(model, cluster, **settings, rate=rate)
    return result


def refuse_closed_loop(arrival: object, trace: object) -> None:
    """UserError for clients that wait for their answers: they set the rate themselves."""
    if str(arrival or "").strip().startswith("closed") or getattr(trace, "concurrency", None) is not None:
        raise UserError(
            "a closed loop has no rate to vary: its clients send when an answer comes; compare values with --concurrencies "
            "1,2,4, or drop --arrival"
        )


def curve_of(
    run: Callable[[float], SimulationResult],
    rates: Sequence[float] | None,
    slo: Slo | None,
    jobs: int = 1,
    progress: Callable[[int, int], None] | None = None,
) -> LoadCurve:
    """The curve of what ``run`` gives at each rate [1/s]; it must be picklable for more than one of ``jobs``."""
    if rates is None:
        rates = _default_rates(run(AT_ONCE_PER_S))
    given = sorted({float(rate) for rate in rates})
    if not given or not 0 < given[0] <= given[-1] < np.inf:
        raise UserError(f"load_curve: rates is {list(rates)!r}; give request rates above 0")
    results = simulate_all(run, given, jobs, progress)
    table = _table(results)
    last = results[given[-1]]
    return LoadCurve(
        table=table,
        knee_per_s=float((table["request_throughput"] / table["mean_e2el_ms"]).idxmax()),
        slo_per_s=highest_kept(table, given, slo),
        limit=limit_of(last),
        results=results,
        title=f"{short_name(last.deployment.model.name)} on {last.where}, {last.trace.name}",
    )


def highest_kept(table: pd.DataFrame, loads: Sequence[N], slo: Slo | None) -> N | None:
    """Of the loads tried, ascending as the table's rows, the highest that keeps the SLO with all below it."""
    kept = 0 if slo is None else int(np.cumprod(table["slo_attainment"].to_numpy() >= slo.attainment).sum())
    return loads[kept - 1] if kept else None


def _default_rates(at_once: SimulationResult) -> list[float]:
    """Around what is served when everything arrives at once."""
    most = float(at_once.summary["request_throughput"])
    if not most:
        raise UserError("load_curve: no request was completed, so there is no capacity to start from; give rates=[...]")
    return [float(f"{share * most:.2g}") for share in STEPS]


def simulate_all(
    run: Callable[[float], SimulationResult],
    rates: Sequence[float],
    jobs: int,
    progress: Callable[[int, int], None] | None,
) -> dict[float, SimulationResult]:
    """Results by rate, in order. Other processes are started for the rates after the first, where they pay."""
    results: dict[float, SimulationResult] = {}

    def keep(found: Iterable[SimulationResult]) -> None:
        for rate, result in zip(rates[len(results) :], found, strict=False):
            results[rate] = result
            if progress is not None:
                progress(len(results), len(rates))

    keep([run(rates[0])])
    rest = rates[1:]
    if jobs > 1 and len(rest) > 1 and len(rates) * len(results[rates[0]].trace) > POOL_PAYS:
        from simulator.workers import Workers

        with Workers(min(jobs, len(rest)), _no_warnings) as pool:
            keep(pool.map(run, rest))
    else:
        keep(map(run, rest))
    return results


def _no_warnings() -> None:
    """The first rate has given them."""
    warnings.simplefilter("ignore", UserWarning)


def _table(results: dict[float, SimulationResult]) -> pd.DataFrame:
    from apex_sim.frames import compare

    table = compare(results, names="rate_per_s").copy()
    for column in ("running", "waiting", "kv_usage"):
        table[column] = [mean_of(result, column, float(result.trace.arrival_s[-1])) for result in results.values()]
    table["max_num_seqs"] = [seats_of(result) for result in results.values()]
    table["mbu"] = [_bandwidth_share(result) for result in results.values()]
    return table


def mean_of(result: SimulationResult, column: str, last_s: float) -> float:
    """Mean until ``last_s``, when the last request arrives, and over replicas; a sample holds until the next one."""
    found = []
    for _, rows in result.timeline.groupby("replica"):
        rows = rows[rows["time_s"] <= last_s]
        lengths = np.diff(rows["time_s"].to_numpy(), append=last_s)
        found.append(float(np.dot(rows[column], lengths)) / last_s if last_s > 0 else 0.0)
    return float(np.mean(found)) if found else 0.0


def _bandwidth_share(result: SimulationResult) -> float:
    """Memory traffic of the mean step over what the devices could move in its time, while steps are in flight."""
    from apex_sim.frames import explain_step

    frame, model = explain_step(result.deployment, **mean_step(result)), result.deployment.step_model
    could = float(frame["seconds"].sum()) * model.bandwidth_bytes_per_s * model.num_devices
    return float(result.utilisation * frame["hbm_bytes"].sum() / could) if could else 0.0
