"""What a language model is made of: the shapes that time and memory depend on (no weights, no tokens)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from hardware_profiles.errors import UserError, unknown_name
from workloads.encoder import EncoderSpec
from workloads.layers import AttentionKind, AttentionSpec, LayerGroup, Matrix, MlpSpec, total_params

__all__ = [
    "DTYPE_BYTES",
    "FLOAT_DTYPES",
    "AttentionKind",
    "AttentionSpec",
    "LayerGroup",
    "Matrix",
    "MlpSpec",
    "ModelSpec",
    "QuantSpec",
    "dtype_bytes",
    "full_dtype_name",
]

DTYPE_BYTES: Mapping[str, float] = {
    "float32": 4.0,
    "bfloat16": 2.0,
    "float16": 2.0,
    "fp8": 1.0,
    "int8": 1.0,
    "int4": 0.5,
}
"""Bytes per element of the dtypes that hold plain numbers (block formats with scales are ``QuantSpec``)."""

_DTYPE_ALIASES: Mapping[str, str] = {
    "bf16": "bfloat16",
    "fp16": "float16",
    "half": "float16",
    "fp32": "float32",
    "float": "float32",
    "fp8_e4m3": "fp8",
    "fp8_e5m2": "fp8",
    "float8_e4m3fn": "fp8",
}


FLOAT_DTYPES = ("bfloat16", "float16", "float32")
"""What unquantised weights and activations can be."""


def full_dtype_name(dtype: str) -> str:
    """``bf16`` to ``bfloat16`` and the like; other names unchanged."""
    return _DTYPE_ALIASES.get(dtype.lower(), dtype.lower())


def dtype_bytes(dtype: str) -> float:
    """Bytes per element of a dtype; common short names are understood."""
    key = full_dtype_name(dtype)
    if key not in DTYPE_BYTES:
        raise unknown_name("dtype", dtype, DTYPE_BYTES)
    return DTYPE_BYTES[key]


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
    lm_head: bool = False
    """True when the checkpoint quantises the LM head as well (a few GPTQ checkpoints)."""
    kv_cache_dtype: str | None = None
    """KV cache dtype the checkpoint was calibrated for (``kv_cache_scheme``, ``kv_cache_quant_algo``), or None."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelSpec:
    """Architecture of a language model, or of an encoder served in one pass."""

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
    filters_logits: bool = False
    """The checkpoint's generation_config.json asks for top-p or top-k sampling. Engines apply it to every request that does
    not say otherwise (vLLM: --generation-config auto), and sorting the logits takes time."""
    other_params: int = 0
    """Position embeddings, final norm, lm_head bias, extra projections: counted, never timed."""
    source: str = ""
    """Where the numbers come from (URL, file)."""
    encoder: EncoderSpec | None = None
    """Encoder-decoder models: what is run over the input; ``layers`` are the decoder's, with their cross-attention."""
    pooling: bool = False
    """One pass per request and no decode: embeddings, scores, classes (encoders, and decoders served as such)."""
    layer_pattern: tuple[int, ...] = ()
    """Index into ``layers`` of each transformer block in network order; empty: the groups one after another."""

    # ---- layers

    @property
    def num_layers(self) -> int:
        """Transformer blocks."""
        return sum(g.count for g in self.layers)

    @property
    def num_full_layers(self) -> int:
        """Layers whose attention reads the whole context."""
        return sum(g.count for g in self.layers if g.attention.reads_context and g.attention.sliding_window is None)

    @property
    def num_window_layers(self) -> int:
        """Layers whose attention reads a sliding window."""
        return sum(g.count for g in self.layers if g.attention.sliding_window is not None)

    @property
    def num_linear_layers(self) -> int:
        """Layers with a constant state in place of a KV cache."""
        return sum(g.count for g in self.layers if g.attention.kind == "linear")

    @property
    def sliding_window(self) -> int | None:
        """Window of the sliding-window layers [tokens] (the widest, should they differ), or None."""
        return max((w for g in self.layers if (w := g.attention.sliding_window) is not None), default=None)

    @property
    def is_moe(self) -> bool:
        """True when any layer routes tokens to experts."""
        return any(g.mlp.is_moe for g in self.layers)

    @property
    def is_mla(self) -> bool:
        """True when any layer caches a compressed latent."""
        return any(g.attention.kind == "mla" for g in self.layers)

    @property
    def layer_sequence(self) -> tuple[int, ...]:
        """Group index of each block in network order."""
        if self.layer_pattern:
            return self.layer_pattern
        return tuple(i for i, group in enumerate(self.layers) for _ in range(group.count))

    def stage_layers(self, pp: int) -> tuple[tuple[int, ...], ...]:
        """Group index of each block, one tuple per pipeline stage, split as vLLM splits.

        Even shares; what is left over goes one each to the last stages before the very last (which holds the LM head).
        """
        _check_degree("pp", pp)
        if pp > self.num_layers:
            raise UserError(
                f"{self.name} has {self.num_layers} layers; pp={pp} leaves stages empty. Use pp <= {self.num_layers}"
            )
        sizes = [self.num_layers // pp] * pp
        for i in range(2, self.num_layers % pp + 2):
            sizes[-i] += 1
        sequence, stages = self.layer_sequence, []
        for size in sizes:
            stages.append(sequence[:size])
            sequence = sequence[size:]
        return tuple(stages)

    # ---- parameters

    @property
    def embedding_params(self) -> int:
        """Token embedding."""
        return self.vocab_size * self.hidden_size

    @property
    def lm_head_params(self) -> int:
        """Output matrix; 0 when it is the embedding (tied)."""
        return 0 if self.tie_word_embeddings else self.vocab_size * self.hidden_size

    @property
    def expert_params(self) -> int:
        """Matrix parameters of all routed experts of all layers."""
        return sum(g.count * g.mlp.expert_params * g.mlp.num_experts for g in self.layers)

    @property
    def num_params(self) -> int:
        """All parameters; multi-token-prediction heads and vision towers are not part of the model served here."""
        blocks = sum(g.count * g.params for g in self.layers)
        blocks += 0 if self.encoder is None else self.encoder.params
        return blocks + self.embedding_params + self.lm_head_params + self.other_params

    @property
    def num_active_params(self) -> int:
        """Parameters one token uses: experts_per_token of num_experts; embedding and LM head counted whole."""
        idle = sum(
            g.count * (g.mlp.num_experts - g.mlp.experts_per_token) * (g.mlp.expert_params + g.mlp.expert_small_params)
            for g in self.layers
        )
        return self.num_params - idle

    def params_by_component(self) -> dict[str, int]:
        """Parameters per component; the values add up to num_params."""
        parts = {
            "embedding": self.embedding_params,
            "encoder": 0 if self.encoder is None else self.encoder.params,
            "attention": sum(g.count * g.attention.params for g in self.layers),
            "mlp": sum(g.count * g.mlp.dense_params for g in self.layers if not g.mlp.is_moe),
            "routed experts": self.expert_params,
            "shared experts": sum(g.count * g.mlp.dense_params for g in self.layers if g.mlp.is_moe),
            "router": sum(g.count * g.mlp.router_params for g in self.layers),
            "mlp biases": sum(g.count * g.mlp.small_params for g in self.layers),
            "norms": sum(g.count * g.norm_params for g in self.layers),
            "lm_head": self.lm_head_params,
            "other": self.other_params,
        }
        return {name: count for name, count in parts.items() if count}

    # ---- KV cache

    def kv_bytes_per_token(self, kv_dtype_bytes: float = 2.0) -> float:
        """KV bytes one token adds over all layers, windows not yet full [B] (all ranks together)."""
        return kv_dtype_bytes * sum(g.count * g.attention.kv_elements_per_token for g in self.layers)

    def kv_bytes_per_token_per_device(self, tp: int = 1, pp: int = 1, kv_dtype_bytes: float = 2.0) -> float:
        """The same on the device that holds most: MLA whole on every TP rank, at least one KV head per rank."""
        elements = [g.attention.kv_elements_per_token_per_rank(tp) for g in self.layers]
        return kv_dtype_bytes * max(sum(elements[i] for i in stage) for stage in self.stage_layers(pp))

    def kv_bytes(self, context_tokens: int, kv_dtype_bytes: float = 2.0) -> float:
        """KV bytes of one sequence [B]: full layers keep the context L, sliding layers min(L, window)."""
        return kv_dtype_bytes * sum(
            g.count * g.attention.kv_elements_per_token * g.attention.cached_tokens(context_tokens) for g in self.layers
        )

    @property
    def state_elements(self) -> int:
        """Constant state per sequence of all linear-attention layers [elements]."""
        return sum(g.count * g.attention.state_elements for g in self.layers)

    # ---- weights

    def weight_bytes(self) -> float:
        """Bytes of all weights as the checkpoint stores them (quantised matrices with their scales)."""
        return self._stored_bytes(
            linear=sum(g.count * (total_params(g.attention.matrices) + g.mlp.dense_params) for g in self.layers)
            + (0 if self.encoder is None else self.encoder.matrix_params),
            experts=self.expert_params,
            lm_head=self.lm_head_params,
            plain=self.embedding_params
            + self.other_params
            + (0 if self.encoder is None else self.encoder.params - self.encoder.matrix_params)
            + sum(
                g.count * (g.attention.small_params + g.mlp.router_params + g.mlp.small_params + g.norm_params)
                for g in self.layers
            ),
        )

    def weight_bytes_per_device(self, tp: int = 1, pp: int = 1, ep: int = 1) -> float:
        """Weight bytes of the fullest device under TP x PP, experts over ``ep`` ranks when ep > 1 (else split by TP).

        Embedding and LM head are split over the vocabulary; replicated: MLA down projections, KV heads beyond one per
        rank, routers, norms and biases (expert biases stay with their expert). Engine padding is not included.
        """
        self.check_tp(tp)
        _check_degree("ep", ep)
        stages = self.stage_layers(pp)
        return max(self._stage_bytes(stage, tp, ep, first=i == 0, last=i == pp - 1) for i, stage in enumerate(stages))

    def _stage_bytes(self, stage: tuple[int, ...], tp: int, ep: int, *, first: bool, last: bool) -> float:
        groups = [self.layers[i] for i in stage]
        vocab = -(-self.vocab_size // tp) * self.hidden_size
        tied = self.tie_word_embeddings
        encoder = (0, 0) if self.encoder is None or not first else self.encoder.params_per_rank(tp)
        expert_bias = [g.mlp.expert_small_params * g.mlp.experts_per_rank(tp, ep) for g in groups]
        plain = sum(
            g.attention.small_params + g.mlp.router_params + g.norm_params
            + g.mlp.small_params - g.mlp.expert_small_params * g.mlp.num_experts
            for g in groups
        )  # fmt: skip
        return self._stored_bytes(
            linear=encoder[0] + sum(g.attention.params_per_rank(tp) + g.mlp.dense_params_per_rank(tp) for g in groups),
            experts=sum(g.mlp.expert_params * g.mlp.experts_per_rank(tp, ep) for g in groups),
            lm_head=vocab if last and not tied else 0,
            plain=plain
            + encoder[1]
            + sum(expert_bias)
            + (vocab if first or (last and tied) else 0)
            + (self.other_params if first or last else 0),
        )

    def _stored_bytes(self, *, linear: float, experts: float, lm_head: float, plain: float) -> float:
        """Bytes of four kinds of parameters: which of them are quantised is the checkpoint's scope."""
        base = dtype_bytes(self.dtype)
        quant = self.quant
        if quant is None:
            return base * (linear + experts + lm_head + plain)
        linear_bytes = quant.bytes_per_weight if quant.scope == "linear" else base
        head_bytes = quant.bytes_per_weight if quant.lm_head else base
        return linear_bytes * linear + quant.bytes_per_weight * experts + head_bytes * lm_head + base * plain

    # ---- work

    def flop_per_token(self, context_tokens: int = 0) -> float:
        """FLOP to compute one token with ``context_tokens`` before it: projections, active experts, LM head, attention.

        A multiply-add is two. Norms, rotary embedding, softmax and biases (below 1 %) are left out.
        """
        matrices = sum(g.count * (total_params(g.attention.matrices) + g.mlp.active_matrix_params) for g in self.layers)
        attention = sum(g.count * g.attention.flop_per_token(context_tokens) for g in self.layers)
        return 2.0 * (matrices + self.vocab_size * self.hidden_size) + attention

    # ---- tensor parallelism

    def valid_tps(self, limit: int = 64) -> tuple[int, ...]:
        """Tensor-parallel degrees up to ``limit`` that divide heads and MLP widths."""
        return tuple(tp for tp in range(1, limit + 1) if self._tp_obstacle(tp) is None)

    def check_tp(self, tp: int) -> None:
        """Raise UserError unless ``tp`` divides attention heads, KV heads (or is a multiple of them) and MLP widths."""
        _check_degree("tp", tp)
        if (obstacle := self._tp_obstacle(tp)) is not None:
            valid = ", ".join(str(n) for n in self.valid_tps())
            raise UserError(f"{self.name}: {obstacle} not divisible by tp={tp}. Valid tp: {valid}")

    def _tp_obstacle(self, tp: int) -> str | None:
        for group in (*self.layers, *(self.encoder.layers if self.encoder is not None else ())):
            attention = group.attention
            if attention.num_heads % tp:
                return f"{attention.num_heads} attention heads are"
            kv = attention.num_kv_heads
            gated = attention.kind == "linear" and attention.ssm is None
            if attention.kind != "mla" and kv % tp and (tp % kv or gated):
                return f"{kv} KV heads are"
            for matrix in (*group.mlp.matrices, *group.mlp.shared_matrices):
                width = matrix.rows if matrix.parallel == "column" else matrix.cols
                if matrix.parallel != "replicated" and width % tp:
                    return f"MLP width {width} ({matrix.name}) is"
        return None


def _check_degree(name: str, degree: int) -> None:
    if degree < 1:
        raise UserError(f"{name}={degree}: parallel degrees are 1 or more")
