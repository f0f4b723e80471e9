"""StepModel: seconds and joules of any engine step of one replica, compiled once for (model, cluster, plan, engine)."""

from __future__ import annotations

from functools import cache

from hardware_profiles.errors import UserError
from hardware_profiles.schema import Cluster, DeviceProfile
from simulator.engine import EngineProfile
from simulator.physics.attention import prefill_cost
from simulator.physics.collectives import Interconnect
from simulator.physics.components import ComponentCost, merged
from simulator.physics.cost import Cost, Total
from simulator.physics.dataflow import stage_of, without_launches
from simulator.physics.efficiency import efficiency_of
from simulator.physics.engine_effects import exposed_share, filter_row_s, fused_experts, split_slowdown, window_of
from simulator.physics.frequency import at_clock
from simulator.physics.hybrid import hybrids_of
from simulator.physics.launch import launches_of
from simulator.physics.layout import check_plan, lay_out
from simulator.physics.lora import lora_work
from simulator.physics.moe import ExpertRouting
from simulator.physics.offload import check_offload, path_of
from simulator.physics.power import energy_j, power_fit_of
from simulator.physics.powercap import locked, power_cap_of
from simulator.physics.precision import resolve_precision
from simulator.physics.provenance import provenance_of
from simulator.physics.shape import DecodeLine, StepShape
from simulator.physics.slowdown import slower_compute
from simulator.physics.stage import Limit, Stage
from simulator.physics.stage_context import StageContext
from simulator.physics.sums import in_order
from simulator.plan import ParallelPlan
from workloads.model import ModelSpec


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

        path = path_of(cluster, plan)

        def context_of(device: DeviceProfile) -> StageContext:
            efficiency = efficiency_of(device)
            precision = fused_experts(resolve_precision(model, device, plan), engine)
            return StageContext(
                device=device,
                efficiency=efficiency,
                precision=precision,
                plan=plan,
                layout=lay_out(model, plan, precision),
                interconnect=Interconnect(cluster, efficiency),
                moe_skew=moe_skew,
                expert_routing=expert_routing,
                filter_row_s=filter_row_s(model, cluster, engine),
                hidden_passes=engine.hidden_passes,
                comm_overlap=engine.comm_overlap,
                fused_moe=engine.fused_moe,
                offload=path,
                samples=not model.pooling,
            )

        @cache
        def stages_at(share: float) -> tuple[Stage, ...]:
            slower = context_of(at_clock(device, share))
            return tuple(stage_of(stage, slower) for stage in slower.layout.stages)

        context = context_of(device)
        efficiency, precision, layout = context.efficiency, context.precision, context.layout
        check_offload(layout.stages, plan)
        self.window: int | None = window_of(model, plan)
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
        self._tp = self.ranks = plan.tp
        exposed = (
            exposed_share(engine, device.architecture) if plan.pp == 1 else 0.0
        )  # else other stages' work hides it
        slowness = cluster.node.cpu_slowness
        self._fixed_s = slowness * (engine.step_fixed_s + exposed * engine.sync_step_fixed_s)
        self._seq_s = slowness * (engine.step_seq_s + exposed * engine.sync_step_seq_s)
        self._token_s = slowness * engine.step_token_s
        self._launches = launches_of(engine if device.dataflow is None else without_launches(engine), slowness)
        wait_j = energy_j(power_fit_of(device), 1.0, 0.0, 0.0, device.tdp_w)
        self._host_j = (wait_j if cap is None else min(wait_j, cap.cap_w)) * plan.tp
        if engine.nano_batch_tokens and cap is not None:
            raise UserError("--nano-batch-tokens and --power-cap do not work together; drop one of them")
        self._nano_tokens, self._nano_slower = engine.nano_batch_tokens, split_slowdown(engine)
        self._lora = plan.techniques.lora
        self._prompt_layers = plan.techniques.prompt_layers
        self._lora_known: dict[tuple[int, int, int], Total] = {}
        self._power, self._tdp_w = power_fit_of(device), device.tdp_w
        self.power_known = device.power is not None or device.tdp_w is not None
        self.hybrids = hybrids_of(self.stages, cluster, plan, engine, moe_skew, self._host_j)
        """What stages do besides their own kernels (cached experts, attention elsewhere); None: nothing."""
        self._is_plain = self.hybrids is None and self._lora is None and not self._nano_tokens
        """A stage is its kernels in sequence: what :meth:`_device` adds is nothing."""
        self._lines: dict[int, DecodeLine] = {}
        self._mixed: dict[tuple[int, int], DecodeLine] = {}
        self._least_known: dict[tuple[int, int, bool], float] = {}
        self._tokens_known: dict[tuple[int, int, bool], Total] = {}

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
        if self.hybrids is not None:
            return self._compile_hybrid(num_seqs, host_s)
        padded = self._launches.padded(num_seqs, prompts=False)
        parts = [(s, s.decode_attention(num_seqs, mixed=False)) for s in self.stages]
        base_s = host_s + in_order(
            s.tokens(padded).seconds + s.rows(num_seqs).seconds + line.base_s for s, line in parts
        )
        base_j = host_s * self._host_j + in_order(
            s.tokens(padded).joules + s.rows(num_seqs).joules + line.base_j for s, line in parts
        )
        least_s = 0.0
        for index, (stage, attention) in enumerate(parts):
            apart = self._adapters(index, padded, num_seqs)
            stage_least_s = self._least_s(index, num_seqs, False)
            base_s, base_j = base_s + apart.seconds, base_j + apart.joules
            if self._splits(padded):
                work = stage.resources(padded, num_seqs)
                together_s = stage.fixed_s + work.memory_s + attention.base_s
                saved_s = stage.tokens(padded).seconds + stage.rows(num_seqs).seconds + attention.base_s - together_s
                base_s, base_j = base_s - saved_s, base_j - self._host_j * saved_s
                busiest_s = max(self._nano_slower * work.compute_s, work.link_s)
                stage_least_s = max(stage_least_s, stage.fixed_s + busiest_s + apart.seconds)
            least_s += stage_least_s
        return DecodeLine(
            base_s,
            in_order(line.context_s for _, line in parts),
            in_order(line.window_s for _, line in parts),
            base_j,
            in_order(line.context_j for _, line in parts),
            in_order(line.window_j for _, line in parts),
            host_s + least_s if least_s else 0.0,
            self._host_j,
        )

    def _compile_hybrid(self, num_seqs: int, host_s: float) -> DecodeLine:
        """The same where stages do more than their own kernels."""
        shape = StepShape(decode_seqs=num_seqs, logits_rows=num_seqs)
        lines = [self._hybrid(index, shape) for index in range(len(self.stages))]
        floors = [max(line.floor_s, self._least_s(i, num_seqs, False)) for i, line in enumerate(lines)]
        base, context, window, base_j, context_j, window_j = (
            in_order(values) for values in zip(*(line[:6] for line in lines), strict=True)
        )
        floor_s = host_s + in_order(floors) if any(floors) else 0.0
        return DecodeLine(
            host_s + base, context, window, host_s * self._host_j + base_j, context_j, window_j, floor_s, self._host_j
        )

    def _hybrid(self, index: int, shape: StepShape) -> DecodeLine:
        """One stage of a step with these prompts as a line in the context, without the host."""
        assert self.hybrids is not None
        tokens = shape.decode_seqs + shape.prefill_tokens
        padded = self._launches.padded(tokens, shape.prefill_tokens > 0)
        beside = self._adapters(index, padded, shape.decode_seqs + shape.prefill_seqs)
        return self.hybrids[index].line(shape, padded, beside)

    def _least_s(self, index: int, tokens: int, prompts: bool) -> float:
        """Least time of a stage, memoised: the host's launches, or weights that are copied into the device meanwhile [s]."""
        known = self._least_known.get((index, tokens, prompts))
        if known is None:
            launch_s = self._launches.seconds(tokens, prompts, self.stages[index].layout.launches)
            known = self._least_known[index, tokens, prompts] = max(launch_s, self.stages[index].stream_s)
        return known

    def _tokens(self, index: int, tokens: int, prompts: bool) -> Total:
        """What a stage does token by token, memoised; at the captured size above, where there is one."""
        known = self._tokens_known.get((index, tokens, prompts))
        if known is None:
            padded = self._launches.padded(tokens, prompts)
            known = self._tokens_known[index, tokens, prompts] = self.stages[index].tokens(padded)
        return known

    def _splits(self, padded_tokens: int) -> bool:
        """Whether a step is split into nano-batches."""
        return 0 < self._nano_tokens <= padded_tokens

    def _adapters(self, index: int, tokens: int, seqs: int) -> Total:
        """Products of the low-rank adapters of ``seqs`` requests in one stage, memoised; they overlap with nothing."""
        if self._lora is None:
            return _NOTHING
        known = self._lora_known.get((index, tokens, seqs))
        if known is None:
            base = self.precision.base
            seconds, flop, nbytes = lora_work(
                self.stages[index].layout, self._lora, tokens, seqs, base, self.bandwidth_bytes_per_s
            )
            memory_s = nbytes / self.bandwidth_bytes_per_s
            joules = self._tp * energy_j(self._power, seconds, flop / base.peak_flop_per_s, memory_s, self._tdp_w)
            known = self._lora_known[index, tokens, seqs] = Total(seconds, joules, flop, nbytes)
        return known

    def _mixed_line(self, stage: int, num_seqs: int) -> DecodeLine:
        line = self._mixed.get((stage, num_seqs))
        if line is None:
            line = self._mixed[stage, num_seqs] = self.stages[stage].decode_attention(num_seqs, mixed=True)
        return line

    def _attention_line(self, stage: int, shape: StepShape) -> DecodeLine:
        """Attention of a step's decode rows in one stage."""
        if shape.prefill_tokens:
            return self._mixed_line(stage, shape.decode_seqs)
        return self.stages[stage].decode_attention(shape.decode_seqs, mixed=False)

    def step(self, shape: StepShape) -> tuple[float, float]:
        """(seconds, joules) of any step: decode rows, prefill chunks or both. Joules are those of the computing stages;
        a stage that waits for another one is idle and not counted here."""
        if self._prompt_layers is not None:
            shape = self._prompt_layers.of(shape)
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
        seconds, joules = self._sequential(index, shape) if self._is_plain else self._device(index, shape)
        num_seqs, _, _, prefill, _, _, _, _, _ = shape
        least_s = self._least_s(index, num_seqs + prefill, prefill > 0)
        if seconds < least_s:
            return least_s, joules + self._host_j * (least_s - seconds)
        return seconds, joules

    def _device(self, index: int, shape: StepShape) -> tuple[float, float]:
        """(seconds, joules) of the device's work in one stage: all of it in sequence, or split into nano-batches."""
        if self.hybrids is not None:
            return self._hybrid(index, shape).cost(shape.context_tokens, shape.window_tokens)
        seconds, joules = self._sequential(index, shape)
        if not self._nano_tokens and self._lora is None:
            return seconds, joules
        tokens = self._launches.padded(shape.decode_seqs + shape.prefill_tokens, shape.prefill_tokens > 0)
        if self._splits(tokens):
            together_s = self._together_s(index, shape, tokens)
            seconds, joules = together_s, joules - self._host_j * (seconds - together_s)
        apart = self._adapters(index, tokens, shape.decode_seqs + shape.prefill_seqs)
        return seconds + apart.seconds, joules + apart.joules

    def _together_s(self, index: int, shape: StepShape, tokens: int) -> float:
        """Time of a split step: its busiest resource (NanoFlow, arXiv:2408.12757), arithmetic slowed down by the split [s]."""
        stage = self.stages[index]
        compute_s, memory_s, link_s = stage.resources(tokens, shape.logits_rows)
        if shape.decode_seqs:
            line = stage.decode_attention(shape.decode_seqs, mixed=False)
            memory_s += line.base_s + line.context_s * shape.context_tokens + line.window_s * shape.window_tokens
        if shape.prefill_tokens:
            for c in stage.attention:
                cost = prefill_cost(c, shape)
                compute_s, memory_s = compute_s + cost.compute_s, memory_s + cost.other_s
        return stage.fixed_s + max(self._nano_slower * compute_s, memory_s, link_s)

    def _sequential(self, index: int, shape: StepShape) -> tuple[float, float]:
        """(seconds, joules) of a stage's kernels one after the other, without adapters."""
        stage = self.stages[index]
        num_seqs, context, window_context, prefill, _, _, _, _, rows = shape
        seconds, joules, _, _ = self._tokens(index, num_seqs + prefill, prefill > 0)
        rows_s, rows_j, _, _ = stage.rows(rows)
        seconds += rows_s
        joules += rows_j
        if num_seqs:
            line = self._mixed_line(index, num_seqs) if prefill else self._attention_line(index, shape)
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
        if self._prompt_layers is not None:
            shape = self._prompt_layers.of(shape)
        tokens = shape.decode_seqs + shape.prefill_tokens
        if tokens == 0:
            return (0.0,) * len(self.stages)
        seconds = [self._stage(index, shape)[0] for index in range(len(self.stages))]
        seconds[0] += self._host_s(tokens, shape.decode_seqs + shape.prefill_seqs)
        return tuple(seconds)

    def explain(self, shape: StepShape) -> list[ComponentCost]:
        """Breakdown of a step, longest first; the seconds sum to ``step`` up to rounding."""
        if self._prompt_layers is not None:
            shape = self._prompt_layers.of(shape)
        tokens = shape.decode_seqs + shape.prefill_tokens
        if tokens == 0:
            return []
        padded = self._launches.padded(tokens, shape.prefill_tokens > 0)
        costs = [cost for index in range(len(self.stages)) for cost in self._kernels(index, shape, padded)]
        for index, stage in enumerate(self.stages):
            costs += self._beside(index, stage, shape, padded)
        host_s = self._host_s(tokens, shape.decode_seqs + shape.prefill_seqs)
        if host_s:
            costs.append(Cost("host", host_s, "host"))
        return merged(costs, self._tp)

    def _kernels(self, index: int, shape: StepShape, padded: int) -> list[Cost]:
        """Components of one stage's device, adapters left out."""
        costs = self.stages[index].costs(shape, padded)
        if self.hybrids is None:
            return costs
        apart = self._adapters(index, padded, shape.decode_seqs + shape.prefill_seqs)
        return self.hybrids[index].components(costs, self._device(index, shape)[0] - apart.seconds, shape)

    def _beside(self, index: int, stage: Stage, shape: StepShape, padded: int) -> list[Cost]:
        """What a stage's time has beside its kernels in sequence: adapters, less what nano-batches overlap, and waiting."""
        costs = []
        apart = self._adapters(index, padded, shape.decode_seqs + shape.prefill_seqs)
        if apart.seconds:
            costs.append(Cost("lora", apart.seconds, "memory", 0.0, apart.flop, apart.nbytes))
        device_s = self._device(index, shape)[0]
        if self._splits(padded):
            saved_s = self._sequential(index, shape)[0] + apart.seconds - device_s
            costs.append(Cost("nano_batches", -saved_s, "latency"))
        wait_s = self._stage(index, shape)[0] - device_s
        if stage.stream_s:
            costs.append(Cost("weights.prefetch", wait_s, "link", link_bytes=stage.offloaded_bytes))
        elif wait_s:
            costs.append(Cost("launch", wait_s, "host"))
        return costs

    def _lora_total(self, shape: StepShape) -> tuple[float, float]:
        """(FLOP, bytes) of the adapters on all devices."""
        tokens = shape.decode_seqs + shape.prefill_tokens
        if self._lora is None or not tokens:
            return 0.0, 0.0
        parts = [self._adapters(i, tokens, shape.decode_seqs + shape.prefill_seqs) for i in range(len(self.stages))]
        return self._tp * in_order(p.flop for p in parts), self._tp * in_order(p.nbytes for p in parts)

    def flop(self, shape: StepShape) -> float:
        """FLOP of a step over all devices of the replica (executed, with what ranks repeat)."""
        if self._prompt_layers is not None:
            shape = self._prompt_layers.of(shape)
        return in_order(stage.flop(shape) for stage in self.stages) + self._lora_total(shape)[0]

    def hbm_bytes(self, shape: StepShape) -> float:
        """Memory traffic of a step over all devices of the replica [B]."""
        if self._prompt_layers is not None:
            shape = self._prompt_layers.of(shape)
        return in_order(stage.nbytes(shape) for stage in self.stages) + self._lora_total(shape)[1]


_NOTHING = Total(0.0, 0.0, 0.0, 0.0)
