"""Latency against load: one deployment at rising request rates, the knee of its curve, and what it runs out of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from hardware_profiles.errors import UserError
from workloads.figure_style import short_name

if TYPE_CHECKING:
    import pandas as pd

    from simulator.result import SimulationResult

STEPS = (0.1, 0.25, 0.4, 0.55, 0.7, 0.8, 0.9, 1.0, 1.2, 1.4)
"""Rates to simulate, as shares of what is served when everything arrives at once."""
AT_ONCE_PER_S = 1e4
"""A rate at which the whole workload waits for the devices."""
FULL = 0.95
"""Share of the KV blocks above which no request of ordinary size finds room."""
BUSY = 0.9
"""Share of the time with a step in flight above which the device is the limit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What a deployment runs out of first, under a load that it cannot serve."""

    resource: str
    """``seats`` (places in the batch), ``memory`` (KV blocks), ``time`` (of the devices), or ``none``."""
    why: str
    """One sentence."""


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


def load_curve(
    model: Any,
    cluster: Any,
    rates: Sequence[float] | None = None,
    *,
    slo: Any = None,
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> LoadCurve:
    """Simulate a deployment at each of ``rates`` [1/s], by default from a tenth to 1.4 times what it serves at most.

    ``settings`` as of :func:`apex_sim.simulate`: one workload is played at every rate. ``progress``: called with runs done
    and their number.
    """
    from apex_sim.api import simulate
    from apex_sim.workload import SAMPLE_WORKLOAD
    from workloads.slo import as_slo

    if "rate" in settings:
        raise UserError("load_curve: rate is what it varies; give rates=[...]")
    if settings.get("disaggregate") is not None:
        raise UserError(
            "load_curve: disaggregate makes two pools with a limit each; simulate the rates you are interested in"
        )
    if not {"trace", "input_len", "output_len"} & set(settings):
        settings["trace"] = SAMPLE_WORKLOAD
    if rates is None:
        at_once = simulate(model, cluster, slo=slo, **{**settings, "rate": AT_ONCE_PER_S})
        most = float(at_once.summary["request_throughput"])
        if not most:
            raise UserError(
                "load_curve: no request was completed, so there is no capacity to start from; give rates=[...]"
            )
        rates = [float(f"{share * most:.2g}") for share in STEPS]
    given = sorted({float(rate) for rate in rates})
    if not given or given[0] <= 0:
        raise UserError(f"load_curve: rates is {list(rates)!r}; give request rates above 0")
    results: dict[float, SimulationResult] = {}
    for rate in given:
        results[rate] = simulate(model, cluster, slo=slo, **{**settings, "rate": rate})
        if progress is not None:
            progress(len(results), len(given))
    table = _table(results)
    last = results[given[-1]]
    goal = as_slo(slo)
    kept = [] if goal is None else list(np.cumprod(table["slo_attainment"].to_numpy() >= goal.attainment))
    return LoadCurve(
        table=table,
        knee_per_s=float((table["request_throughput"] / table["mean_e2el_ms"]).idxmax()),
        slo_per_s=given[int(sum(kept)) - 1] if any(kept) else None,
        limit=limit_of(last),
        results=results,
        title=f"{short_name(last.deployment.model.name)} on {last.where}, {last.trace.name}",
    )


def _table(results: dict[float, SimulationResult]) -> pd.DataFrame:
    from apex_sim.frames import compare

    table = compare(results, names="rate_per_s").copy()
    for column in ("running", "waiting", "kv_usage"):
        table[column] = [_mean(result, column) for result in results.values()]
    table["max_num_seqs"] = [_seats(result) for result in results.values()]
    table["mbu"] = [_bandwidth_share(result) for result in results.values()]
    return table


def _mean(result: SimulationResult, column: str) -> float:
    """Mean over the time in which requests arrive and over replicas; a sample holds until the next one."""
    last_s = float(result.trace.arrival_s[-1])
    found = []
    for _, rows in result.timeline.groupby("replica"):
        rows = rows[rows["time_s"] <= last_s]
        lengths = np.diff(rows["time_s"].to_numpy(), append=last_s)
        found.append(float(np.dot(rows[column], lengths)) / last_s if last_s > 0 else 0.0)
    return float(np.mean(found)) if found else 0.0


def _seats(result: SimulationResult) -> int:
    return int(result.deployment.engine.max_num_seqs)


def limit_of(result: SimulationResult) -> Limit:
    """What keeps a run from serving faster: read from its samples, and from the physics of its mean step."""
    rows = result.timeline
    waiting = rows[rows["waiting"] > 0]
    seats = _seats(result)
    if len(waiting) and float((waiting["running"] >= seats).mean()) > 0.5:
        return Limit(resource="seats", why=f"all {seats} places of max_num_seqs are taken")
    full = float((waiting["kv_usage"] >= FULL).mean()) if len(waiting) else 0.0
    if full > 0.5 or result.summary["num_preemptions"] > 0:
        return Limit(resource="memory", why="the KV cache is full: a request waits for another's blocks")
    busy = float(result.utilisation)
    if busy >= BUSY or len(waiting) > 0.5 * len(rows):
        return Limit(resource="time", why=f"the devices are always busy, {bound_words(result)}")
    return Limit(resource="none", why="nothing is used up at these rates")


def bound_words(result: SimulationResult) -> str:
    """Where the time of the run's mean step goes, by what bounds it."""
    shares = bound_shares(result)
    words = {
        "compute": "arithmetic",
        "memory": "memory traffic",
        "link": "links",
        "latency": "launches",
        "host": "the host",
    }
    first = sorted(shares, key=lambda name: -shares[name])[:2]
    return " and ".join(f"{100 * shares[name]:.0f} % {words.get(name, name)}" for name in first)


def bound_shares(result: SimulationResult) -> dict[str, float]:
    """Share of the mean step's time by what bounds it."""
    from apex_sim.frames import explain_step

    frame = explain_step(result.deployment, **_mean_step(result))
    return {str(bound): float(share) for bound, share in frame.groupby("bound")["share"].sum().items()}


def _mean_step(result: SimulationResult) -> dict[str, int]:
    """Mean batch, mean context, and a step's part of the prompts."""
    trace, steps = result.trace, max(1, int(result.summary["engine_steps"]))
    prompts, outputs = float(trace.input_tokens.sum()), float(trace.output_tokens.sum())
    return {
        "decode_seqs": max(1, round(outputs / steps)),
        "context_tokens": round((prompts + outputs / 2) / len(trace)),
        "prefill_tokens": round(prompts / steps),
    }


def _bandwidth_share(result: SimulationResult) -> float:
    """Memory traffic of the mean step over what the devices could move in its time, while steps are in flight."""
    from apex_sim.frames import explain_step

    frame, model = explain_step(result.deployment, **_mean_step(result)), result.deployment.step_model
    could = float(frame["seconds"].sum()) * model.bandwidth_bytes_per_s * model.num_devices
    return float(result.utilisation * frame["hbm_bytes"].sum() / could) if could else 0.0
