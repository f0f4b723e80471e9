"""What a simulation returns: a table of requests, a summary in vLLM's own field names, a time series."""

from __future__ import annotations

import math
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from simulator.accounting.account import Usage, account
from simulator.accounting.rates import Rates
from simulator.deployment import Deployment
from simulator.elastic.figures import elastic_figures, held_seconds
from simulator.elastic.run import ElasticRecord
from simulator.physics.power import idle_w_of
from simulator.physics.shape import StepShape
from simulator.recorder import COMPLETED, REJECTED
from simulator.run import RunRecord
from simulator.speculative.summary import speculative_summary
from simulator.uncertainty import FAMILIES, SHARE, Interval, engine_family, interval, load_class
from workloads.slo import Slo
from workloads.trace import Trace

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Floats = npt.NDArray[np.float64]

STATUS_NAMES = {0: "unfinished", COMPLETED: "completed", REJECTED: "rejected"}
PERCENTILES = (50, 90, 95, 99)


def weighted_percentile(values: Floats, counts: npt.NDArray[np.int64], percents: tuple[float, ...]) -> list[float]:
    """Percentiles of a sample in which ``values[i]`` occurs ``counts[i]`` times: the smallest value that at least the
    given share of the sample does not exceed."""
    if not len(values):
        return [float("nan")] * len(percents)
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(counts[order])
    ranks = [max(1, math.ceil(Fraction(p) * int(cumulative[-1]) / 100)) for p in percents]
    return [float(values[order[np.searchsorted(cumulative, rank)]]) for rank in ranks]


@dataclass(frozen=True, slots=True)
class Spread:
    """Mean, standard deviation and percentiles of one latency [s]."""

    mean: float
    std: float
    percentiles: tuple[float, ...]

    @classmethod
    def of(cls, values: Floats) -> Spread:
        """Of a sample; NaN when it is empty."""
        if not len(values):
            nan = float("nan")
            return cls(nan, nan, (nan,) * len(PERCENTILES))
        return cls(float(values.mean()), float(values.std()), tuple(np.percentile(values, PERCENTILES).tolist()))

    @classmethod
    def of_weighted(cls, values: Floats, counts: npt.NDArray[np.int64]) -> Spread:
        """Of a sample given with multiplicities."""
        total = counts.sum()
        if not total:
            return cls.of(np.zeros(0))
        mean = float((values * counts).sum() / total)
        std = float(np.sqrt(((values - mean) ** 2 * counts).sum() / total))
        return cls(mean, std, tuple(weighted_percentile(values, counts, PERCENTILES)))

    def to_ms(self, name: str) -> dict[str, float]:
        """Fields as ``vllm bench serve`` names them: mean_ttft_ms, median_ttft_ms, std_ttft_ms, p90_ttft_ms ..."""
        fields = {f"mean_{name}_ms": self.mean, f"median_{name}_ms": self.percentiles[0], f"std_{name}_ms": self.std}
        for percent, value in zip(PERCENTILES[1:], self.percentiles[1:], strict=True):
            fields[f"p{percent}_{name}_ms"] = value
        return {key: value * 1e3 for key, value in fields.items()}


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

    @property
    def num_devices(self) -> int:
        """Devices that serve."""
        return self.deployment.plan.num_devices

    @property
    def where(self) -> str:
        """What serves, for titles."""
        return self.deployment.cluster.name

    # -- columns ---------------------------------------------------------------------------------------------------

    @cached_property
    def _columns(self) -> dict[str, npt.NDArray[Any]]:
        response_s = self.deployment.engine.response_s
        return self._request_columns(response_s, response_s)

    def _request_columns(self, first_s: float, last_s: float) -> dict[str, npt.NDArray[Any]]:
        """``first_s``, ``last_s``: from the engine to the client, of first and last tokens [s]."""
        table = self.record.table
        first = np.frombuffer(table.first_token_s) + first_s
        finish = np.frombuffer(table.finish_s) + last_s
        arrival = np.frombuffer(table.arrival_s)
        outputs = np.frombuffer(table.output_tokens, dtype=np.int64)
        with np.errstate(invalid="ignore", divide="ignore"):
            tpot = np.where(outputs > 1, (finish - first) / (outputs - 1), np.nan)
        return {
            "replica": np.frombuffer(table.replica, dtype=np.int32),
            "status": np.frombuffer(table.status, dtype=np.int8),
            "arrival_s": arrival,
            "scheduled_s": np.frombuffer(table.scheduled_s),
            "first_token_s": first,
            "finish_s": finish,
            "input_tokens": self.trace.input_tokens,
            "output_tokens": outputs,
            "cached_tokens": np.frombuffer(table.cached_tokens, dtype=np.int64),
            "num_preemptions": np.frombuffer(table.preemptions, dtype=np.int32),
            "ttft_s": first - arrival,
            "tpot_s": tpot,
            "e2e_s": finish - arrival,
        }

    def column(self, name: str) -> npt.NDArray[Any]:
        """One column of the request table as an array, in trace order."""
        return self._columns[name]

    @cached_property
    def requests(self) -> pd.DataFrame:
        """One row per request: times and latencies in seconds, NaN where not finished; see docs/mechanics.md."""
        import pandas as pd

        frame = pd.DataFrame(self._columns)
        frame["status"] = frame["status"].map(STATUS_NAMES)
        frame.index.name = "request"
        return frame

    @cached_property
    def timeline(self) -> pd.DataFrame:
        """Samples at step boundaries: replica, time_s, running, waiting, kv_usage (share of blocks), power_w (mean since
        the sample before, of the replica's devices, idle power included)."""
        import pandas as pd

        blocks = self.deployment.memory.num_blocks
        frames = []
        for index, replica in enumerate(self.record.replicas):
            rows = np.frombuffer(replica.timeline.rows).reshape(-1, replica.timeline.COLUMNS)
            elapsed = np.diff(rows[:, 0], prepend=0.0)
            idle_s = np.diff(np.maximum.accumulate(np.maximum(0.0, rows[:, 0] - rows[:, 5])), prepend=0.0)
            joules = np.diff(rows[:, 4], prepend=0.0) + self.replica_idle_w * idle_s
            frames.append(
                pd.DataFrame(
                    {
                        "replica": index,
                        "time_s": rows[:, 0],
                        "running": rows[:, 1].astype(np.int64),
                        "waiting": rows[:, 2].astype(np.int64),
                        "kv_usage": rows[:, 3] / blocks,
                        "power_w": np.divide(joules, elapsed, out=np.zeros(len(rows)), where=elapsed > 0),
                    }
                )
            )
        return pd.concat(frames, ignore_index=True)

    # -- figures ---------------------------------------------------------------------------------------------------

    def plot_latency(self) -> Figure:
        """Cumulative distributions of TTFT, TPOT and E2E."""
        from simulator.figures import latency_figure

        return latency_figure(self)

    def plot_timeline(self) -> Figure:
        """Running and waiting requests, KV blocks and power over time."""
        from simulator.figures import timeline_figure

        return timeline_figure(self)

    # -- aggregates ------------------------------------------------------------------------------------------------

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

    @cached_property
    def _gaps(self) -> Spread:
        parts = [replica.gaps.weighted() for replica in self.record.replicas]
        return Spread.of_weighted(np.concatenate([p[0] for p in parts]), np.concatenate([p[1] for p in parts]))

    @cached_property
    def usage(self) -> Usage:
        """Devices, time, joules by phase and tokens of the run, as accounting takes them."""
        counters = [replica.counters for replica in self.record.replicas]
        busy = sum(c.busy_ticks for c in counters)
        held_s = self.held_s
        idle_s = sum(max(0.0, held - self._busy_s(c.busy_ticks)) for held, c in zip(held_s, counters, strict=True))
        prompts = [replica.prompts.totals() for replica in self.record.replicas]
        prefill_j = sum(joules for _, joules in prompts)
        return Usage(
            devices=self.deployment.plan.num_devices,
            duration_s=self.duration_s,
            prefill_j=prefill_j,
            decode_j=sum(c.joules for c in counters) - prefill_j,
            idle_j=self.replica_idle_w * idle_s,
            prefill_share=sum(ticks for ticks, _ in prompts) / busy if busy else 0.0,
            input_tokens=int(self.column("input_tokens")[self.completed].sum()),
            output_tokens=int(self.column("output_tokens").sum()),
            requests=int(self.completed.sum()),
            held_device_s=sum(held_s) * self.deployment.plan.devices_per_replica
            if isinstance(self.record, ElasticRecord)
            else None,
        )

    @cached_property
    def held_s(self) -> list[float]:
        """Time for which the devices of each replica are held [s]: all of it, unless replicas come and go."""
        if not isinstance(self.record, ElasticRecord) or not self.duration_s:
            return [self.duration_s] * len(self.record.replicas)
        begin = float(np.nanmin(self.column("arrival_s")))
        return held_seconds(self.record.history, begin, begin + self.duration_s)

    @cached_property
    def energy_j(self) -> float:
        """Joules of all devices from the first arrival to the end: steps, and idle power in between."""
        return self.usage.device_j

    @property
    def replica_idle_w(self) -> float:
        """Idle power of a replica's devices [W]; without a figure in the profile, the default share of their TDP."""
        return idle_w_of(self.deployment.cluster.device) * self.deployment.plan.devices_per_replica

    @staticmethod
    def _busy_s(ticks: int) -> float:
        from simulator import clock

        return ticks / clock.TICKS_PER_S

    @cached_property
    def utilisation(self) -> float:
        """Share of the time in which a replica has a step in flight, mean over replicas."""
        if not self.duration_s:
            return 0.0
        busy = [self._busy_s(replica.counters.busy_ticks) for replica in self.record.replicas]
        return float(np.mean(busy)) / self.duration_s

    @cached_property
    def mfu(self) -> float:
        """Model FLOP utilisation: FLOP executed over dense peak, all devices, idle time included.

        The LM head counts once per output token; rows sampled again after a preemption are left out.
        """
        totals = [replica.counters for replica in self.record.replicas]
        model = self.deployment.step_model
        windowed = model.window is not None
        shape = StepShape(
            decode_seqs=sum(c.decode_tokens for c in totals),
            context_tokens=sum(c.decode_context for c in totals),
            window_tokens=sum(c.decode_window if windowed else c.decode_context for c in totals),
            prefill_tokens=sum(c.prefill_tokens for c in totals),
            prefill_pairs=sum(c.prefill_pairs for c in totals),
            window_pairs=sum(c.window_pairs for c in totals),
            prefill_context=sum(c.prefill_context for c in totals),
            logits_rows=sum(c.decode_tokens for c in totals) + self._prompts_sampled,
        )
        return model.flop(shape) / self.peak_flop if self.peak_flop else 0.0

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
        engine, done = self.deployment.engine, self.completed
        front_s = engine.request_fixed_s + engine.request_token_s * self.column("input_tokens")
        queue = (self.column("scheduled_s") - self.column("arrival_s") - front_s)[done]
        tpot = self.column("tpot_s")[done]
        if not len(queue) or np.isnan(tpot).all():
            return "unsaturated"
        return load_class(
            closed=self.trace.concurrency is not None or self.trace.duration_s == 0.0,
            queue_mean_s=float(queue.mean()),
            queue_p90_s=float(np.quantile(queue, 0.9)),
            tpot_mean_s=float(np.nanmean(tpot)),
            e2e_mean_s=float(self.column("e2e_s")[done].mean()),
        )

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """Family of metrics (ttft, tpot, itl, e2e, throughput, energy) -> factors on its predictions between which 80 % of
        measured runs of this kind lay. Families without such runs are absent."""
        if self.deployment.speculative is not None:
            return {}  # no measured run of the validation drafts tokens
        if self.deployment.cluster.device.dataflow is not None:
            return {}  # nor runs on a spatial design
        step_model = self.deployment.step_model
        labels = {
            "engine": engine_family(self.deployment.engine.name),
            "provenance": step_model.provenance,
            "experts": "moe" if self.deployment.model.is_moe else "dense",
            "load": self.load,
        }
        found = {family: interval(family, labels) for family in FAMILIES}
        return {family: known for family, known in found.items() if known is not None}

    def _ranges(self) -> dict[str, Any]:
        """The intervals as the summary has them: factors, and the ends around the mean latencies (None: unknown)."""
        latencies = self._latencies()
        ends: dict[str, float | None] = {}
        for family, name in (("ttft", "ttft"), ("tpot", "tpot"), ("itl", "itl"), ("e2e", "e2el")):
            known = self.intervals.get(family)
            pair = (None, None) if known is None else known.around(latencies[f"mean_{name}_ms"])
            ends[f"mean_{name}_ms_low"], ends[f"mean_{name}_ms_high"] = pair
        return {
            "interval_share": SHARE,
            "intervals": {
                family: {"low": i.low, "high": i.high, "figures": i.runs, "kind": i.kind_text}
                for family, i in self.intervals.items()
            },
            **ends,
        }

    @cached_property
    def summary(self) -> dict[str, Any]:
        """Scalars of the run. Names, units and definitions of ``vllm bench serve`` where it has the metric; TPOT leaves
        out requests of one output token, ITL is the gap between tokens (so their means differ)."""
        elastic = elastic_figures(self.record.history, self.held_s) if isinstance(self.record, ElasticRecord) else {}
        return {
            **self._volume(),
            **self._latencies(),
            **self._engine_state(),
            **elastic,
            **self._economics(),
            **self._ranges(),
        }

    def _volume(self) -> dict[str, Any]:
        done, duration = self.completed, self.duration_s
        inputs = int(self.column("input_tokens")[done].sum())
        outputs = int(self.column("output_tokens").sum())
        count = int(done.sum())

        def rate(amount: float) -> float:
            return amount / duration if duration else 0.0

        return {
            "backend": "apex-sim",
            "model_id": self.deployment.model.name,
            "num_prompts": len(self.trace),
            "request_rate": rate(count) if self.trace.concurrency else self.trace.request_rate_per_s,
            "max_concurrency": self.trace.concurrency,
            "duration": duration,
            "completed": count,
            "failed": len(self.trace) - count,
            "truncated": int((self.column("output_tokens") < self.trace.output_tokens)[done].sum()),
            "total_input_tokens": inputs,
            "total_output_tokens": outputs,
            "request_throughput": rate(count),
            "request_goodput": None if self.slo is None else rate(int(self.good.sum())),
            "output_throughput": rate(outputs),
            "total_token_throughput": rate(inputs + outputs),
            "output_throughput_per_gpu": rate(outputs) / self.num_devices,
            "max_concurrent_requests": self.max_concurrent_requests,
            "slo": None if self.slo is None else str(self.slo),
            "slo_attainment": self.attainment if self.slo is not None else None,
        }

    def _latencies(self) -> dict[str, float]:
        done = self.completed
        tpot = self.column("tpot_s")[done]
        return {
            **Spread.of(self.column("ttft_s")[done]).to_ms("ttft"),
            **Spread.of(tpot[~np.isnan(tpot)]).to_ms("tpot"),
            **self._gaps.to_ms("itl"),
            **Spread.of(self.column("e2e_s")[done]).to_ms("e2el"),
            **Spread.of((self.column("scheduled_s") - self.column("arrival_s"))[done]).to_ms("queue"),
        }

    def _engine_state(self) -> dict[str, Any]:
        counters = [replica.counters for replica in self.record.replicas]
        blocks = self.deployment.memory.num_blocks
        done = self.completed
        inputs = int(self.column("input_tokens")[done].sum())
        return {
            "num_gpu_blocks": blocks,
            "peak_kv_usage": max(c.peak_blocks for c in counters) / blocks,
            "peak_running": max(c.peak_running for c in counters),
            "peak_waiting": max(c.peak_waiting for c in counters),
            "num_preemptions": sum(c.preemptions for c in counters),
            "prefix_hit_rate": float(self.column("cached_tokens")[done].sum()) / inputs if inputs else 0.0,
            "replica_prefix_hit_rates": self.replica_prefix_hit_rates,
            "kv_tiers": self.kv_tiers,
            "engine_steps": sum(c.steps for c in counters),
            "utilisation": self.utilisation,
            "mfu": self.mfu,
            "itl_exact": all(replica.gaps.is_exact for replica in self.record.replicas),
            **speculative_summary(self.deployment.speculative, [r.speculative for r in self.record.replicas]),
        }

    @cached_property
    def kv_tiers(self) -> list[dict[str, Any]]:
        """Memories below the devices' for cached prefixes, nearest first: hits, bytes moved, time of their links."""
        offload, inputs = self.deployment.kv_offload, int(self.column("input_tokens")[self.completed].sum())
        memory, devices = self.deployment.memory, self.deployment.plan.devices_per_replica
        block_bytes = memory.kv_bytes_per_token * memory.block_size * devices
        names = [("host", offload.host_bytes), (offload.disk_device, offload.disk_bytes)]
        rows = zip(*(replica.tiers for replica in self.record.replicas), strict=True)
        return [
            {
                "tier": name,
                "hit_rate": sum(c.hit_tokens for c in counts) / inputs if inputs else 0.0,
                "stored_bytes": sum(c.stored for c in counts) * block_bytes,
                "loaded_bytes": sum(c.loaded for c in counts) * block_bytes,
                "dropped_bytes": sum(c.dropped for c in counts) * block_bytes,
                "load_s": sum(c.load_s for c in counts),
            }
            for (name, _), counts in zip([n for n in names if n[1]], rows, strict=False)
        ]

    @cached_property
    def replica_prefix_hit_rates(self) -> list[float]:
        """Cached prompt tokens over prompt tokens, replica by replica; 0 where nothing was sent."""
        return self._hit_rates("replica")

    def _hit_rates(self, replica_column: str) -> list[float]:
        """The same of the replicas that a column of the table of requests names."""
        replicas, done = len(self.record.replicas), self.completed
        where = self.column(replica_column)[done]
        cached = np.bincount(where, weights=self.column("cached_tokens")[done], minlength=replicas)
        inputs = np.bincount(where, weights=self.column("input_tokens")[done], minlength=replicas)
        return [float(c / i) if i else 0.0 for c, i in zip(cached, inputs, strict=True)]

    def _economics(self) -> dict[str, Any]:
        return {
            "num_gpus": self.deployment.plan.num_devices,
            "pricing": self.deployment.cluster.terms.pricing,
            **account(self.usage, Rates.of(self.deployment.cluster)),
            "provenance": self.deployment.step_model.provenance,
            "weaker_parts": list(self.deployment.step_model.weaker_parts),
        }
