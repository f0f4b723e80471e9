"""Cost of a step with drafts: the draft's own steps, then the verification of all tokens together."""

from __future__ import annotations

from simulator.physics.shape import DecodeLine, StepShape
from simulator.physics.step_model import StepModel
from simulator.physics.verify import VerifyModel
from simulator.speculative.config import SpeculativeConfig

TOKEN_BYTES = 4
"""A token id on its way between devices."""


class SpeculativeStepModel:
    """What the event loop asks of physics (see :class:`simulator.costs.StepModelLike`), for steps with drafts.

    ``decode`` is the line of a whole step of ``num_seqs`` sequences: host launches of draft and target against the work of
    their devices. A draft adds its own steps over the growing draft, and its part of the prompts.
    """

    def __init__(
        self, target: StepModel, draft: StepModel | None, config: SpeculativeConfig, link_s: float = 0.0
    ) -> None:
        """``link_s``: both ways of the tokens between the draft's device and the target's, per step [s]."""
        self.window = target.window
        self._verify = VerifyModel(target, config.queries)
        self._draft = None if draft is None else VerifyModel(draft, config.width)
        self._prompts = draft
        self._config = config
        self._link_s = link_s
        self._whole = draft is not None and draft.window is not None and draft.window != target.window
        """The draft's window is not the target's: its windowed layers count as if they read everything."""
        self._latest: tuple[StepShape | None, float] = (None, 0.0)
        """The latest step with prompts, and its draft's time [s]."""
        self._drafts: dict[int, DecodeLine] = {}
        self._lines: dict[int, DecodeLine] = {}

    def draft(self, num_seqs: int) -> DecodeLine:
        """All steps of the draft for one step of the target."""
        line = self._drafts.get(num_seqs)
        if line is None:
            line = self._drafts[num_seqs] = self._compile(num_seqs)
        return line

    def _compile(self, num_seqs: int) -> DecodeLine:
        if self._draft is None or num_seqs <= 0:
            return DecodeLine(0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
        config = self._config
        one = self._draft.decode(num_seqs)
        depth = config.num_speculative_tokens
        if self._whole:
            one = one._replace(
                context_s=one.context_s + one.window_s,
                context_j=one.context_j + one.window_j,
                window_s=0.0,
                window_j=0.0,
            )
        grown = num_seqs * (depth * (depth - 1) // 2) * config.width  # entries of the draft so far
        share = depth / config.draft_speedup
        return DecodeLine(
            base_s=share * one.base_s + grown * one.context_s / config.draft_speedup + self._link_s,
            context_s=share * one.context_s,
            window_s=share * one.window_s,
            base_j=depth * one.base_j + grown * one.context_j,
            context_j=depth * one.context_j,
            window_j=depth * one.window_j,
            floor_s=share * one.floor_s,
            wait_w=one.wait_w,
        )

    def decode(self, num_seqs: int) -> DecodeLine:
        """A step without prompts as a line in its context."""
        line = self._lines.get(num_seqs)
        if line is None:
            verify, draft = self._verify.decode(num_seqs), self.draft(num_seqs)
            line = self._lines[num_seqs] = DecodeLine(
                verify.base_s + draft.base_s,
                verify.context_s + draft.context_s,
                verify.window_s + draft.window_s,
                verify.base_j + draft.base_j,
                verify.context_j + draft.context_j,
                verify.window_j + draft.window_j,
                _floor(verify, draft),
                verify.wait_w,
            )
        return line

    def prompt_draft(self, shape: StepShape) -> tuple[float, float]:
        """(seconds, joules) of the prompts of a step in the draft: they need KV entries there too."""
        if self._prompts is None:
            return 0.0, 0.0
        alone = StepShape(
            prefill_tokens=shape.prefill_tokens,
            prefill_pairs=shape.prefill_pairs,
            window_pairs=shape.prefill_pairs if self._whole or self.window is None else shape.window_pairs,
            prefill_seqs=shape.prefill_seqs,
            prefill_context=shape.prefill_context,
        )
        return self._prompts.step(alone)

    def step(self, shape: StepShape) -> tuple[float, float]:
        """(seconds, joules) of any step."""
        if not shape.prefill_tokens:
            return self.decode(shape.decode_seqs).cost(shape.context_tokens, shape.window_tokens)
        draft_s, draft_j = self._mixed_draft(shape)
        self._latest = shape, draft_s
        seconds, joules = self._verify.step(shape)
        return seconds + draft_s, joules + draft_j

    def _mixed_draft(self, shape: StepShape) -> tuple[float, float]:
        """(seconds, joules) of the draft in a step with prompts."""
        seconds, joules = self.prompt_draft(shape)
        if shape.decode_seqs:
            more = self.draft(shape.decode_seqs).cost(shape.context_tokens, shape.window_tokens)
            seconds, joules = seconds + more[0], joules + more[1]
        return seconds, joules

    def draft_s(self, shape: StepShape) -> float:
        """The part of a step with prompts that the draft takes [s]."""
        known, draft_s = self._latest
        return draft_s if known == shape else self._mixed_draft(shape)[0]

    def stage_s(self, shape: StepShape) -> tuple[float, ...]:
        """Seconds in the one stage there is."""
        return (self.step(shape)[0],)


def _floor(verify: DecodeLine, draft: DecodeLine) -> float:
    """Least time of a step: the host's launches, where any part has to be launched kernel by kernel [s]."""
    if not (verify.floor_s or draft.floor_s):
        return 0.0
    return verify.floor_s + draft.floor_s
