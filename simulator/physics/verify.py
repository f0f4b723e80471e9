"""A step in which every decoding sequence brings several tokens: the drafts to verify, and the one before them.

All tokens go through the matrices and the LM head; attention reads the context of a sequence once for all its tokens
together, and is bound by arithmetic when they are many (a decode kernel has the roofs of prompt attention then).
"""

from __future__ import annotations

from functools import partial

from simulator.physics.attention import AttentionCoefficients
from simulator.physics.shape import DecodeLine, StepShape
from simulator.physics.stage import Stage
from simulator.physics.step_model import StepModel


class VerifyModel:
    """A :class:`StepModel` of one stage with ``queries`` tokens per decoding sequence. With one, it is that model."""

    def __init__(self, model: StepModel, queries: int) -> None:
        assert len(model.stages) == 1, "drafts are not verified in pipelines"
        self.model = model
        self.queries = queries
        self._stage = model.stages[0]
        self._lines: dict[int, DecodeLine] = {}
        self._mixed: dict[int, DecodeLine] = {}

    def decode(self, num_seqs: int) -> DecodeLine:
        """A step without prompts as a line in its context; as :meth:`StepModel.decode`."""
        if self.queries == 1:
            return self.model.decode(num_seqs)
        line = self._lines.get(num_seqs)
        if line is None:
            line = self._lines[num_seqs] = self._compile(num_seqs)
        return line

    def _compile(self, num_seqs: int) -> DecodeLine:
        model, stage = self.model, self._stage
        tokens = num_seqs * self.queries
        host_s = model._host_s(tokens, num_seqs)
        linear, rows = stage.tokens(model._launches.padded(tokens, False)), stage.rows(tokens)
        attention = attention_line(stage, num_seqs, self.queries, mixed=False)
        launch_s = model._launches.seconds(tokens, False, stage.layout.launches)
        return attention._replace(
            base_s=host_s + linear.seconds + rows.seconds + attention.base_s,
            base_j=host_s * model._host_j + linear.joules + rows.joules + attention.base_j,
            floor_s=host_s + launch_s if launch_s else 0.0,
            wait_w=model._host_j,
        )

    def step(self, shape: StepShape) -> tuple[float, float]:
        """(seconds, joules) of any step; ``shape`` counts one token per decoding sequence, as everywhere."""
        if self.queries == 1:
            return self.model.step(shape)
        seqs = shape.decode_seqs
        if not shape.prefill_tokens:
            return self.decode(seqs).cost(shape.context_tokens, shape.window_tokens)
        model, stage = self.model, self._stage
        tokens = seqs * self.queries + shape.prefill_tokens
        host_s = model._host_s(tokens, seqs + shape.prefill_seqs)
        linear = stage.tokens(model._launches.padded(tokens, True))
        rows = stage.rows(shape.logits_rows + seqs * (self.queries - 1))
        seconds, joules = stage.prefill(shape)
        if seqs:
            line = self._mixed.get(seqs)
            if line is None:
                line = self._mixed[seqs] = attention_line(stage, seqs, self.queries, mixed=True)
            more = line.cost(shape.context_tokens, shape.window_tokens)
            seconds, joules = seconds + more[0], joules + more[1]
        seconds += linear.seconds + rows.seconds
        joules += linear.joules + rows.joules
        launch_s = model._launches.seconds(tokens, True, stage.layout.launches)
        if seconds < launch_s:
            seconds, joules = launch_s, joules + model._host_j * (launch_s - seconds)
        return host_s + seconds, host_s * model._host_j + joules


def attention_line(stage: Stage, num_seqs: int, queries: int, mixed: bool) -> DecodeLine:
    """Attention of ``num_seqs`` sequences with ``queries`` tokens each; the context is that of their first ones."""
    peak = stage._context.precision.attention_peak_flop_per_s
    base_s = base_j = context_s = context_j = window_s = window_j = 0.0
    for index, c in enumerate(stage.attention):
        pairs = num_seqs * (queries * (queries - 1) // 2)
        fixed = partial(_fixed_s, index, num_seqs, queries, mixed)
        seconds, joules = stage._spent(
            fixed(stage),
            (c.decode_seq_flop * num_seqs * queries + c.decode_flop * pairs) / peak,
            c.decode_seq_bytes * num_seqs * (queries if c.pair_flop else 1),
            fixed,
        )
        base_s, base_j = base_s + seconds, base_j + joules
        slope = partial(_slope_s, index, queries, mixed)
        seconds, joules = stage._spent(slope(stage), c.decode_flop * queries / peak, c.decode_bytes, slope)
        if c.window is None:
            context_s, context_j = context_s + seconds, context_j + joules
        else:
            window_s, window_j = window_s + seconds, window_j + joules
    return DecodeLine(base_s, context_s, window_s, base_j, context_j, window_j)


def _pair_s(c: AttentionCoefficients) -> float:
    """Arithmetic of one query on one context entry, at the rate of prompt attention [s]; MLA in its absorbed form."""
    if c.decode_is_compute:
        return c.decode_context_s
    return c.decode_flop * c.prefill_pair_s / c.pair_flop if c.pair_flop else 0.0


def _slope_s(index: int, queries: int, mixed: bool, stage: Stage) -> float:
    """Per context entry of a sequence: read once, or the arithmetic of all its queries if that takes longer [s]."""
    c = stage.attention[index]
    return max(c.mixed_context_s if mixed else c.decode_context_s, queries * _pair_s(c))


def _fixed_s(index: int, num_seqs: int, queries: int, mixed: bool, stage: Stage) -> float:
    """What does not depend on the context: launches, sequences, the new tokens among themselves [s]."""
    c = stage.attention[index]
    fixed_s = (c.mixed_fixed_s if mixed else c.decode_fixed_s) + c.decode_seq_s * num_seqs
    if not c.pair_flop:  # linear attention: its state is read and written once
        return fixed_s + c.prefill_token_s * num_seqs * (queries - 1)
    return fixed_s + _pair_s(c) * num_seqs * (queries * (queries - 1) // 2)
