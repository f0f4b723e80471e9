"""What a routing trace says: tokens per expert and layer, and transitions between experts of consecutive layers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from hardware_profiles.errors import UserError

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """Experts that tokens chose: int64[tokens, layers, top-k]; only MoE layers are counted as layers."""

    name: str
    experts: Ints
    num_experts: int

    def __post_init__(self) -> None:
        if self.experts.ndim != 3 or 0 in self.experts.shape:
            raise UserError(
                f"{self.name}: experts has shape {self.experts.shape}; it must be tokens x layers x top-k, none of them zero"
            )
        low, high = int(self.experts.min()), int(self.experts.max())
        if low < 0 or high >= self.num_experts:
            wrong = low if low < 0 else high
            raise UserError(
                f"{self.name}: experts contains {wrong}; the model has experts 0 to {self.num_experts - 1} per layer"
            )
        ordered = np.sort(self.experts, axis=2)
        if (ordered[:, :, 1:] == ordered[:, :, :-1]).any():
            raise UserError(
                f"{self.name}: experts names one expert twice for a token; the top-k of a token must differ"
            )

    @property
    def num_tokens(self) -> int:
        """Tokens traced."""
        return int(self.experts.shape[0])

    @property
    def num_layers(self) -> int:
        """MoE layers."""
        return int(self.experts.shape[1])

    @property
    def top_k(self) -> int:
        """Experts per token."""
        return int(self.experts.shape[2])

    def split(self, share: float) -> tuple[Routing, Routing]:
        """The first ``share`` of the tokens, to plan on, and the rest, to judge the plan by."""
        cut = min(self.num_tokens - 1, max(1, round(share * self.num_tokens)))
        first = Routing(name=self.name, experts=self.experts[:cut], num_experts=self.num_experts)
        return first, Routing(name=self.name, experts=self.experts[cut:], num_experts=self.num_experts)


@dataclass(frozen=True, slots=True, kw_only=True)
class Demand:
    """What a placement is planned for.

    ``loads[l, e]`` is P_{e,l} of MoETuner (arXiv 2502.06643, section 4.2): tokens of layer l that choose expert e.
    ``transitions[l, e, f]`` is R_{e,f,l}: tokens going from e in layer l to f in layer l+1. With top-k > 1 a token has k^2
    pairs of weight 1/k each, so that the transitions out of an expert sum to its load.
    """

    loads: Floats
    transitions: Floats

    @property
    def num_layers(self) -> int:
        """MoE layers."""
        return int(self.loads.shape[0])

    @property
    def num_experts(self) -> int:
        """Experts per layer."""
        return int(self.loads.shape[1])


def demand_of(routing: Routing) -> Demand:
    """Count a trace."""
    experts, size, top_k = routing.experts, routing.num_experts, routing.top_k
    layers = routing.num_layers
    loads = np.stack([np.bincount(experts[:, layer].ravel(), minlength=size) for layer in range(layers)])
    transitions = np.zeros((layers - 1, size, size))
    for layer in range(layers - 1):
        pairs = experts[:, layer, :, None] * size + experts[:, layer + 1, None, :]
        transitions[layer] = np.bincount(pairs.ravel(), minlength=size * size).reshape(size, size) / top_k
    return Demand(loads=loads.astype(np.float64), transitions=transitions)
