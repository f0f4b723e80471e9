"""The parts of a transformer block: matrices, attention, feed-forward; what each holds, caches and computes."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from workloads.ssm import SsmSpec

AttentionKind = Literal["gqa", "mla", "linear", "none"]
"""Softmax attention (gqa, mla), a constant state (linear: gated delta nets, state-space layers), or a layer without either."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Matrix:
    """One weight matrix of a layer: ``rows`` outputs by ``cols`` inputs, applied to every token.

    ``parallel`` says how tensor parallelism splits it: ``column`` (outputs split), ``row`` (inputs split, partial sums
    all-reduced) or ``replicated`` (every rank holds and computes all of it).
    """

    name: str
    rows: int
    cols: int
    parallel: Literal["column", "row", "replicated"] = "column"

    @property
    def params(self) -> int:
        """Number of weights."""
        return self.rows * self.cols


@dataclass(frozen=True, slots=True, kw_only=True)
class AttentionSpec:
    """Attention of one layer kind. ``gqa`` covers MHA (kv heads = heads), GQA and MQA (one kv head)."""

    kind: AttentionKind
    num_heads: int
    num_kv_heads: int
    head_dim: int
    """Query/key width per head [elements]; for MLA qk_nope_head_dim + qk_rope_head_dim."""
    v_head_dim: int
    """Value width per head [elements]."""
    sliding_window: int | None = None
    """Tokens a query can look back, or None for full attention."""
    q_lora_rank: int | None = None
    kv_lora_rank: int | None = None
    """MLA: width of the compressed KV latent [elements]."""
    qk_rope_head_dim: int = 0
    """MLA: width of the shared rotary key [elements]."""
    matrices: tuple[Matrix, ...] = ()
    """Projections in execution order (q/k/v fused where engines fuse them, then o)."""
    small_params: int = 0
    """Biases, q/k norms, sinks: counted, never timed."""
    state_elements: int = 0
    """Linear attention / SSM: constant state per sequence [elements]."""
    conv_elements: int = 0
    """The part of the state that is the tail of a short convolution."""
    ssm: SsmSpec | None = None
    """The state-space layer, where it is one."""
    bidirectional: bool = False
    """Every token of an input sees every other one; nothing is cached (encoders)."""
    kernels: int = 1
    """Attentions in the layer: two in a decoder with cross-attention, whose cached tokens are those of both."""

    @property
    def reads_context(self) -> bool:
        """True when it looks back at cached tokens."""
        return self.kind in ("gqa", "mla")

    @property
    def kv_elements_per_token(self) -> int:
        """Elements one token adds to the KV cache of one layer (all ranks together)."""
        if not self.reads_context or self.bidirectional:
            return 0
        if self.kind == "mla":
            assert self.kv_lora_rank is not None
            return self.kv_lora_rank + self.qk_rope_head_dim
        return self.num_kv_heads * (self.head_dim + self.v_head_dim)

    def kv_elements_per_token_per_rank(self, tp: int) -> int:
        """The same on one of ``tp`` ranks: MLA's latent is whole on each; a rank holds at least one KV head."""
        if self.kind != "gqa" or self.bidirectional:
            return self.kv_elements_per_token
        return _share(self.num_kv_heads, tp) * (self.head_dim + self.v_head_dim)

    def cached_tokens(self, context_tokens: int) -> int:
        """Tokens of a sequence that this layer keeps and reads: all, the last window, or none (linear attention)."""
        if not self.reads_context:
            return 0
        return context_tokens if self.sliding_window is None else min(context_tokens, self.sliding_window)

    @property
    def params(self) -> int:
        """All parameters of the attention part."""
        return total_params(self.matrices) + self.small_params

    def params_per_rank(self, tp: int) -> int:
        """Matrix parameters on one of ``tp`` ranks, without small_params; at least one KV head per rank."""
        total = 0
        for matrix in self.matrices:
            if matrix.name == "qkv_proj" and not self.bidirectional:
                kv_rows = min(matrix.rows, self.kv_elements_per_token)
                total += matrix.cols * (
                    -(-(matrix.rows - kv_rows) // tp) + min(kv_rows, self.kv_elements_per_token_per_rank(tp))
                )
            else:
                total += matrix_share(matrix, tp) + matrix.cols * self.repeated_rows(matrix, tp)
        return total

    def repeated_rows(self, matrix: Matrix, tp: int) -> int:
        """Rows that a rank holds beyond its share: B and C of a state-space group that several ranks need."""
        if self.ssm is None or matrix.name != "in_proj" or self.ssm.version == 1:
            return 0
        return round(max(0.0, 1 - self.ssm.groups / tp) * 2 * self.ssm.state)

    def flop_per_token(self, context_tokens: int) -> float:
        """FLOP one query spends on scores and values (projections not included).

        ``2 * heads * (head_dim + v_head_dim)`` per cached token; MLA is counted in its expanded form, as MFU is usually
        defined. Linear attention: three multiply-adds per element of state (read with k, rank-one update, read with q;
        Yang et al., Gated Delta Networks, arXiv 2412.06464, eq. 10).
        """
        if self.ssm is not None:
            return self.ssm.update_flop
        if self.kind == "linear":
            return 6.0 * self.state_elements
        return 2.0 * self.num_heads * (self.head_dim + self.v_head_dim) * self.cached_tokens(context_tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class MlpSpec:
    """Feed-forward part of one layer kind; ``num_experts == 0`` means dense.

    For MoE, ``matrices`` are those of ONE expert; ``shared_matrices`` the always-active shared expert(s) together;
    ``router`` the gate. For a dense layer only ``matrices`` is set.
    """

    matrices: tuple[Matrix, ...]
    num_experts: int = 0
    experts_per_token: int = 0
    shared_matrices: tuple[Matrix, ...] = ()
    router: Matrix | None = None
    small_params: int = 0
    """Biases (all experts), router bias: counted, never timed."""
    expert_small_params: int = 0
    """The part of small_params that belongs to each routed expert."""

    @property
    def is_moe(self) -> bool:
        """True when tokens are routed to experts."""
        return self.num_experts > 0

    @property
    def expert_params(self) -> int:
        """Matrix parameters of one routed expert; 0 when dense."""
        return total_params(self.matrices) if self.is_moe else 0

    @property
    def dense_params(self) -> int:
        """Matrix parameters every token uses and quantisation covers: a dense MLP, or the shared experts."""
        return total_params(self.shared_matrices if self.is_moe else self.matrices)

    def dense_params_per_rank(self, tp: int) -> int:
        """dense_params on the fullest of ``tp`` ranks."""
        return sum(matrix_share(m, tp) for m in (self.shared_matrices if self.is_moe else self.matrices))

    def experts_per_rank(self, tp: int, ep: int) -> float:
        """Routed experts' worth of parameters on one rank: whole experts under EP, a slice of each under TP.

        TP beyond EP slices the experts of an EP rank.
        """
        return -(-self.num_experts // ep) / max(1, tp // ep)

    @property
    def router_params(self) -> int:
        """Parameters of the gate."""
        return 0 if self.router is None else self.router.params

    @property
    def params(self) -> int:
        """All parameters of the feed-forward part, every expert included."""
        return self.expert_params * self.num_experts + self.dense_params + self.router_params + self.small_params

    @property
    def active_matrix_params(self) -> int:
        """Matrix parameters one token is multiplied with."""
        return self.expert_params * self.experts_per_token + self.dense_params + self.router_params


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGroup:
    """``count`` layers with the same attention and MLP (not necessarily adjacent in the network)."""

    count: int
    attention: AttentionSpec
    mlp: MlpSpec
    norm_params: int = 0
    """Norm weights per layer."""

    @property
    def params(self) -> int:
        """All parameters of one such layer."""
        return self.attention.params + self.mlp.params + self.norm_params


def total_params(matrices: Iterable[Matrix]) -> int:
    """Weights of several matrices."""
    return sum(m.params for m in matrices)


def _share(heads: int, tp: int) -> int:
    """Heads on one rank: an equal share, at least one."""
    return max(1, -(-heads // tp))


def matrix_share(matrix: Matrix, tp: int) -> int:
    """Parameters of a matrix on the fullest of ``tp`` ranks."""
    return matrix.params if matrix.parallel == "replicated" else -(-matrix.params // tp)
