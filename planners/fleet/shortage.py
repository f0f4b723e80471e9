"""When no fleet serves a workload: why, and what the types that come nearest lack."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from hardware_profiles.errors import UserError
from hardware_profiles.schema import Site, Terms
from planners.fleet.capacity import Capacity
from planners.fleet.grid import Histogram
from planners.fleet.instance import Candidate, Serving
from planners.fleet.problem import FleetProblem
from simulator.deployment import Deployment
from simulator.simulate import simulate_deployment
from workloads.slo import Slo
from workloads.trace import Trace


class Shortage(UserError):
    """No fleet serves the workload: a size has no type, or the instances to be had are too few."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Lack:
    """Why a type does not serve a size."""

    size: str
    type: str
    why: Literal["memory", "length", "slo", "share"]
    """The model does not fit; the request is longer than a server takes; one request alone misses a limit; or it meets them
    all, but too few of the requests of the lowest rate do."""
    words: str
    excess: float
    """Largest latency of one request on an idle instance as a multiple of its limit; infinite where none is served."""
    ttft_s: float | None = None
    """Of one request on an idle instance, as the next two."""
    tpot_s: float | None = None
    e2e_s: float | None = None


def refuse_unserved(fleet: FleetProblem) -> None:
    """Shortage that names the sizes no type serves."""
    if fleet.unserved:
        names = [fleet.sizes[b].name for b in fleet.unserved]
        some = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        share = sum(fleet.sizes[b].rate_per_s for b in fleet.unserved) / float(fleet.rates_per_s.sum())
        raise Shortage(
            f"no GPU type serves size {some} within the SLO ({100 * share:.3g} % of the requests): relax the SLO, add a "
            "type, or leave them out with --skip-unserved"
        )


def lacks_of(
    serving: Serving, candidates: Sequence[Candidate], grid: Histogram, capacity: Capacity, unserved: Sequence[int]
) -> list[Lack]:
    """For each size that no type serves, every type with what it lacks, the nearest first."""
    made = [_deployment(serving, candidate) for candidate in candidates]
    found = []
    for b in unserved:
        size = grid.sizes[b]
        assert size.input_tokens is not None and size.output_tokens is not None
        lengths = (round(size.input_tokens), round(size.output_tokens))
        mine = [
            _unfit(size.name, candidate.kind.name, deployment)
            if isinstance(deployment, str)
            else _lack(size.name, candidate.kind.name, deployment, lengths, capacity)
            for candidate, deployment in zip(candidates, made, strict=True)
        ]
        found += sorted(mine, key=lambda lack: lack.excess)
    return found


def _deployment(serving: Serving, candidate: Candidate) -> Deployment | str:
    """One instance, or why the model does not fit it."""
    plain = replace(candidate.cluster, terms=Terms(), site=Site())
    deployment = serving.deployment(replace(candidate, cluster=plain), 1)
    try:
        return deployment if deployment.memory.num_blocks > 0 else "no memory is left for a block of KV"
    except UserError as error:
        return str(error)


def _unfit(size: str, kind: str, why: str) -> Lack:
    return Lack(size=size, type=kind, why="memory", words=f"does not hold the model ({why})", excess=float("inf"))


def _lack(size: str, kind: str, deployment: Deployment, lengths: tuple[int, int], capacity: Capacity) -> Lack:
    """What one request takes on an idle instance, beside the limits."""
    longest = deployment.effective_max_model_len
    if sum(lengths) > longest:
        words = f"takes requests of at most {longest:,} tokens, these have {sum(lengths):,}"
        return Lack(size=size, type=kind, why="length", words=words, excess=float("inf"))
    one = Trace(
        arrival_s=np.zeros(1),
        input_tokens=np.array([lengths[0]], dtype=np.int64),
        output_tokens=np.array([lengths[1]], dtype=np.int64),
        name="probe",
    )
    summary = simulate_deployment(deployment, one, slo=capacity.slo, seed=capacity.seed).summary
    seconds = {name: _seconds(summary[f"median_{name}_ms"]) for name in ("ttft", "tpot", "e2el")}
    over = _over(seconds, capacity.slo)
    words = "with one request alone has " + " and ".join(
        f"{name.upper()} {_ms(value)} ms, {value / limit:.3g} times its limit of {1e3 * limit:.10g} ms"
        for name, value, limit in over
    )
    if not over:
        words = "meets the limits with one request alone, but not with the few that come at 0.001 requests/s"
    return Lack(
        size=size,
        type=kind,
        why="slo" if over else "share",
        words=words,
        excess=max((value / limit for _, value, limit in over), default=1.0),
        ttft_s=seconds["ttft"],
        tpot_s=seconds["tpot"],
        e2e_s=seconds["e2el"],
    )


def _ms(seconds: float) -> str:
    return f"{1e3 * seconds:.3g}" if seconds < 1 else f"{1e3 * seconds:,.0f}"


def _seconds(ms: float | None) -> float | None:
    return None if ms is None else ms / 1e3


def _over(seconds: dict[str, float | None], slo: Slo) -> list[tuple[str, float, float]]:
    """(name, latency, limit) of the limits that are missed."""
    limits = (("ttft", "ttft", slo.ttft_s), ("tpot", "tpot", slo.tpot_s), ("e2e", "e2el", slo.e2e_s))
    return [
        (name, value, limit)
        for name, key, limit in limits
        if limit is not None and (value := seconds[key]) is not None and value > limit
    ]
