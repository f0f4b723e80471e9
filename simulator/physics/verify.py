"""A step in which every decoding sequence brings several tokens: the drafts to verify, and the one before them.

All tokens go through the matrices and the LM head; attention reads the context of a sequence once for all its tokens
together, and is bound by arithmetic when they are many (a decode kernel has the roofs of prompt attention then).
"""

from __future__ import annotations

from functools import partial

from simulator.physics.coefficients import AttentionCoefficients
from simulator.physics.shape import DecodeLine, StepShape
from simulator.physics.stage import Stage
from simulator.physics.step_model import StepModel


class VerifyModel:
    """A :class:`StepModel` of one stage with ``queries`` tokens per decoding sequence.

    A step is that of as many sequences as it has tokens, all that a plan or engine does to steps included, but for its
    attention and for the host's work per sequence.
    """

    def __init__(self, model: StepModel, queries: int) -> None:
        assert len(model.stages) == 1, "drafts are not verified in pipelines"
        self.model = model
        self.queries = queries
        self._stage = model.stages[0]
        self._lines: dict[int, DecodeLine] = {}
        self._mixed: dict[int, DecodeLine] = {}

    def decode(self, num_seqs: int) -> DecodeLine:
        """A step without prompts as a line in its context; as :meth:`StepModel.decode`."""
        if self.queries == 1 or num_seqs <= 0:
            return self.model.decode(num_seqs)
        line = self._lines.get(num_seqs)
        if line is None:
            line = self._lines[num_seqs] = self._compile(num_seqs)
        return line

    def _compile(self, num_seqs: int) -> DecodeLine:
        one = self.model.decode(num_seqs * self.queries)
        more = self._more(num_seqs, mixed=False)
        host_s = self.model._seq_s * num_seqs * (self.queries - 1)
        return DecodeLine(
            one.base_s + more.base_s,
            one.context_s + more.context_s,
            one.window_s + more.window_s,
            one.base_j + more.base_j,
            one.context_j + more.context_j,
            one.window_j + more.window_j,
            one.floor_s - host_s if one.floor_s else 0.0,
            one.wait_w,
        )

    def _more(self, num_seqs: int, mixed: bool) -> DecodeLine:
        """What attention of sequences with several tokens takes beyond that of as many sequences with one (or less), and the
        host's work on sequences that are not there."""
        several = attention_line(self._stage, num_seqs, self.queries, mixed)
        single = self._stage.decode_attention(num_seqs * self.queries, mixed)
        host_s = self.model._seq_s * num_seqs * (self.queries - 1)
        return DecodeLine(
            several.base_s - single.base_s - host_s,
            several.context_s - single.context_s,
            several.window_s - single.window_s,
            several.base_j - single.base_j - host_s * self.model._host_j,
            several.context_j - single.context_j,
            several.window_j - single.window_j,
        )

    def step(self, shape: StepShape) -> tuple[float, float]:
        """(seconds, joules) of any step; ``shape`` counts one token per decoding sequence, as everywhere."""
        seqs = shape.decode_seqs
        if self.queries == 1 or not seqs:
            return self.model.step(shape)
        if not shape.prefill_tokens:
            return self.decode(seqs).cost(shape.context_tokens, shape.window_tokens)
        more_rows = seqs * (self.queries - 1)
        rows = shape.logits_rows + more_rows
        seconds, joules = self.model.step(shape._replace(decode_seqs=seqs + more_rows, logits_rows=rows))
        more = self._mixed.get(seqs)
        if more is None:
            more = self._mixed[seqs] = self._more(seqs, mixed=True)
        context, window = shape.context_tokens, shape.window_tokens
        seconds += more.base_s + more.context_s * context + more.window_s * window
        joules += more.base_j + more.context_j * context + more.window_j * window
        return seconds, joules


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
            context_s, context_j = context_s + c.selection * seconds, context_j + c.selection * joules
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
