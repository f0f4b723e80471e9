"""What a run of several models returns: the clients' view of all requests, of each model's, and of the cascade's answers."""

from __future__ import annotations

from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from simulator.accounting.account import Usage, account
from simulator.accounting.rates import Rates
from simulator.physics.power import idle_w_of
from simulator.physics.sums import in_order
from simulator.recorder import COMPLETED
from simulator.result import SimulationResult
from simulator.result_summary import latencies, volume
from simulator.run import RunRecord
from simulator.several.deployment import SeveralDeployment
from simulator.several.run import SeveralRecord
from simulator.spread import Spread
from simulator.uncertainty import Interval
from workloads.slo import Slo
from workloads.trace import Trace

WEAKNESS = ("measured", "transferred", "datasheet")
"""Provenances, best first."""


class MemberResult(SimulationResult):
    """One model's replicas and requests. Its table has the rows of all models; those of others count as not sent here."""

    number: int = 0

    @property
    def completed(self) -> npt.NDArray[np.bool_]:
        """bool[n]: this model's requests that finished."""
        assert self.trace.model is not None
        done: npt.NDArray[np.bool_] = (self.column("status") == COMPLETED) & (self.trace.model == self.number)
        return done


class SeveralResult(SimulationResult):
    """One simulated run of several models. ``deployment`` is the first model's; ``several`` has all."""

    record: SeveralRecord
    several: SeveralDeployment
    first_of: npt.NDArray[np.int64] | None = None
    """Cascade: row of the first request for every second one, -1 for the others."""

    @classmethod
    def of(
        cls, several: SeveralDeployment, trace: Trace, record: SeveralRecord, slo: Slo | None, seed: int
    ) -> SeveralResult:
        """The result of one run."""
        result = cls(several.served[0], trace, record, slo, seed)
        result.several = several
        return result

    def __repr__(self) -> str:
        s = self.summary
        return f"<SeveralResult: {self.several.name}, {s['completed']:,} of {s['num_prompts']:,} requests>"

    @property
    def label(self) -> str:
        """Names of the models."""
        return self.several.name

    @property
    def num_devices(self) -> int:
        """Devices of all groups."""
        return self.several.num_devices

    @cached_property
    def models(self) -> dict[str, MemberResult]:
        """Each model's view, by name."""
        views, begin = {}, 0
        for number, (member, deployment) in enumerate(zip(self.several.members, self.several.served, strict=True)):
            end = begin + deployment.plan.dp
            record = RunRecord(
                table=self.record.table, replicas=self.record.replicas[begin:end], end_s=self.record.end_s
            )
            view = MemberResult(deployment, self.trace, record, self.slo, self.seed)
            view.number, begin = number, end
            views[member.name] = view
        return views

    @cached_property
    def usage(self) -> Usage:
        """Of all groups: steps of all models, idle power of the devices in between."""
        parts = [view.usage for view in self.models.values()]
        busy = [float(sum(r.counters.busy_ticks for r in view.record.replicas)) for view in self.models.values()]
        total = in_order(busy)
        return Usage(
            devices=self.num_devices,
            duration_s=self.duration_s,
            prefill_j=in_order(part.prefill_j for part in parts),
            decode_j=in_order(part.decode_j for part in parts),
            idle_j=self._idle_j(),
            prefill_share=in_order(p.prefill_share * b for p, b in zip(parts, busy, strict=True)) / total
            if total
            else 0.0,
            input_tokens=int(self.column("input_tokens")[self.completed].sum()),
            output_tokens=int(self.column("output_tokens").sum()),
            requests=int(self.completed.sum()),
        )

    def _idle_j(self) -> float:
        joules = 0.0
        for members in self.several.groups.values():
            plan = members[0].deployment.plan
            busy_s = in_order(self.models[m.name].utilisation * plan.dp * self.duration_s for m in members)
            idle_w = idle_w_of(members[0].deployment.cluster.device) * plan.devices_per_replica
            joules += idle_w * max(0.0, plan.dp * self.duration_s - busy_s)
        return joules

    @cached_property
    def utilisation(self) -> float:
        """Share of the time in which devices have a step in flight, mean over devices."""
        busy = in_order(view.utilisation * view.num_devices for view in self.models.values())
        return busy / self.num_devices

    @cached_property
    def mfu(self) -> float:
        """Of all models together."""
        done = in_order(view.mfu * view.peak_flop for view in self.models.values())
        peaks = (self.models[members[0].name].peak_flop for members in self.several.groups.values())
        peak = in_order(peaks)
        return done / peak if peak else 0.0

    @cached_property
    def intervals(self) -> dict[str, Interval]:
        """None: no measured run of several models is at hand."""
        return {}

    @cached_property
    def summary(self) -> dict[str, Any]:
        """As of any run; ``models`` by name, ``turns`` of models that share devices, ``cascade`` of final answers."""
        found = {**super().summary, "model_id": self.several.name, "models": self._by_model(), "turns": self._turns()}
        return found if self.first_of is None else found | {"cascade": self._cascade()}

    def _by_model(self) -> dict[str, dict[str, Any]]:
        kept = ("completed", "request_throughput", "output_throughput")
        times = (
            "mean_ttft_ms",
            "p95_ttft_ms",
            "p99_ttft_ms",
            "mean_tpot_ms",
            "p95_tpot_ms",
            "mean_e2el_ms",
            "p95_e2el_ms",
        )
        assert self.trace.model is not None
        asked = np.bincount(self.trace.model, minlength=len(self.models))
        found = {}
        for (name, view), num in zip(self.models.items(), asked.tolist(), strict=True):
            done = view.completed
            outputs = int(self.column("output_tokens")[done].sum())
            figures = {name: value for name, value in volume(view).items() if name in kept}
            figures["output_throughput"] = outputs / self.duration_s if self.duration_s else 0.0
            figures |= {name: value for name, value in latencies(view).items() if name in times}
            blocks = view.deployment.memory.num_blocks
            found[name] = {"num_prompts": num, **figures, "num_gpu_blocks": blocks, "utilisation": view.utilisation}
        return found

    def _turns(self) -> dict[str, Any]:
        counts = self.record.turns
        return {
            "switches": sum(c.switches for c in counts),
            "loads": sum(c.loads for c in counts),
            "load_s": in_order(c.load_s for c in counts),
        }

    def _cascade(self) -> dict[str, Any]:
        """Times of the answer that a client keeps: that of the second model where there is one, since the first was asked."""
        assert self.first_of is not None
        second = self.first_of >= 0
        replaced = np.zeros(len(second), dtype=np.bool_)
        replaced[self.first_of[second]] = True
        final = ~replaced & self.completed
        asked = np.where(second, self.column("arrival_s")[self.first_of], self.column("arrival_s"))
        e2e = (self.column("finish_s") - asked)[final]
        ttft = (self.column("first_token_s") - asked)[final]
        return {
            "requests": int((~second).sum()),
            "escalated": int(second.sum()),
            "answers": int(final.sum()),
            **Spread.of(ttft).to_ms("ttft"),
            **Spread.of(e2e).to_ms("e2el"),
        }

    def _engine_state(self) -> dict[str, Any]:
        states = {name: view._engine_state() for name, view in self.models.items()}
        first = next(iter(states.values()))
        fullest = ("peak_kv_usage", "peak_running", "peak_waiting")
        return {
            **first,
            "num_gpu_blocks": min(state["num_gpu_blocks"] for state in states.values()),
            **{name: max(state[name] for state in states.values()) for name in fullest},
            **{name: sum(s[name] for s in states.values()) for name in ("num_preemptions", "engine_steps")},
            "utilisation": self.utilisation,
            "mfu": self.mfu,
            "itl_exact": all(state["itl_exact"] for state in states.values()),
        }

    def _economics(self) -> dict[str, Any]:
        models = [deployment.step_model for deployment in self.several.served]
        cluster = self.several.cluster
        return {
            "num_gpus": self.num_devices,
            "pricing": cluster.terms.pricing,
            **account(self.usage, Rates.of(cluster)),
            "provenance": max((model.provenance for model in models), key=WEAKNESS.index),
            "weaker_parts": list(dict.fromkeys(part for model in models for part in model.weaker_parts)),
        }
