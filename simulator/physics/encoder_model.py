"""Steps of models with an encoder: encoder-decoder models, and models that answer in one pass.

Attention in an encoder is not causal: an input of n tokens has n^2 query-key pairs, where a causal one has n(n+1)/2. Inputs
are computed whole (batching policies that cut them are refused), so a step's causal pairs P and tokens T give 2 P - T.

Encoder-decoder: a request whose input is in a step costs its encoder pass, the projection to the keys and values of every
cross-attention, and one decoder row for the start token. A decoder row reads the input's entries in the cross-attention, which
are fixed for the request, and those of the output so far and of the start token in the self-attention: an entry more than the
context that the event loop counts, the same width in both (T5, BART, Whisper), so a step stays a line in its context. What a
preempted request has generated is computed again at the cost of input tokens.
"""

from __future__ import annotations

from dataclasses import replace

from hardware_profiles.errors import UserError
from hardware_profiles.schema import Cluster
from simulator.engine import EngineProfile
from simulator.physics.components import ComponentCost
from simulator.physics.moe import ExpertRouting
from simulator.physics.shape import DecodeLine, StepShape
from simulator.physics.step_model import StepModel
from simulator.physics.sums import in_order
from simulator.plan import ParallelPlan
from workloads.model import ModelSpec


def encoder_of(model: ModelSpec) -> ModelSpec:
    """The encoder as a model of its own, without embedding and LM head."""
    assert model.encoder is not None
    return replace(
        model,
        name=f"{model.name} (encoder)",
        layers=model.encoder.layers,
        encoder=None,
        vocab_size=1,
        tie_word_embeddings=True,
        other_params=0,
        layer_pattern=(),
    )


def uncached(shape: StepShape) -> StepShape:
    """The prompts of a step as an encoder computes them. UserError for a part of an input."""
    if shape.prefill_context:
        raise UserError(
            f"{shape.prefill_context:,} cached tokens (--cached): an encoder computes its input whole; drop them"
        )
    pairs = 2 * shape.prefill_pairs - shape.prefill_tokens
    return StepShape(
        prefill_tokens=shape.prefill_tokens,
        prefill_pairs=pairs,
        window_pairs=pairs,
        prefill_seqs=shape.prefill_seqs,
    )


class EncoderDecoderModel(StepModel):
    """Physics of one replica of an encoder-decoder model; the stages are the decoder's."""

    def __init__(self, model: ModelSpec, cluster: Cluster, plan: ParallelPlan, engine: EngineProfile) -> None:
        super().__init__(model, cluster, plan, engine)
        host = dict.fromkeys(("step_fixed_s", "step_seq_s", "sync_step_fixed_s", "sync_step_seq_s"), 0.0)
        # encoders run outside the decoder's graphs
        self.encoder = StepModel(encoder_of(model), cluster, plan, replace(engine, cuda_graphs="none", **host))  # type: ignore[arg-type]

    def _compile_decode(self, num_seqs: int) -> DecodeLine:
        line = super()._compile_decode(num_seqs)
        return line._replace(
            base_s=line.base_s + num_seqs * line.context_s, base_j=line.base_j + num_seqs * line.context_j
        )

    @staticmethod
    def decoder_rows(shape: StepShape) -> StepShape:
        """Running sequences and the start tokens of new ones; the inputs of the latter are what they read."""
        rows, context = shape.logits_rows, shape.context_tokens + shape.prefill_tokens
        return StepShape(decode_seqs=rows, context_tokens=context, window_tokens=context, logits_rows=rows)

    def _with_start(self, shape: StepShape) -> StepShape:
        """The rows with the start token's entry in their context."""
        rows = self.decoder_rows(shape)
        context = rows.context_tokens + rows.decode_seqs
        return rows._replace(context_tokens=context, window_tokens=context)

    def step(self, shape: StepShape) -> tuple[float, float]:
        """(seconds, joules) of any step: the encoder over new inputs, then the decoder's rows."""
        rows = self.decoder_rows(shape)
        seconds, joules = self.decode(rows.decode_seqs).cost(rows.context_tokens, rows.window_tokens)
        if shape.prefill_tokens:
            encoder_s, encoder_j = self.encoder.step(uncached(shape))
            seconds, joules = seconds + encoder_s, joules + encoder_j
        return seconds, joules

    def stage_s(self, shape: StepShape) -> tuple[float, ...]:
        """Seconds in the one stage there is."""
        return (self.step(shape)[0],)

    def explain(self, shape: StepShape) -> list[ComponentCost]:
        """Breakdown of a step; the encoder's components by its name."""
        parts = super().explain(self._with_start(shape)) if shape.logits_rows else []
        if shape.prefill_tokens:
            inside = self.encoder.explain(uncached(shape))
            parts += [replace(part, name=f"encoder.{part.name}") for part in inside]
        total_s = in_order(part.seconds for part in parts)
        parts = [replace(part, share=part.seconds / total_s if total_s else 0.0) for part in parts]
        return sorted(parts, key=lambda part: -part.seconds)

    def flop(self, shape: StepShape) -> float:
        """FLOP of both parts over all devices of the replica."""
        return super().flop(self._with_start(shape)) + self.encoder.flop(uncached(shape))

    def hbm_bytes(self, shape: StepShape) -> float:
        """Memory traffic of both parts over all devices of the replica [B]."""
        decoder = super().hbm_bytes(self._with_start(shape)) if shape.logits_rows else 0.0
        return decoder + (self.encoder.hbm_bytes(uncached(shape)) if shape.prefill_tokens else 0.0)


class OnePassModel(StepModel):
    """Physics of a model that answers with one pass: no LM head, no sampler, and no KV read back."""

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
        super().__init__(model, cluster, plan, engine, moe_skew=moe_skew, expert_routing=expert_routing)
        self._bidirectional = any(g.attention.bidirectional for g in model.layers)

    def _pass(self, shape: StepShape) -> StepShape:
        """The step without what samples."""
        if self._bidirectional:
            return uncached(shape)
        return shape._replace(logits_rows=0)

    def step(self, shape: StepShape) -> tuple[float, float]:
        """(seconds, joules) of a step."""
        return super().step(self._pass(shape))

    def stage_s(self, shape: StepShape) -> tuple[float, ...]:
        """Seconds in each pipeline stage."""
        return super().stage_s(self._pass(shape))

    def explain(self, shape: StepShape) -> list[ComponentCost]:
        """Breakdown of a step."""
        return super().explain(self._pass(shape))

    def flop(self, shape: StepShape) -> float:
        """FLOP over all devices of the replica."""
        return super().flop(self._pass(shape))

    def hbm_bytes(self, shape: StepShape) -> float:
        """Memory traffic over all devices of the replica [B]."""
        return super().hbm_bytes(self._pass(shape))


def step_model_of(
    model: ModelSpec,
    cluster: Cluster,
    plan: ParallelPlan,
    engine: EngineProfile,
    *,
    moe_skew: float = 0.0,
    expert_routing: ExpertRouting | None = None,
) -> StepModel:
    """Physics of one replica of any architecture."""
    if model.encoder is not None:
        return EncoderDecoderModel(model, cluster, plan, engine)
    build = OnePassModel if model.pooling else StepModel
    return build(model, cluster, plan, engine, moe_skew=moe_skew, expert_routing=expert_routing)
