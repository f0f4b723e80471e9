"""One moment of a divided device: a step of prompts beside a decode step."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from simulator.costs import StepCosts
from simulator.physics.shape import StepShape
from simulator.sharing.phases import PhaseCosts
from simulator.sharing.setup import split_physics
from simulator.sharing.share_policy import SharePolicy

if TYPE_CHECKING:
    from simulator.deployment import Deployment


class Beside(NamedTuple):
    """Seconds of both steps."""

    share: float
    """Of the multiprocessors, for prompts."""
    prompts_s: float
    tokens_s: float
    prompts_alone_s: float
    """On the whole device."""
    tokens_alone_s: float
    stretch: float
    """How much longer both take because of the bandwidth they share."""


def beside(deployment: Deployment, shape: StepShape) -> Beside:
    """The prompts and the tokens of one step as steps of their own; a proactive policy chooses as with an empty KV cache."""
    physics = split_physics(deployment)
    assert physics is not None
    costs = PhaseCosts(physics, StepCosts(deployment.step_model))
    prompts = costs.start(
        shape._replace(
            decode_seqs=0, context_tokens=0, window_tokens=0, logits_rows=shape.logits_rows - shape.decode_seqs
        ),
        True,
    )
    tokens = costs.start(
        StepShape(shape.decode_seqs, shape.context_tokens, shape.window_tokens, 0, 0, 0, 0, 0, shape.decode_seqs), False
    )
    share = SharePolicy(costs).choose(prompts, tokens, 0.0)
    slow = costs.beside(prompts, tokens, share)
    ticks = StepCosts(deployment.step_model).ticks_per_s
    return Beside(
        share,
        slow[0] / ticks,
        slow[1] / ticks,
        costs.alone(prompts, 1.0)[0] / ticks,
        costs.alone(tokens, 1.0)[0] / ticks,
        slow[0] / costs.alone(prompts, share)[0],
    )
