"""What a language model is made of: the shapes that time and memory depend on (no weights, no tokens)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

AttentionKind = Literal["gqa", "mla", "linear"]


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

    @property
    def kv_elements_per_token(self) -> int:
        """Elements one token adds to the KV cache of one layer (all ranks together)."""
        if self.kind == "linear":
            return 0
        if self.kind == "mla":
            assert self.kv_lora_rank is not None
            return self.kv_lora_rank + self.qk_rope_head_dim
        return self.num_kv_heads * (self.head_dim + self.v_head_dim)


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

    @property
    def is_moe(self) -> bool:
        """True when tokens are routed to experts."""
        return self.num_experts > 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerGroup:
    """``count`` layers with the same attention and MLP (not necessarily adjacent in the network)."""

    count: int
    attention: AttentionSpec
    mlp: MlpSpec
    norm_params: int = 0
    """Norm weights per layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantSpec:
    """How a checkpoint stores its weights."""

    method: str
    """As in ``quantization_config.quant_method``: fp8, awq, gptq, mxfp4, compressed-tensors, modelopt ..."""
    weight_dtype: str
    """Arithmetic family of the stored weights: fp8, fp8_block, int4, int8, mxfp4, nvfp4."""
    bytes_per_weight: float
    """Stored bytes per quantised weight, scales included."""
    scope: Literal["linear", "experts"] = "linear"
    """Which matrices are stored so: all linear layers of the blocks, or the routed experts only (gpt-oss)."""
    activation_dtype: str | None = None
    """Dtype the GEMM runs in; None when weights are dequantised to the model's dtype (weight-only)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Architecture of a decoder-only language model."""

    name: str
    model_type: str
    hidden_size: int
    vocab_size: int
    layers: tuple[LayerGroup, ...]
    tie_word_embeddings: bool
    max_position_embeddings: int
    dtype: str = "bfloat16"
    """Dtype of unquantised weights and activations: bfloat16, float16, float32."""
    quant: QuantSpec | None = None
    other_params: int = 0
    """Position embeddings, final norm, lm_head bias, extra projections: counted, never timed."""
    source: str = ""
    """Where the numbers come from (URL, file)."""

    @property
    def num_layers(self) -> int:
        """Transformer blocks."""
        return sum(g.count for g in self.layers)
