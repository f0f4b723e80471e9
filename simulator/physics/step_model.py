"""StepModel: seconds and joules of any engine step of one replica, compiled once for (model, cluster, plan, engine)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from hardware_profiles.schema import Cluster, DeviceProfile
from simulator.engine import EngineProfile
from simulator.physics.collectives import Interconnect
from simulator.physics.dataflow import stage_of, without_launches
from simulator.physics.efficiency import efficiency_of
from simulator.physics.frequency import at_clock
from simulator.physics.launch import launches_of
from simulator.physics.layout import check_plan, lay_out
from simulator.physics.moe import ExpertRouting
from simulator.physics.power import energy_j, power_fit_of
from simulator.physics.powercap import locked, power_cap_of
from simulator.physics.precision import resolve_precision
from simulator.physics.provenance import provenance_of
from simulator.physics.shape import DecodeLine, StepShape
from simulator.physics.slowdown import slower_compute
from simulator.physics.stage import Bound, Cost, Limit, Stage, StageContext
from simulator.plan import ParallelPlan
from workloads.model import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentCost:
    """One line of a step's breakdown. Seconds are wall time; FLOP and bytes are sums over the replica's devices."""

    name: str
    seconds: float
    flop: float
    hbm_bytes: float
    link_bytes: float
    bound: Bound
    share: float
    """Part of the step's time."""


class StepModel:
    """Physics of one replica. A step passes the pipeline stages one after the other; no queueing, no overlap."""

    def __init__(
        self,
        model: ModelSpec,
        cluster: Cluster,
        plan: ParallelPlan,
        engine: EngineProfile,
        *,
        moe_skew: float = 0.0,
        expert_routing: ExpertRouting | None = None,
    ) -> None:
        """``moe_skew``: exponent of the Zipf popularity of experts, 0 for uniform routing. Raises as check_plan.

        ``expert_routing``: what a placement of experts does to loads and traffic, where one is known.
        """
        check_plan(model, cluster, plan)
        device = slower_compute(cluster.device, engine.compute_slowdown.get(cluster.device.architecture.lower(), 1.0))
        device = locked(device, plan)
        cap = power_cap_of(device, plan.power_cap_w)

        def context_of(device: DeviceProfile) -> StageContext:
            efficiency = efficiency_of(device)
            precision = resolve_precision(model, device, plan)
            return StageContext(
                device=device,
                efficiency=efficiency,
                precision=precision,
                plan=plan,
                layout=lay_out(model, plan, precision),
                interconnect=Interconnect(cluster, efficiency),
                moe_skew=moe_skew,
                expert_routing=expert_routing,
                filter_row_s=_filter_row_s(model, cluster, engine),
                hidden_passes=engine.hidden_passes,
            )

        @cache
        def stages_at(share: float) -> tuple[Stage, ...]:
            slower = context_of(at_clock(device, share))
            return tuple(stage_of(stage, slower) for stage in slower.layout.stages)

        context = context_of(device)
        efficiency, precision, layout = context.efficiency, context.precision, context.layout
        windows = [g.attention.sliding_window for g in model.layers if g.attention.sliding_window is not None]
        self.window: int | None = max(windows, default=None)
        """Sliding window of the model's windowed layers [tokens] (the largest, if they differ), or None."""
        self.provenance, self.weaker_parts = provenance_of(model, plan, precision, efficiency)
        """How far the efficiencies this model uses rest on measurements: the weakest of them, and the kernel families that
        are weaker than the device's profile as a whole."""
        self.precision = precision
        self.stages = tuple(
            stage_of(s, context, None if cap is None else Limit(cap, lambda share, i=s.index: stages_at(share)[i]))  # type: ignore[misc]
            for s in layout.stages
        )
        self.num_devices = plan.devices_per_replica
        self.peak_flop_per_s = precision.linear.peak_flop_per_s
        """Per device, in the dtype of the linear layers: what MFU refers to."""
        self.bandwidth_bytes_per_s = device.memory_bandwidth_bytes_per_s
        self._tp = plan.tp
        exposed = (
            _exposed_share(engine, device.architecture) if plan.pp == 1 else 0.0
        )  # else other stages' work hides it
        slowness = cluster.node.cpu_slowness
        self._fixed_s = slowness * (engine.step_fixed_s + exposed * engine.sync_step_fixed_s)
        self._seq_s = slowness * (engine.step_seq_s + exposed * engine.sync_step_seq_s)
        self._token_s = slowness * engine.step_token_s
        self._launches = launches_of(engine if device.dataflow is None else without_launches(engine), slowness)
        wait_j = energy_j(power_fit_of(device), 1.0, 0.0, 0.0, device.tdp_w)
        self._host_j = (wait_j if cap is None else min(wait_j, cap.cap_w)) * plan.tp
        self._lines: dict[int, DecodeLine] = {}
        self._mixed: dict[tuple[int, int], DecodeLine] = {}

    def _host_s(self, tokens: int, seqs: int) -> float:
        """Host time the device waits for, once per step [s]; counted in the first stage."""
        return self._fixed_s + self._seq_s * seqs + self._token_s * tokens

    def decode(self, num_seqs: int) -> DecodeLine:
        """Cost of a decode-only step of ``num_seqs`` sequences as a line in its context, host and all stages included.

        Every sequence samples one token. Memoised; exact for any context by construction.
        """
        line = self._lines.get(num_seqs)
        if line is None:
            line = self._lines[num_seqs] = self._compile_decode(num_seqs)
        return line

    def _compile_decode(self, num_seqs: int) -> DecodeLine:
        if num_seqs <= 0:
            return DecodeLine(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        host_s = self._host_s(num_seqs, num_seqs)
        padded = self._launches.padded(num_seqs, prompts=False)
        parts = [(s, s.decode_attention(num_seqs, mixed=False)) for s in self.stages]
        base_s = host_s + sum(s.tokens(padded).seconds + s.rows(num_seqs).seconds + line.base_s for s, line in parts)
        base_j = host_s * self._host_j + sum(
            s.tokens(padded).joules + s.rows(num_seqs).joules + line.base_j for s, line in parts
        )
        launch_s = sum(self._launches.seconds(num_seqs, False, s.layout.launches) for s in self.stages)
        return DecodeLine(
            base_s,
            sum(line.context_s for _, line in parts),
            sum(line.window_s for _, line in parts),
            base_j,
            sum(line.context_j for _, line in parts),
            sum(line.window_j for _, line in parts),
            host_s + launch_s if launch_s else 0.0,
            self._host_j,
        )

    def _mixed_line(self, stage: int, num_seqs: int) -> DecodeLine:
        line = self._mixed.get((stage, num_seqs))
        if line is None:
            line = self._mixed[stage, num_seqs] = self.stages[stage].decode_attention(num_seqs, mixed=True)
        return line

    def step(self, shape: StepShape) -> tuple[float, float]:
        """(seconds, joules) of any step: decode rows, prefill chunks or both. Joules are those of the computing stages;
        a stage that waits for another one is idle and not counted here."""
        num_seqs, context, window_context, prefill, _, _, chunks, _, rows = shape
        if prefill == 0 and rows == num_seqs:
            line = self.decode(num_seqs)
            if not line.floor_s or len(self.stages) == 1:
                return line.cost(context, window_context)
        host_s = self._host_s(num_seqs + prefill, num_seqs + chunks)
        seconds, joules = host_s, host_s * self._host_j
        for index in range(len(self.stages)):
            stage_s, stage_j = self._stage(index, shape)
            seconds += stage_s
            joules += stage_j
        return seconds, joules

    def _stage(self, index: int, shape: StepShape) -> tuple[float, float]:
        """(seconds, joules) of one stage without the host, but for launches that outlast the device's work."""
        seconds, joules = self._device(index, shape)
        tokens, prompts = shape.decode_seqs + shape.prefill_tokens, shape.prefill_tokens > 0
        launch_s = self._launches.seconds(tokens, prompts, self.stages[index].layout.launches)
        if seconds < launch_s:
            return launch_s, joules + self._host_j * (launch_s - seconds)
        return seconds, joules

    def _device(self, index: int, shape: StepShape) -> tuple[float, float]:
        """(seconds, joules) of the device's work in one stage."""
        stage = self.stages[index]
        num_seqs, context, window_context, prefill, _, _, _, _, rows = shape
        seconds, joules, _, _ = stage.tokens(self._launches.padded(num_seqs + prefill, prefill > 0))
        rows_s, rows_j, _, _ = stage.rows(rows)
        seconds += rows_s
        joules += rows_j
        if num_seqs:
            line = self._mixed_line(index, num_seqs) if prefill else stage.decode_attention(num_seqs, mixed=False)
            base_s, context_s, window_s, base_j, context_j, window_j, _, _ = line
            seconds += base_s + context_s * context + window_s * window_context
            joules += base_j + context_j * context + window_j * window_context
        if prefill:
            attention_s, attention_j = stage.prefill(shape)
            seconds += attention_s
            joules += attention_j
        return seconds, joules

    def stage_s(self, shape: StepShape) -> tuple[float, ...]:
        """Seconds in each pipeline stage, its send to the next included; they sum to ``step``.

        Host time is in the first stage; LM head, sampler and fixed step time in the last.
        """
        tokens = shape.decode_seqs + shape.prefill_tokens
        if tokens == 0:
            return (0.0,) * len(self.stages)
        seconds = [self._stage(index, shape)[0] for index in range(len(self.stages))]
        seconds[0] += self._host_s(tokens, shape.decode_seqs + shape.prefill_seqs)
        return tuple(seconds)

    def explain(self, shape: StepShape) -> list[ComponentCost]:
        """Breakdown of a step, longest first; the seconds sum to ``step`` up to rounding."""
        tokens = shape.decode_seqs + shape.prefill_tokens
        if tokens == 0:
            return []
        padded = self._launches.padded(tokens, shape.prefill_tokens > 0)
        costs = [cost for stage in self.stages for cost in stage.costs(shape, padded)]
        waits_s = [self._stage(i, shape)[0] - self._device(i, shape)[0] for i in range(len(self.stages))]
        if sum(waits_s):
            costs.append(Cost("launch", sum(waits_s), "host"))
        host_s = self._host_s(tokens, shape.decode_seqs + shape.prefill_seqs)
        if host_s:
            costs.append(Cost("host", host_s, "host"))
        total_s = sum(c.seconds for c in costs)
        merged = [_merge(name, costs, self._tp, total_s) for name in dict.fromkeys(c.name for c in costs)]
        return sorted(merged, key=lambda c: -c.seconds)

    def flop(self, shape: StepShape) -> float:
        """FLOP of a step over all devices of the replica (executed, with what ranks repeat)."""
        return sum(stage.flop(shape) for stage in self.stages)

    def hbm_bytes(self, shape: StepShape) -> float:
        """Memory traffic of a step over all devices of the replica [B]."""
        return sum(stage.nbytes(shape) for stage in self.stages)


def _exposed_share(engine: EngineProfile, architecture: str) -> float:
    """Share of the host's work between steps that the device waits for."""
    if not engine.async_scheduling:
        return 1.0
    return engine.exposed_host.get(architecture.lower(), 0.0)


def _filter_row_s(model: ModelSpec, cluster: Cluster, engine: EngineProfile) -> float:
    """Seconds to filter one row of float32 logits: the engine's passes over it at the memory's speed; 0 without a filter.

    Every TP rank has all the logits and does the same.
    """
    wanted = model.filters_logits if engine.sampling == "default" else engine.sampling == "top-p"
    bandwidth = cluster.device.memory_bandwidth_bytes_per_s
    return engine.top_p_row_passes * 4.0 * model.vocab_size / bandwidth if wanted else 0.0


def _merge(name: str, costs: list[Cost], ranks: int, total_s: float) -> ComponentCost:
    """Add up the entries of one name; the bound is that of the longest."""
    same = [c for c in costs if c.name == name]
    seconds = sum(c.seconds for c in same)
    return ComponentCost(
        name=name,
        seconds=seconds,
        flop=sum(c.flop for c in same) * ranks,
        hbm_bytes=sum(c.nbytes for c in same) * ranks,
        link_bytes=sum(c.link_bytes for c in same) * ranks,
        bound=max(same, key=lambda c: c.seconds).bound,
        share=seconds / total_s if total_s else 0.0,
    )
