"""What a run of two pools returns: the clients' view as of any run, and a view of each pool."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from simulator import clock
from simulator.accounting.account import Usage
from simulator.accounting.pools import account_pools, sum_usage
from simulator.accounting.rates import Rates
from simulator.deployment import Deployment
from simulator.disaggregated import DisaggregatedDeployment
from simulator.elastic.figures import elastic_figures
from simulator.elastic.history import ElasticRecord
from simulator.elastic.pools import ElasticPoolsRecord
from simulator.expert_hits import expert_summary
from simulator.physics.sums import in_order
from simulator.result import SimulationResult
from simulator.result_columns import request_columns
from simulator.result_summary import hit_rates
from simulator.run import RunRecord
from simulator.run_disaggregated import DisaggregatedRecord
from simulator.uncertainty import Interval
from workloads.slo import Slo
from workloads.trace import Trace

if TYPE_CHECKING:
    import pandas as pd

WEAKNESS = ("measured", "transferred", "datasheet")
"""Provenances, best first: a run is as sure as its weaker pool."""


class PoolResult(SimulationResult):
    """One pool's replicas of a run: state, energy and time series. Its latencies are those of the whole run."""

    name: str = ""
    whole: DisaggregatedResult

    def __repr__(self) -> str:
        return (
            f"<PoolResult: {self.name} pool, {self.num_devices} of {self.where}; latencies are those of the whole run>"
        )

    @property
    def _columns(self) -> dict[str, npt.NDArray[Any]]:
        return self.whole._columns

    @property
    def _prompts_sampled(self) -> int:
        return int(self.completed.sum()) if self.name == "prefill" else 0

    @cached_property
    def replica_prefix_hit_rates(self) -> list[float]:
        """Of prefill replicas; KV that decode replicas have was sent to them."""
        if self.name == "prefill":
            return hit_rates(self, "prefill_replica")
        return [0.0] * len(self.record.replicas)

    def state(self) -> dict[str, Any]:
        """What the summary says of a pool."""
        usage = self.usage
        elastic: dict[str, Any] = {}
        if isinstance(self.record, ElasticRecord):
            busy_s = sum(r.counters.busy_ticks for r in self.record.replicas) / clock.TICKS_PER_S
            elastic = elastic_figures(self.record.history, self.held_s)
            elastic["held_utilisation"] = busy_s / in_order(self.held_s) if in_order(self.held_s) else 0.0
        account = account_pools([(usage, Rates.of(self.deployment.cluster))])
        return {
            "cluster": self.deployment.cluster.name,
            "num_gpus": self.num_devices,
            "num_replicas": self.deployment.plan.dp,
            "tp": self.deployment.plan.tp,
            "pp": self.deployment.plan.pp,
            **self._engine_state(),
            **({"prefix_hit_rate": 0.0} if self.name == "decode" else {}),
            "energy_j": account["energy_j"],
            "average_power_w": account["average_power_w"],
            "usd_per_hour": account["usd_per_hour"],
            **elastic,
        }


class DisaggregatedResult(SimulationResult):
    """One simulated run of two pools. Latencies are the client's: the first token comes from the prefill replica."""

    deployment: DisaggregatedDeployment  # type: ignore[assignment]
    record: DisaggregatedRecord

    def __init__(
        self,
        deployment: DisaggregatedDeployment,
        trace: Trace,
        record: DisaggregatedRecord,
        slo: Slo | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__(deployment, trace, record, slo, seed)  # type: ignore[arg-type]

    def __repr__(self) -> str:
        s = self.summary
        return (
            f"<DisaggregatedResult: {self.deployment.model.name} on {self.where}, {s['completed']:,} of "
            f"{s['num_prompts']:,} requests>"
        )

    @property
    def num_devices(self) -> int:
        """Devices of both pools."""
        return self.deployment.num_devices

    @property
    def where(self) -> str:
        """What serves, for titles."""
        return " + ".join(f"{p.plan.num_devices} of {p.cluster.name}" for _, p in self.deployment.pools)

    @cached_property
    def pools(self) -> dict[str, PoolResult]:
        """The run as each pool had it: ``prefill`` and ``decode``."""
        cut = self.record.num_prefill_replicas
        return {
            "prefill": self._view("prefill", self.deployment.prefill, slice(cut)),
            "decode": self._view("decode", self.deployment.decode, slice(cut, None)),
        }

    def _view(self, name: str, deployment: Deployment, part: slice) -> PoolResult:
        record = RunRecord(table=self.record.table, replicas=self.record.replicas[part], end_s=self.record.end_s)
        if isinstance(self.record, ElasticPoolsRecord):
            history = self.record.histories[0 if name == "prefill" else 1]
            record = ElasticRecord(table=record.table, replicas=record.replicas, end_s=record.end_s, history=history)
        view = PoolResult(deployment, self.trace, record, self.slo, self.seed)
        view.name, view.whole = name, self
        return view

    @cached_property
    def _columns(self) -> dict[str, npt.NDArray[Any]]:
        """As of any run, and where KV came from and when it moved."""
        transfers = self.record.transfers
        prefill, decode = (pool.engine.response_s for _, pool in self.deployment.pools)
        columns = request_columns(self.record.table, self.trace, prefill, decode)
        return {
            **columns,
            "prefill_replica": np.frombuffer(transfers.prefill_replica, dtype=np.int32),
            "prompt_end_s": np.frombuffer(transfers.prompt_end_s),
            "kv_begin_s": np.frombuffer(transfers.begin_s),
            "kv_end_s": np.frombuffer(transfers.end_s),
            "kv_bytes": np.frombuffer(transfers.nbytes),
        }

    @cached_property
    def timeline(self) -> pd.DataFrame:
        """Samples of both pools, with the column ``pool``; replicas are numbered through, prefill first."""
        import pandas as pd

        frames = []
        for name, view in self.pools.items():
            frame = view.timeline.assign(pool=name)
            frame["replica"] += 0 if name == "prefill" else self.record.num_prefill_replicas
            frames.append(frame)
        return pd.concat(frames, ignore_index=True)

    @cached_property
    def usage(self) -> Usage:
        """Of both pools."""
        return sum_usage([view.usage for view in self.pools.values()])

    @property
    def replica_idle_w(self) -> float:
        """Of a prefill replica [W]; those of decode replicas may differ (``pools``)."""
        return self.pools["prefill"].replica_idle_w

    @property
    def peak_flop(self) -> float:
        """What all devices could compute in the run's time [FLOP]."""
        return in_order(view.peak_flop for view in self.pools.values())

    @cached_property
    def mfu(self) -> float:
        """Of both pools together."""
        done = in_order(view.mfu * view.peak_flop for view in self.pools.values())
        return done / self.peak_flop if self.peak_flop else 0.0

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """None: no measured run of two pools is at hand."""
        return {}

    @cached_property
    def summary(self) -> dict[str, Any]:
        """As of any run; ``pools`` has each pool's state, ``kv_transfer`` what moved between them."""
        pools = {name: view.state() for name, view in self.pools.items()}
        return {**super().summary, "pools": pools, "kv_transfer": self.kv_transfer, **self._held(pools)}

    def _held(self, pools: dict[str, dict[str, Any]]) -> dict[str, Any]:
        """Where replicas come and go: device-hours of both pools, failures, and requests sent again."""
        if not isinstance(self.record, ElasticPoolsRecord):
            return {}
        hours = (pools[n]["replica_hours"] * p.plan.devices_per_replica for n, p in self.deployment.pools)
        sums = {name: sum(pool[name] for pool in pools.values()) for name in ("replica_failures", "requests_retried")}
        return {"gpu_hours": in_order(hours), **sums}

    @cached_property
    def kv_transfer(self) -> dict[str, Any]:
        """Requests that moved, bytes, and how long KV waited for a place and was on its way [ms]; the time of a transfer is
        from blocks set aside to the last byte."""
        wait_s = self.column("kv_begin_s") - self.column("prompt_end_s")
        move_s = self.column("kv_end_s") - self.column("kv_begin_s")
        moved = ~np.isnan(move_s)
        wait_s, move_s = wait_s[moved], move_s[moved]
        link = self.deployment.kv_link()
        exposed = float(np.frombuffer(self.record.transfers.exposed_bytes).sum())
        return {
            "link": link.name,
            "overlap": self.deployment.overlap,
            "requests": int(moved.sum()),
            "bytes": float(self.column("kv_bytes").sum()),
            "bytes_after_prompt": exposed,
            "bytes_per_token": self.deployment.kv_token_bytes,
            "mean_wait_ms": 1e3 * float(wait_s.mean()) if len(wait_s) else 0.0,
            "p95_wait_ms": 1e3 * float(np.percentile(wait_s, 95)) if len(wait_s) else 0.0,
            "mean_ms": 1e3 * float(move_s.mean()) if len(move_s) else 0.0,
            "p95_ms": 1e3 * float(np.percentile(move_s, 95)) if len(move_s) else 0.0,
        }

    def _engine_state(self) -> dict[str, Any]:
        views = self.pools.values()
        states = [view._engine_state() for view in views]
        blocks = [view.deployment.memory.num_blocks for view in views]
        fullest = ("peak_kv_usage", "peak_running", "peak_waiting")
        return {
            **states[1],
            "num_gpu_blocks": min(blocks),
            **{name: max(state[name] for state in states) for name in fullest},
            **{name: sum(state[name] for state in states) for name in ("num_preemptions", "engine_steps")},
            "replica_prefix_hit_rates": [rate for state in states for rate in state["replica_prefix_hit_rates"]],
            "kv_tiers": states[0]["kv_tiers"],
            "utilisation": self.utilisation,
            "mfu": self.mfu,
            "itl_exact": all(state["itl_exact"] for state in states),
            **expert_summary(self),
        }

    def _economics(self) -> dict[str, Any]:
        parts = [(view.usage, Rates.of(view.deployment.cluster)) for view in self.pools.values()]
        models = [view.deployment.step_model for view in self.pools.values()]
        pricing = dict.fromkeys(pool.cluster.terms.pricing for _, pool in self.deployment.pools)
        return {
            "num_gpus": self.num_devices,
            "pricing": " + ".join(pricing),
            **account_pools(parts),
            "provenance": max((model.provenance for model in models), key=WEAKNESS.index),
            "weaker_parts": list(dict.fromkeys(part for model in models for part in model.weaker_parts)),
        }
