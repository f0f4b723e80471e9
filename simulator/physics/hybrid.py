"""A stage that waits for experts, or whose attention runs elsewhere: a line in the context with a least duration."""

from __future__ import annotations

from hardware_profiles.errors import UserError
from hardware_profiles.schema import Cluster
from simulator.engine import EngineProfile
from simulator.physics.attention import decode_bytes, decode_flop
from simulator.physics.cost import Cost, Total
from simulator.physics.expert_cache import StageCache, check_expert_cache, stage_cache
from simulator.physics.remote_attention import RemoteKv, link_s, remote_kv, remote_line, resident_line
from simulator.physics.shape import DecodeLine, StepShape
from simulator.physics.stage import Stage
from simulator.physics.sums import in_order
from simulator.plan import ParallelPlan

NOTHING = DecodeLine(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def hybrids_of(
    stages: tuple[Stage, ...], cluster: Cluster, plan: ParallelPlan, engine: EngineProfile, skew: float, wait_w: float
) -> tuple[StageHybrid, ...] | None:
    """What each stage does besides its own kernels; None when nothing is set. UserError for what does not go together."""
    on = plan.techniques
    if on.expert_cache is None and on.attention_device is None:
        return None
    flag = "a cache of experts" if on.expert_cache is not None else "--attention-device"
    if cluster.device.dataflow is not None:
        raise UserError(f"{flag} is for devices that run kernels; {cluster.device.name} is a spatial design: drop it")
    if engine.nano_batch_tokens:
        raise UserError(f"--nano-batch-tokens and {flag} both overlap parts of a step; drop one of them")
    if plan.power_cap_w is not None:
        raise UserError(f"--power-cap and {flag} do not work together; drop one of them")
    check_expert_cache(tuple(s.layout for s in stages), cluster, plan)
    kv = remote_kv(cluster, plan)
    return tuple(StageHybrid(s, stage_cache(s.layout, cluster, plan, skew), kv, wait_w) for s in stages)


class StageHybrid:
    """One stage. All times without the host and without what bounds every step (launches, streamed weights)."""

    def __init__(self, stage: Stage, cache: StageCache | None, kv: RemoteKv | None, wait_w: float) -> None:
        """``wait_w``: power of the stage's devices while they wait [W]."""
        self.stage, self.cache, self.kv, self.wait_w = stage, cache, kv, wait_w
        self._known_waits: dict[int, tuple[float, float]] = {}
        self._known_projections: dict[int, float] = {}
        self._known_crossing: dict[tuple[int, int], float] = {}

    def line(self, shape: StepShape, padded: int, beside: Total) -> DecodeLine:
        """The step at any context: ``max(floor, base + context C + window W)``; prompts as ``shape`` has them.

        With work w (``beside`` included), attention A, experts that are missing m (prefetched) and d (on demand), and o the
        part of w and A outside the prefetch's window:
        one after the other max(w + A, o + m) + d; attention elsewhere at the same time max(A, max(w, o + m) + d). KV and
        weights on one link take turns: A + l at the same time, max(w, l) + A one after the other, l the weights' time there.
        """
        stage, mixed = self.stage, shape.prefill_tokens > 0
        work = stage.tokens(padded), stage.rows(shape.logits_rows), beside
        work_s, work_j = in_order(t.seconds for t in work), in_order(t.joules for t in work)
        if mixed:
            prompt_s, prompt_j = stage.prefill(shape)
            work_s, work_j = work_s + prompt_s, work_j + prompt_j
        attention = self._attention(shape)
        if self.kv is not None:
            kept_s = resident_line(stage, shape.decode_seqs, mixed).base_s
            work_s, work_j = work_s + kept_s, work_j + self.wait_w * kept_s
        ahead_s, demand_s = self._waits(shape.decode_seqs + shape.prefill_tokens)
        outside_s = self._outside_s(shape, padded, work_s) if ahead_s else 0.0
        turns_s = self._turns_s(shape, padded)
        if self.kv is not None and not self.kv.device.serial:
            turns_s += link_s(self.kv, self._expert_bytes(shape.decode_seqs + shape.prefill_tokens))
            least_s = max(work_s, outside_s + ahead_s) + demand_s
            attention = self._waiting(attention._replace(base_s=attention.base_s + turns_s))
            return attention._replace(
                base_j=attention.base_j + work_j - self.wait_w * work_s, floor_s=least_s, wait_w=self.wait_w
            )
        if self.kv is not None:
            attention = self._waiting(attention)
            if ahead_s and self.cache is not None:
                turns_s = max(turns_s, outside_s + link_s(self.kv, ahead_s * self.cache.bandwidth_bytes_per_s))
            work_s, work_j = max(work_s, turns_s), work_j + self.wait_w * max(0.0, turns_s - work_s)
        return attention._replace(
            base_s=work_s + attention.base_s + demand_s,
            base_j=work_j + attention.base_j + self.wait_w * demand_s,
            floor_s=outside_s + ahead_s + demand_s if ahead_s else 0.0,
            wait_w=self.wait_w,
        )

    def _waiting(self, line: DecodeLine) -> DecodeLine:
        """The joules of an accelerator that waits as long."""
        w = self.wait_w
        return line._replace(base_j=w * line.base_s, context_j=w * line.context_s, window_j=w * line.window_s)

    def _attention(self, shape: StepShape) -> DecodeLine:
        """Attention of the decoding sequences, here or elsewhere."""
        seqs, prompts = shape.decode_seqs, shape.prefill_tokens
        if self.kv is not None:
            streamed = self.stage.offloaded_bytes + self._expert_bytes(seqs + prompts)
            return remote_line(self.stage, self.kv, shape, streamed)
        return self.stage.decode_attention(seqs, mixed=prompts > 0) if seqs else NOTHING

    def _turns_s(self, shape: StepShape, padded: int) -> float:
        """What streamed weights, without cached experts, take of the link over which a KV cache comes too [s], memoised."""
        if self.kv is None or not self.kv.on_accelerator or not shape.decode_seqs:
            return 0.0
        tokens = shape.decode_seqs + shape.prefill_tokens
        known = self._known_crossing.get((tokens, padded))
        if known is None:
            crossing = self.stage.offloaded_bytes if self.stage.stream_s else 0.0
            crossing += in_order(c.link_bytes for c in self.stage.token_costs(padded) if c.name.startswith("weights."))
            known = self._known_crossing[tokens, padded] = link_s(self.kv, crossing)
        return known

    def _expert_bytes(self, tokens: int) -> float:
        """Experts that cross the link in a step [B]."""
        return 0.0 if self.cache is None else in_order(self._waits(tokens)) * self.cache.bandwidth_bytes_per_s

    def _waits(self, tokens: int) -> tuple[float, float]:
        """(prefetched, on demand) [s], memoised."""
        if self.cache is None:
            return 0.0, 0.0
        known = self._known_waits.get(tokens)
        if known is None:
            known = self._known_waits[tokens] = self.cache.waits(tokens)
        return known

    def _projections_s(self, padded: int) -> float:
        """Matrix products around attention [s], memoised."""
        known = self._known_projections.get(padded)
        if known is None:
            costs = self.stage.token_costs(padded)
            known = in_order(c.seconds for c in costs if c.name.startswith("attention."))
            self._known_projections[padded] = known
        return known

    def _outside_s(self, shape: StepShape, padded: int, work_s: float) -> float:
        """Part of the work that cannot hide prefetches: what is not in blocks, or what is not attention [s]."""
        assert self.cache is not None
        if self.cache.cache.prefetch == "layer":
            return self.stage.rows(shape.logits_rows).seconds + self.stage.fixed_s
        prompt_s = self.stage.prefill(shape)[0] if shape.prefill_tokens else 0.0
        return max(0.0, work_s - self._projections_s(padded) - prompt_s)

    def cost(self, shape: StepShape, padded: int, beside: Total) -> tuple[float, float]:
        """(seconds, joules) of a step."""
        return self.line(shape, padded, beside).cost(shape.context_tokens, shape.window_tokens)

    def components(self, costs: list[Cost], seconds: float, shape: StepShape) -> list[Cost]:
        """A breakdown that adds up to ``seconds``: ``costs`` of the stage's kernels as far as they run here, and waits."""
        if self.kv is not None:
            costs = [c for c in costs if not c.name.startswith("attention.decode")]
            kept_s = resident_line(self.stage, shape.decode_seqs, shape.prefill_tokens > 0).base_s
            if kept_s:
                costs.append(Cost("attention.state", kept_s, "memory"))
        wait_s = seconds - in_order(c.seconds for c in costs)
        tokens = shape.decode_seqs + shape.prefill_tokens
        if self.cache is not None:
            experts_s = wait_s if self.kv is None else min(wait_s, self._waits(tokens)[1])
            costs.append(Cost("experts.wait", experts_s, "link", link_bytes=self._expert_bytes(tokens)))
            wait_s -= experts_s
        if self.kv is not None:
            nbytes = in_order(decode_bytes(c, shape) for c in self.stage.attention if c.decode_bytes)
            flop = in_order(decode_flop(c, shape) for c in self.stage.attention if c.decode_bytes)
            costs.append(Cost("attention.elsewhere", wait_s, "memory", flop=flop, nbytes=nbytes))
        return costs
