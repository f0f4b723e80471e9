"""Prompts of which deeper layers see fewer tokens (PyramidInfer, arXiv 2405.12532).

Layer l of L keeps a share p(l) of the prompt, falling linearly from the first to the last. Tokens that a layer drops have no KV
there and are not computed in the layers behind it, so over all layers

* products take mean(p) of the prompt's tokens,
* attention of the prompt takes mean(p^2) of its query-key pairs,
* the KV cache holds mean(p) of its bytes.

Tokens that are generated pass all layers; their KV is kept like the prompt's. Choosing the tokens (a sum of attention weights)
is not counted. The shape of the fall is a straight line here.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from hardware_profiles.errors import UserError
from simulator.physics.shape import StepShape


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptLayers:
    """Shares of the prompt that the first and the last layer keep."""

    first: float = 1.0
    last: float = 1.0

    @property
    def mean(self) -> float:
        """Mean share over the layers."""
        return (self.first + self.last) / 2

    @property
    def mean_square(self) -> float:
        """Mean of its square."""
        a, b = self.first, self.last
        return (a * a + a * b + b * b) / 3

    def of(self, shape: StepShape) -> StepShape:
        """What a step computes of its prompts, on average over the layers; whole tokens, at least as many."""
        if not shape.prefill_tokens:
            return shape
        return shape._replace(
            prefill_tokens=ceil(self.mean * shape.prefill_tokens),
            prefill_pairs=ceil(self.mean_square * shape.prefill_pairs),
            window_pairs=ceil(self.mean_square * shape.window_pairs),
            prefill_context=ceil(self.mean * shape.prefill_context),
        )


def parse_prompt_layers(text: str) -> PromptLayers:
    """``0.8,0.2``. UserError for shares that make no sense."""
    try:
        first, last = (float(part) for part in text.split(","))
    except ValueError:
        raise UserError(
            f"--prompt-layer-shares is {text!r}; write the shares of the first and the last layer, for example 0.8,0.2"
        ) from None
    if not 0 < last <= first <= 1:
        raise UserError(
            f"--prompt-layer-shares is {text!r}; shares are above 0, at most 1, and the last layer's is not above the first's"
        )
    return PromptLayers(first=first, last=last)
