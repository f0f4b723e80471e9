"""Seconds, joules, FLOP and bytes of one pipeline stage; what depends on the token count alone is computed once."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import NamedTuple

from simulator.physics.attention import (
    attention_coefficients,
    context_read,
    decode_bytes,
    decode_flop,
    prefill_cost,
)
from simulator.physics.coefficients import AttentionCoefficients
from simulator.physics.cost import Bound, Cost, Total, gemm_bound
from simulator.physics.depth import at_depth
from simulator.physics.elementwise import Traffic, activation, elementwise_s, norms, rotary
from simulator.physics.kernels import (
    CollectiveOp,
    gemm_bytes,
    gemm_flop,
    gemm_s,
    grouped_gemm_bytes,
    grouped_gemm_s,
)
from simulator.physics.layout import RankAttention, RankExperts, RankLayer, RankMatrix, StageLayout
from simulator.physics.moe_layer import MoeLayer, collective, reduce_mlp
from simulator.physics.moe_load import ExpertLoad
from simulator.physics.offload import block_bytes, offloaded_bytes
from simulator.physics.offload_costs import neurons_of, offload_costs
from simulator.physics.overlap import Resources, hide_collectives, hide_exchange, resources_of
from simulator.physics.power import energy_j, least_seconds, power_fit_of
from simulator.physics.powercap import PowerCap
from simulator.physics.precision import KernelFormat
from simulator.physics.shape import DecodeLine, StepShape
from simulator.physics.sparsity import channel_share, channels_used
from simulator.physics.stage_context import StageContext
from simulator.physics.sums import in_order

REPLICATED_ELEMENTWISE = 1 / 3
"""Share of a block's elementwise work that TP does not split: two residual norms move 16 bytes per hidden element;
rotary, KV write and the gated activation, which are split, about 27 (Llama shapes, 16 bits). Measured: TP=2 leaves
53-62 % of the per-token time of TP=1 (RTX PRO 6000, vLLM 0.19); this share gives 67 %."""
REFERENCE_HIDDEN = 4096
REFERENCE_VOCAB = 128_256
"""Sizes at which layer_token_s and logits_row_s are quoted (Llama-3.1-8B)."""


class Limit(NamedTuple):
    """A power limit below the TDP, and the same stage at a share of the clock."""

    cap: PowerCap
    at: Callable[[float], Stage]


class Stage:
    """One pipeline stage of one replica; all its TP ranks do the same, so one rank is computed."""

    def __init__(self, stage: StageLayout, context: StageContext, limit: Limit | None = None) -> None:
        self.layout = stage
        self._limit = limit
        self._context = context
        self._device = context.device
        self._ranks = context.plan.tp
        self._bandwidth = context.device.memory_bandwidth_bytes_per_s
        self._attention_peak_flop_per_s = context.precision.attention_peak_flop_per_s
        self._power = power_fit_of(context.device)
        counts: dict[RankAttention, int] = {}
        for layer, count in stage.layers:
            if layer.attention.spec.kind != "none":
                counts[layer.attention] = counts.get(layer.attention, 0) + count
        self.attention: tuple[AttentionCoefficients, ...] = tuple(
            at_depth(
                attention_coefficients(
                    attention, count, context.device, context.precision, context.plan.techniques.attention
                ),
                attention,
            )
            for attention, count in counts.items()
        )
        self.offloaded_bytes = offloaded_bytes(stage, context.plan)
        """Weights outside the device, per rank [B]."""
        self._offloaded_share = self.offloaded_bytes / block_bytes(stage)
        path = context.offload
        self.stream_s = (
            0.0 if path is None or path.backend != "prefetch" else self.offloaded_bytes / path.bandwidth_bytes_per_s
        )
        """Least time of a step whose offloaded weights are copied ahead of their use: all of them cross the link [s]."""
        self._channels = channel_share(stage, context.plan)
        self.moe = MoeLayer(context, self._experts, self._gemm)
        self._neurons = neurons_of(stage, context.plan)
        self.attends_elsewhere = context.plan.techniques.attention_device is not None
        """Attention of decoding sequences is not this device's work."""
        self._resources: dict[tuple[int, int], Resources] = {}
        self._tokens: dict[int, Total] = {}
        self._rows: dict[int, Total] = {}

    # -- components that depend on the number of tokens ---------------------------------------------------------------

    def _gemm(self, name: str, tokens: float, n: int, k: int, fmt: KernelFormat, count: int) -> Cost:
        flop = gemm_flop(tokens, n, k)
        moved = gemm_bytes(tokens, n, k, weight_bytes=fmt.weight_bytes, activation_bytes=fmt.activation_bytes)
        seconds = gemm_s(
            tokens,
            n,
            k,
            peak_flop_per_s=fmt.peak_flop_per_s,
            bandwidth_bytes_per_s=self._bandwidth,
            weight_bytes=fmt.weight_bytes,
            activation_bytes=fmt.activation_bytes,
            fit=fmt.gemm,
            num_sms=self._device.num_sms,
        )
        peak_s = flop / fmt.peak_flop_per_s
        bound = gemm_bound(seconds, peak_s / fmt.gemm.compute, moved / (fmt.gemm.memory * self._bandwidth))
        return Cost(name, seconds * count, bound, peak_s * count, flop * fmt.density * count, moved * count)

    def _matrix(self, matrix: RankMatrix, tokens: float, count: int, fired: float | None = None) -> Cost:
        n, k = matrix.n, matrix.k
        fired = self._fired(matrix.name, tokens) if fired is None else fired
        if fired < 1.0:
            n, k = (n, max(1, round(k * fired))) if matrix.name.endswith("down_proj") else (max(1, round(n * fired)), k)
        return self._gemm(matrix.name, tokens, n, k, matrix.format, count)

    def _fired(self, name: str, tokens: float) -> float:
        """Share of a matrix's neurons that any of the tokens fires: 1 - sparsity^tokens in dense MLPs, all elsewhere.

        Tokens fire neurons independently; kernels read and multiply the neurons that fire for the batch.
        """
        if self._channels is not None:
            return channels_used(name, tokens, self._channels)
        return self._neurons.fired(tokens)[0] if self._neurons is not None and name.startswith("mlp.") else 1.0

    def _expansion(self, weights: list[tuple[float, KernelFormat]], name: str = "weights.expand") -> list[Cost]:
        """Decompression of (weights, format) before their products, at the memory's speed; nothing for most formats."""
        moved = in_order(count * fmt.expand_bytes for count, fmt in weights)
        if not moved:
            return []
        seconds = in_order(n * f.expand_bytes / (f.gemm.memory * self._bandwidth) for n, f in weights)
        return [Cost(name, seconds, "memory", nbytes=moved)]

    def _collective(self, name: str, op: CollectiveOp, nbytes: float, ranks: int, count: int) -> Cost:
        return collective(self._context, name, op, nbytes, ranks, count)

    def _experts(self, experts: RankExperts, load: ExpertLoad, count: int) -> Cost:
        fmt = experts.format
        rows, active, mean_rows, mean_active, routed_rows = load
        flop = 2.0 * mean_rows * experts.num_matrices * experts.hidden * experts.intermediate
        moved = grouped_gemm_bytes(
            mean_rows,
            mean_active,
            hidden=experts.hidden,
            intermediate=experts.intermediate,
            weight_bytes=fmt.weight_bytes,
            activation_bytes=fmt.activation_bytes,
            num_matrices=experts.num_matrices,
        )
        seconds = grouped_gemm_s(
            rows,
            active,
            hidden=experts.hidden,
            intermediate=experts.intermediate,
            peak_flop_per_s=fmt.peak_flop_per_s,
            bandwidth_bytes_per_s=self._bandwidth,
            weight_bytes=fmt.weight_bytes,
            activation_bytes=fmt.activation_bytes,
            fit=fmt.moe,
            num_matrices=experts.num_matrices,
            routed_rows=routed_rows,
        )
        peak_s = flop / fmt.peak_flop_per_s
        bound = gemm_bound(seconds, peak_s / fmt.moe.compute, moved / (fmt.moe.memory * self._bandwidth))
        return Cost("moe.experts", seconds * count, bound, peak_s * count, flop * fmt.density * count, moved * count)

    def _elementwise(self, tokens: int) -> Cost:
        efficiency = self._context.efficiency
        share = REPLICATED_ELEMENTWISE + (1 - REPLICATED_ELEMENTWISE) / self._ranks
        token_s = efficiency.layer_token_s * share * self._context.layout.hidden / REFERENCE_HIDDEN
        seconds = 0.0
        for layer, count in self.layout.layers:
            seconds += count * elementwise_s(
                float(tokens) * layer.token_share,
                self._elementwise_traffic(layer),
                fixed_s=efficiency.layer_fixed_s * layer.elementwise,
                token_s=token_s * layer.elementwise,
                memory=efficiency.elementwise_memory,
                bandwidth_bytes_per_s=self._bandwidth,
                cache_bytes=efficiency.cache_bytes,
            )
        one_pass_s = self._context.layout.hidden * self._context.precision.element_bytes / self._bandwidth
        seconds += self.layout.num_layers * self._context.hidden_passes * one_pass_s * tokens
        fixed_s = efficiency.layer_fixed_s * in_order(layer.elementwise * count for layer, count in self.layout.layers)
        return Cost("elementwise", float(seconds), "memory" if seconds > 2 * fixed_s else "latency")

    def _elementwise_traffic(self, layer: RankLayer) -> list[Traffic]:
        """Activations between the matrix products; those inside fused experts are part of the experts' kernel."""
        element = self._context.precision.element_bytes
        parts = [norms(self._context.layout.hidden, element)]
        attention = layer.attention
        if attention.spec.ssm is not None or attention.spec.kind == "none":
            parts = [Traffic(p.working_bytes, p.total_bytes * layer.elementwise) for p in parts]
        if attention.spec.kind == "gqa":
            parts.append(rotary(attention.num_heads, attention.num_kv_heads, attention.spec.head_dim, element))
        down = [m for m in layer.matrices if m.name.endswith(".down_proj")]
        outputs = sum(m.n for m in layer.matrices if m.name.split(".")[-1] in ("gate_up_proj", "gate_proj", "up_proj"))
        return [*parts, *(activation(outputs, m.k, element) for m in down)]

    def token_costs(self, tokens: int) -> list[Cost]:
        """Everything that depends on the scheduled tokens alone."""
        tp, layout = self._ranks, self._context.layout
        reduced = tokens * layout.hidden * self._context.precision.element_bytes
        costs = [self._elementwise(tokens)]
        if self.layout.is_first and tp > 1:
            costs.append(self._collective("all_reduce.embedding", "all_reduce", reduced, tp, 1))
        for layer, count in self.layout.layers:
            own = tokens * layer.token_share
            reduced = own * layout.hidden * self._context.precision.element_bytes
            kernels = [self._matrix(m, own, count) for m in layer.matrices]
            costs += kernels
            if tp > 1:
                costs += self._sums_of_attention(layer, own, reduced, count)
            if layer.experts is None:
                exchange = reduce_mlp(self._context, own, count) if "mlp" in layer.sums_after else []
            else:
                experts, exchange = self.moe.costs(layer.experts, own, count)
                kernels.append(experts)
                costs.append(experts)
            costs += hide_exchange(exchange, kernels[-1].seconds) if self._context.fused_moe else exchange
            costs += self._offload_costs(layer, count, tokens, kernels)
        costs = hide_collectives(costs, self._context.comm_overlap)
        costs += self._expansion(
            [(weights, fmt) for layer, count in self.layout.layers for weights, fmt in _stored(layer, count)]
        )
        if not self.layout.is_last:
            costs.append(self._send(tokens))
        return costs

    def _sums_of_attention(self, layer: RankLayer, tokens: float, reduced: float, count: int) -> list[Cost]:
        """Partial sums after the mixer, and inside it where Mamba 1 projects its inner channels."""
        tp, element = self._ranks, self._context.precision.element_bytes
        costs = []
        if "attention" in layer.sums_after:
            times = layer.attention.spec.kernels
            costs.append(self._collective("all_reduce.attention", "all_reduce", reduced, tp, count * times))
        if layer.sums_within:
            inside = tokens * layer.sums_within * element
            costs.append(self._collective("all_reduce.x_proj", "all_reduce", inside, tp, count))
        return costs

    def _offload_costs(self, layer: RankLayer, count: int, tokens: int, kernels: list[Cost]) -> list[Cost]:
        """What offloaded weights cost beyond the kernels. Of the routed experts only those hit are read."""
        path = self._context.offload
        if path is None or path.backend == "prefetch":
            return []
        stored = [m.weight_bytes * self._fired(m.name, tokens) for m in layer.matrices]
        if layer.experts is not None:
            active = self.moe.loads.mean_rank(layer.experts, tokens)[1] / layer.experts.local_experts
            stored.append(min(1.0, active) * layer.experts.weight_bytes)
        whole = self._whole_mlp(layer, tokens, count) if path.backend == "cpu-neurons" else []
        return offload_costs(
            path, self._offloaded_share, layer, count, tokens, stored, kernels, self._neurons, whole, self._bandwidth
        )

    def _whole_mlp(self, layer: RankLayer, tokens: int, count: int) -> list[Cost]:
        """The dense MLP with all neurons that fire here, wherever they are."""
        assert self._neurons is not None
        hot, cold, _ = self._neurons.fired(tokens)
        mlp = (m for m in layer.matrices if m.name.startswith("mlp."))
        return [self._matrix(m, tokens, count, min(1.0, hot + cold)) for m in mlp]

    def _send(self, tokens: int) -> Cost:
        """Hidden states and residual to the next stage, a 1/tp slice per rank, gathered there (as vLLM does)."""
        tp, context = self._ranks, self._context
        nbytes = 2.0 * tokens * context.layout.hidden * context.precision.element_bytes
        first = self.layout.index * tp
        seconds = context.interconnect.send_s(nbytes / tp, first, first + tp)
        seconds += context.interconnect.seconds("all_gather", nbytes, tp)
        start_s = context.interconnect.send_s(0.0, first, first + tp)
        return Cost("pipeline_send", seconds, "link" if seconds > 2 * start_s else "latency", link_bytes=nbytes / tp)

    def row_costs(self, rows: int) -> list[Cost]:
        """LM head and sampler on the rows that sample; only in the last stage."""
        context = self._context
        if not self.layout.is_last or rows == 0 or not context.samples:
            return []
        layout = context.layout
        costs = [self._gemm("lm_head", rows, layout.vocab_per_rank, layout.hidden, context.precision.lm_head, 1)]
        costs += self._expansion([(layout.vocab_per_rank * layout.hidden, context.precision.lm_head)], "lm_head.expand")
        if self._ranks > 1:
            nbytes = rows * layout.padded_vocab * context.precision.element_bytes
            costs.append(self._collective("all_gather.logits", "all_gather", nbytes, self._ranks, 1))
        sampler_s = context.efficiency.logits_row_s * rows * layout.padded_vocab / REFERENCE_VOCAB
        costs.append(Cost("sampler", sampler_s, "memory"))
        if context.filter_row_s:
            filter_s = context.filter_row_s * rows
            costs.append(Cost("sampler.top_p", filter_s, "memory", nbytes=filter_s * self._bandwidth))
        return costs

    @property
    def fixed_s(self) -> float:
        """Part of a step that nothing overlaps with [s]."""
        return self._step_fixed_s()

    def _step_fixed_s(self) -> float:
        return self._context.efficiency.step_fixed_s if self.layout.is_last else 0.0

    # -- totals, for the hot path -------------------------------------------------------------------------------------

    def _spent(
        self, seconds: float, peak_s: float, nbytes: float, kernels_s: Callable[[Stage], float]
    ) -> tuple[float, float]:
        """(seconds, joules of all ranks) of a part of a step, under the power limit if there is one.

        ``kernels_s``: time of the part on this stage or on the same one at another clock.
        """
        memory_s = nbytes / self._bandwidth
        one = energy_j(self._power, seconds, peak_s, memory_s, self._device.tdp_w)
        if self._limit is not None:
            cap, at = self._limit
            seconds, one = cap.fit(seconds, one, peak_s, memory_s, lambda share: kernels_s(at(share)) - kernels_s(self))
        return seconds, one * self._ranks

    def _limited_s(self, costs: Iterable[Cost], fixed_s: float = 0.0) -> float:
        """How much longer the components take than their kernels would, because of the device's power limit [s]."""
        listed = list(costs)
        peak_s, memory_s = in_order(c.peak_s for c in listed), in_order(c.nbytes for c in listed) / self._bandwidth
        least_s = least_seconds(self._power, peak_s, memory_s, self._device.tdp_w)
        return max(0.0, least_s - fixed_s - in_order(c.seconds for c in listed))

    def _total(self, costs: Callable[[Stage], list[Cost]], fixed_s: float = 0.0) -> Total:
        listed = costs(self)
        nbytes, peak_s = in_order(c.nbytes for c in listed), in_order(c.peak_s for c in listed)
        seconds = in_order(c.seconds for c in listed) + fixed_s + self._limited_s(listed, fixed_s)
        seconds, joules = self._spent(seconds, peak_s, nbytes, lambda stage: in_order(c.seconds for c in costs(stage)))
        return Total(seconds, joules, in_order(c.flop for c in listed), nbytes)

    def tokens(self, tokens: int) -> Total:
        """Sum of ``token_costs`` and the fixed time of a step, memoised."""
        known = self._tokens.get(tokens)
        if known is None:
            known = self._tokens[tokens] = self._total(lambda s: s.token_costs(tokens), self._step_fixed_s())
        return known

    def rows(self, rows: int) -> Total:
        """Sum of ``row_costs``, memoised."""
        known = self._rows.get(rows)
        if known is None:
            known = self._rows[rows] = self._total(lambda s: s.row_costs(rows))
        return known

    def resources(self, tokens: int, rows: int) -> Resources:
        """How long a step's components without attention keep each resource busy, memoised."""
        known = self._resources.get((tokens, rows))
        if known is None:
            known = resources_of(self.token_costs(tokens) + self.row_costs(rows), self._bandwidth)
            self._resources[tokens, rows] = known
        return known

    def decode_attention(self, num_seqs: int, mixed: bool) -> DecodeLine:
        """Attention of ``num_seqs`` decode rows as a line in the context; ``mixed``: beside a prefill chunk."""
        peak = self._context.precision.attention_peak_flop_per_s
        base_s = base_j = context_s = context_j = window_s = window_j = 0.0
        for i, c in enumerate(self.attention):
            fixed_s, fixed_j = self._spent(
                _fixed_s(c, num_seqs, mixed),
                c.decode_seq_flop * num_seqs / peak,
                c.decode_seq_bytes * num_seqs,
                lambda stage, i=i: _fixed_s(stage.attention[i], num_seqs, mixed),  # type: ignore[misc]
            )
            base_s, base_j = base_s + fixed_s, base_j + fixed_j
            slope_s, slope_j = self._spent(
                _slope_s(c, mixed),
                c.decode_flop / peak,
                c.decode_bytes,
                lambda stage, i=i: _slope_s(stage.attention[i], mixed),  # type: ignore[misc]
            )
            if c.window is None:
                context_s, context_j = context_s + slope_s, context_j + slope_j
            else:
                window_s, window_j = window_s + slope_s, window_j + slope_j
                context_s, context_j = context_s + c.selection * slope_s, context_j + c.selection * slope_j
        return DecodeLine(base_s, context_s, window_s, base_j, context_j, window_j)

    def prefill(self, shape: StepShape) -> tuple[float, float]:
        """(seconds, joules) of the attention of the prefill chunks."""
        peak, limit = self._attention_peak_flop_per_s, self._limit
        seconds = joules = 0.0
        for i, c in enumerate(self.attention):
            compute_s, other_s, flop, nbytes = prefill_cost(c, shape)
            part_s = compute_s + other_s
            if limit is None:
                memory_s = nbytes / self._bandwidth
                joules += self._ranks * energy_j(self._power, part_s, flop / peak, memory_s, self._device.tdp_w)
            else:
                part_s, part_j = self._spent(part_s, flop / peak, nbytes, partial(_prefill_s, shape, i))
                joules += part_j
            seconds += part_s
        return seconds, joules

    # -- breakdown ----------------------------------------------------------------------------------------------------

    def attention_costs(self, shape: StepShape) -> list[Cost]:
        """Attention of a step, one entry per kind of block and phase."""
        peak = self._context.precision.attention_peak_flop_per_s
        costs = []
        for c in self.attention:
            suffix = "" if c.window is None else "_window"
            if shape.decode_seqs:
                costs.append(self._decode_cost(c, shape, f"attention.decode{suffix}"))
            if shape.prefill_tokens:
                compute_s, other_s, flop, moved = prefill_cost(c, shape)
                launch_s = c.prefill_fixed_s
                bound = gemm_bound(compute_s + other_s, compute_s, other_s - launch_s)
                costs.append(Cost(f"attention.prefill{suffix}", compute_s + other_s, bound, flop / peak, flop, moved))
        return costs

    def _decode_cost(self, c: AttentionCoefficients, shape: StepShape, name: str) -> Cost:
        mixed = shape.prefill_tokens > 0
        context = context_read(c, shape)
        slope_s, fixed_s = _slope_s(c, mixed), _fixed_s(c, shape.decode_seqs, mixed)
        is_compute = c.decode_is_compute or (mixed and c.mixed_context_s > c.decode_context_s)
        work_s = slope_s * context + (c.decode_seq_s * shape.decode_seqs if c.kind == "linear" else 0.0)
        launch_s = slope_s * context + fixed_s - work_s
        bound: Bound = "latency" if launch_s > work_s else "compute" if is_compute else "memory"
        flop, moved = decode_flop(c, shape), decode_bytes(c, shape)
        peak = self._context.precision.attention_peak_flop_per_s
        return Cost(name, slope_s * context + fixed_s, bound, flop / peak, flop, moved)

    def costs(self, shape: StepShape, padded_tokens: int | None = None) -> list[Cost]:
        """All components of a step on one rank; their seconds add up to the stage's time without the host.

        ``padded_tokens``: what the kernels see in place of the scheduled tokens.
        """
        tokens = shape.decode_seqs + shape.prefill_tokens if padded_tokens is None else padded_tokens
        costs = self.token_costs(tokens) + self.attention_costs(shape) + self.row_costs(shape.logits_rows)
        fixed_s = self._step_fixed_s()
        if fixed_s:
            costs.append(Cost("step_fixed", fixed_s, "latency"))
        limited_s = self._limited_s(self.token_costs(tokens), fixed_s) + self._limited_s(
            self.row_costs(shape.logits_rows)
        )
        if self._limit is not None:
            limited_s = max(0.0, self._seconds(shape, tokens) - in_order(c.seconds for c in costs))
        if limited_s:
            costs.append(Cost("power_limit", limited_s, "power"))
        return costs

    def _seconds(self, shape: StepShape, tokens: int) -> float:
        """Time of a step under the power limit, without the host [s]."""
        seconds = self.tokens(tokens).seconds + self.rows(shape.logits_rows).seconds
        if shape.decode_seqs:
            line = self.decode_attention(shape.decode_seqs, mixed=shape.prefill_tokens > 0)
            seconds += line.cost(shape.context_tokens, shape.window_tokens)[0]
        return seconds + (self.prefill(shape)[0] if shape.prefill_tokens else 0.0)

    def flop(self, shape: StepShape) -> float:
        """FLOP of all ranks of the stage."""
        attention = in_order(
            (decode_flop(c, shape) if shape.decode_seqs else 0.0)
            + (prefill_cost(c, shape).flop if shape.prefill_tokens else 0.0)
            for c in self.attention
        )
        num_tokens = shape.decode_seqs + shape.prefill_tokens
        tokens = self.tokens(num_tokens).flop if num_tokens else 0.0
        return (tokens + self.rows(shape.logits_rows).flop + attention) * self._ranks

    def nbytes(self, shape: StepShape) -> float:
        """HBM bytes of all ranks of the stage."""
        attention = in_order(
            (decode_bytes(c, shape) if shape.decode_seqs else 0.0)
            + (prefill_cost(c, shape).nbytes if shape.prefill_tokens else 0.0)
            for c in self.attention
        )
        num_tokens = shape.decode_seqs + shape.prefill_tokens
        tokens = self.tokens(num_tokens).nbytes if num_tokens else 0.0
        return (tokens + self.rows(shape.logits_rows).nbytes + attention) * self._ranks


def _stored(layer: RankLayer, count: int) -> list[tuple[float, KernelFormat]]:
    """(weights, format) of the matrices of ``count`` blocks on one rank, all experts included."""
    parts = [(float(count * m.n * m.k), m.format) for m in layer.matrices]
    if layer.experts is not None:
        e = layer.experts
        parts.append((float(count * e.local_experts * e.num_matrices * e.hidden * e.intermediate), e.format))
    return parts


def _fixed_s(c: AttentionCoefficients, num_seqs: int, mixed: bool) -> float:
    """Decode attention without its context [s]; ``mixed``: beside a prefill chunk."""
    return (c.mixed_fixed_s if mixed else c.decode_fixed_s) + c.decode_seq_s * num_seqs


def _slope_s(c: AttentionCoefficients, mixed: bool) -> float:
    """Decode attention per token of context [s]."""
    return c.mixed_context_s if mixed else c.decode_context_s


def _prefill_s(shape: StepShape, layer: int, stage: Stage) -> float:
    """Attention of the prefill chunks in one kind of layer of a stage [s]."""
    compute_s, other_s, _, _ = prefill_cost(stage.attention[layer], shape)
    return compute_s + other_s
