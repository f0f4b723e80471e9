"""The objective of a candidate as good as physics allows: what has not been simulated and cannot win need not be."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hardware_profiles.schema import Cluster
from planners import reasons
from planners.limits import Bounds
from planners.outcome import OBJECTIVES, TIE, Entry, Objective
from planners.pool import Measured
from planners.space import Candidate
from simulator.accounting.rates import Rates
from simulator.physics.power import idle_w_of, power_fit_of
from workloads.trace import Trace


@dataclass(frozen=True, slots=True)
class Hopes:
    """What candidates may reach in one objective on one trace, by their bounds."""

    objective: Objective
    cluster: Cluster
    trace: Trace
    rates: Rates

    def can_beat(self, entry: Entry, best: Measured | None) -> bool:
        """By its bounds the entry may be better than ``best`` in the objective, or equal on fewer devices."""
        if best is None:
            return True
        name, larger, _ = OBJECTIVES[self.objective]
        known, hoped = best.metrics[name], self.at_best(entry)
        if not known:
            return True
        gain = hoped / known - 1 if larger else 1 - hoped / known
        return bool(gain > TIE or (gain > -TIE and entry.candidate.num_devices < best.metrics["num_gpus"]))

    @property
    def field(self) -> str:
        """Of the summary: what the objective is."""
        return OBJECTIVES[self.objective][0]

    def rank(self, entry: Entry) -> float:
        """The objective at best, smaller is better."""
        hoped = self.at_best(entry)
        return -hoped if OBJECTIVES[self.objective][1] else hoped

    def at_best(self, entry: Entry) -> float:
        """The objective as good as physics allows."""
        bounds, candidate = entry.bounds, entry.candidate
        assert bounds is not None
        if not bounds.served:
            return 0.0 if self.objective == "goodput" else math.inf
        if self.objective == "ttft":
            return 1e3 * bounds.p95_ttft_s
        if self.objective == "tpot":
            return 1e3 * bounds.p95_tpot_s
        if self.objective == "goodput":
            good = min(bounds.attainment, bounds.loaded_attainment) * len(self.trace)
            return good / bounds.duration_s
        return self._least(bounds, candidate)

    def _least(self, bounds: Bounds, candidate: Candidate) -> float:
        """Least dollars, joules, kWh or emissions per token or request: all devices are held for the least duration, those
        of one stage at the power of a device that waits."""
        device, rates = self.cluster.device, self.rates
        least_w = min(idle_w_of(device), power_fit_of(device).base_w)
        device_s = candidate.num_devices * bounds.duration_s
        joules = least_w * candidate.num_devices / candidate.pp * bounds.duration_s
        if self.objective == "energy":
            return joules / bounds.output_tokens
        if self.objective == "kwh":
            return 1e6 * rates.facility_kwh(device_s, joules) / bounds.output_tokens
        if self.objective == "carbon":
            return 1e6 * rates.gco2e(device_s, joules) / bounds.output_tokens
        usd = rates.usd(device_s, joules)
        assert usd is not None
        return usd / bounds.served if self.objective == "request-cost" else 1e6 * usd / bounds.output_tokens

    def no_better(self, entry: Entry, best: Measured) -> str:
        """Why an entry is not simulated: at its best it is no better than ``best``."""
        name, _, words = OBJECTIVES[self.objective]
        return (
            f"not simulated: at best {reasons.figure(self.at_best(entry))} {words} by its bounds, "
            f"another layout has {reasons.figure(best.metrics[name])} on {best.metrics['num_gpus']} GPU"
            + ("s" if best.metrics["num_gpus"] > 1 else "")
        )
