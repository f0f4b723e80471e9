"""The encoder of an encoder-decoder model: run once over the input, whose cross-attention KV stays for the whole request."""

from __future__ import annotations

from dataclasses import dataclass

from workloads.layers import LayerGroup, total_params


@dataclass(frozen=True, slots=True, kw_only=True)
class EncoderSpec:
    """Layers that see every input token once.

    The projections of the decoder's cross-attention to keys and values are applied to the encoder's output, so they are the
    last group here (without attention of their own), one per decoder layer.
    """

    layers: tuple[LayerGroup, ...]
    max_positions: int | None = None
    """Longest input [tokens]; None: relative positions, no bound."""
    other_params: int = 0
    """Positions, norms around the stack, convolutions in front of it: counted, never timed."""

    @property
    def num_layers(self) -> int:
        """Transformer blocks."""
        return sum(g.count for g in self.layers if g.attention.kind != "none")

    @property
    def matrix_params(self) -> int:
        """Weights of all matrix products."""
        return sum(g.count * (total_params(g.attention.matrices) + g.mlp.dense_params) for g in self.layers)

    @property
    def params(self) -> int:
        """All parameters."""
        return sum(g.count * g.params for g in self.layers) + self.other_params

    def params_per_rank(self, tp: int) -> tuple[int, int]:
        """(matrix parameters, others) on one of ``tp`` ranks."""
        matrices = sum(
            g.count * (g.attention.params_per_rank(tp) + g.mlp.dense_params_per_rank(tp)) for g in self.layers
        )
        return matrices, self.params - self.matrix_params

    def flop(self, input_tokens: int) -> float:
        """FLOP of one pass over an input: products, and attention of every token to every token."""
        pairs = sum(
            2.0 * g.count * g.attention.num_heads * (g.attention.head_dim + g.attention.v_head_dim)
            for g in self.layers
            if g.attention.kind != "none"
        )
        return 2.0 * self.matrix_params * input_tokens + pairs * input_tokens**2
