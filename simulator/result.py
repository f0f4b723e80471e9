"""What a simulation returns: a table of requests, a summary in vLLM's own field names, a time series."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from simulator import result_summary
from simulator.accounting.account import Usage
from simulator.deployment import Deployment
from simulator.elastic.figures import elastic_figures
from simulator.elastic.history import ElasticRecord
from simulator.physics.power import idle_w_of
from simulator.recorder import COMPLETED
from simulator.result_columns import STATUS_NAMES, request_columns, request_frame, timeline_frame
from simulator.result_sureness import intervals_of, load_of, ranges
from simulator.result_usage import flop_of, held_s_of, usage_of, utilisation_of
from simulator.run import RunRecord
from simulator.spread import PERCENTILES, Spread, weighted_percentile
from simulator.uncertainty import Interval
from workloads.slo import Slo
from workloads.trace import Trace

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["PERCENTILES", "STATUS_NAMES", "SimulationResult", "Spread", "weighted_percentile"]


def _ms(value: float, digits: int) -> str:
    return "-" if np.isnan(value) else f"{value:,.{digits}f} ms"


@dataclass(eq=False)
class SimulationResult:
    """One simulated run. Latencies are the client's (queueing, tokenisation and response included)."""

    deployment: Deployment
    trace: Trace
    record: RunRecord
    slo: Slo | None = None
    seed: int = 0

    def __repr__(self) -> str:
        plan, s = self.deployment.plan, self.summary
        return (
            f"<SimulationResult: {self.deployment.model.name} on {plan.num_devices} of {self.deployment.cluster.name}, "
            f"{s['completed']:,} of {s['num_prompts']:,} requests, p95 TTFT {_ms(s['p95_ttft_ms'], 0)}, "
            f"p95 TPOT {_ms(s['p95_tpot_ms'], 1)}>"
        )

    def _repr_html_(self) -> str:
        from simulator.result_html import result_html

        return result_html(self)

    @property
    def num_devices(self) -> int:
        """Devices that serve."""
        return self.deployment.plan.num_devices

    @property
    def where(self) -> str:
        """What serves, for titles."""
        return self.deployment.cluster.name

    @property
    def label(self) -> str:
        """Names of the models, where there are several."""
        return ""

    # -- columns ---------------------------------------------------------------------------------------------------

    @cached_property
    def _columns(self) -> dict[str, npt.NDArray[Any]]:
        response_s = self.deployment.engine.response_s
        return request_columns(self.record.table, self.trace, response_s, response_s)

    def column(self, name: str) -> npt.NDArray[Any]:
        """One column of the request table as an array, in trace order."""
        return self._columns[name]

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row per request: times and latencies in seconds, NaN where not finished; see docs/mechanics.md."""
        return request_frame(self._columns)

    @cached_property
    def timeline(self) -> pd.DataFrame:
        """Samples at step boundaries: replica, time_s, running, waiting, kv_usage (share of blocks), power_w (mean since
        the sample before, of the replica's devices, idle power included)."""
        return timeline_frame(self.record.replicas, self.deployment.memory.num_blocks, self.replica_idle_w)

    # -- figures ---------------------------------------------------------------------------------------------------

    def plot_latency(self) -> Figure:
        """Cumulative distributions of TTFT, TPOT and E2E."""
        from simulator.figures import latency_figure

        return latency_figure(self)

    def plot_timeline(self) -> Figure:
        """Running and waiting requests, KV blocks and power over time."""
        from simulator.figures import timeline_figure

        return timeline_figure(self)

    # -- requests --------------------------------------------------------------------------------------------------

    @property
    def completed(self) -> npt.NDArray[np.bool_]:
        """bool[n]: requests that finished."""
        done: npt.NDArray[np.bool_] = self.column("status") == COMPLETED
        return done

    @cached_property
    def duration_s(self) -> float:
        """From the first arrival to the last token [s]."""
        done = self.completed
        if not done.any():
            return 0.0
        return float(self.column("finish_s")[done].max() - np.nanmin(self.column("arrival_s")))

    @cached_property
    def good(self) -> npt.NDArray[np.bool_]:
        """bool[n]: requests that meet the SLO (all that completed, when there is none)."""
        if self.slo is None:
            return self.completed
        return self.slo.good(self.column("ttft_s"), self.column("tpot_s"), self.column("e2e_s"))

    @cached_property
    def max_concurrent_requests(self) -> int:
        """Most requests in flight at once as clients see it, from arrival to last token; at equal times, ends come first."""
        done = self.completed
        times = np.concatenate((self.column("finish_s")[done], self.column("arrival_s")[done]))
        steps = np.repeat((-1, 1), int(done.sum()))
        return int(np.cumsum(steps[np.lexsort((steps, times))]).max(initial=0))

    @property
    def attainment(self) -> float:
        """Share of all requests that meet the SLO; rejected ones count as missing it."""
        return float(self.good.mean())

    # -- devices ---------------------------------------------------------------------------------------------------

    @cached_property
    def usage(self) -> Usage:
        """Devices, time, joules by phase and tokens of the run, as accounting takes them."""
        return usage_of(self)

    @cached_property
    def held_s(self) -> list[float]:
        """Time for which the devices of each replica are held [s]: all of it, unless replicas come and go."""
        return held_s_of(self)

    @cached_property
    def energy_j(self) -> float:
        """Joules of all devices from the first arrival to the end: steps, and idle power in between."""
        return self.usage.device_j

    @property
    def replica_idle_w(self) -> float:
        """Idle power of a replica's devices [W]; without a figure in the profile, the default share of their TDP."""
        return idle_w_of(self.deployment.cluster.device) * self.deployment.plan.devices_per_replica

    @cached_property
    def utilisation(self) -> float:
        """Share of the time in which a replica has a step in flight, mean over replicas."""
        return utilisation_of(self)

    @cached_property
    def mfu(self) -> float:
        """Model FLOP utilisation: FLOP executed over dense peak, all devices, idle time included.

        The LM head counts once per output token; rows sampled again after a preemption are left out.
        """
        return flop_of(self, self._prompts_sampled) / self.peak_flop if self.peak_flop else 0.0

    @property
    def _prompts_sampled(self) -> int:
        """Prompts whose first token was sampled here."""
        return int(self.completed.sum())

    @property
    def peak_flop(self) -> float:
        """What all devices could compute in the run's time [FLOP]."""
        return self.deployment.step_model.peak_flop_per_s * self.num_devices * self.duration_s

    # -- how sure --------------------------------------------------------------------------------------------------

    @cached_property
    def load(self) -> str:
        """closed loop, unsaturated, saturated or overloaded: see :func:`simulator.uncertainty.load_class`."""
        return load_of(self)

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Family of metrics (ttft, tpot, itl, e2e, throughput, energy) -> factors on its predictions between which 80 % of
        measured runs of this kind lay. Families without such runs are absent."""
        return intervals_of(self)

    # -- summary ---------------------------------------------------------------------------------------------------

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Scalars of the run. Names, units and definitions of ``vllm bench serve`` where it has the metric; TPOT leaves
        out requests of one output token, ITL is the gap between tokens (so their means differ)."""
        elastic = elastic_figures(self.record.history, self.held_s) if isinstance(self.record, ElasticRecord) else {}
        latencies = result_summary.latencies(self)
        return {
            **result_summary.volume(self),
            **latencies,
            **self._engine_state(),
            **elastic,
            **self._economics(),
            **ranges(self.intervals, latencies),
        }

    def _engine_state(self) -> dict[str, Any]:
        return result_summary.engine_state(self)

    def _economics(self) -> dict[str, Any]:
        return result_summary.economics(self)

    @cached_property
    def kv_tiers(self) -> list[dict[str, Any]]:
        """Memories below the devices' for cached prefixes, nearest first: hits, bytes moved, time of their links."""
        return result_summary.kv_tiers(self)

    @cached_property
    def replica_prefix_hit_rates(self) -> list[float]:
        """Cached prompt tokens over prompt tokens, replica by replica; 0 where nothing was sent."""
        return result_summary.hit_rates(self, "replica")
