"""Encoder-decoder and encoder-only models from their configs: T5, BART, Whisper; BERT, RoBERTa, vision transformers.

Parameters follow the modelling code of each ``model_type`` in transformers
(https://github.com/huggingface/transformers/tree/main/src/transformers/models).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from hardware_profiles.errors import UserError
from workloads.encoder import EncoderSpec
from workloads.hf_fields import Fields
from workloads.model import AttentionSpec, LayerGroup, Matrix, MlpSpec, ModelSpec

UNBOUNDED = 1 << 20
"""Relative positions have no bound; this one only keeps requests finite."""


def _attention(
    hidden: int, heads: int, head_dim: int, *, bias: int = 0, bidirectional: bool = False, cross: bool = False
) -> AttentionSpec:
    """Multi-head attention; ``cross``: a second one follows, whose keys and values are projected from the encoder."""
    inner = heads * head_dim
    matrices = [
        Matrix(name="qkv_proj", rows=3 * inner, cols=hidden),
        Matrix(name="o_proj", rows=hidden, cols=inner, parallel="row"),
    ]
    if cross:
        matrices += [
            Matrix(name="cross_q_proj", rows=inner, cols=hidden),
            Matrix(name="cross_o_proj", rows=hidden, cols=inner, parallel="row"),
        ]
    return AttentionSpec(
        kind="gqa",
        num_heads=heads,
        num_kv_heads=heads,
        head_dim=head_dim,
        v_head_dim=head_dim,
        matrices=tuple(matrices),
        small_params=bias,
        bidirectional=bidirectional,
        kernels=2 if cross else 1,
    )


def _mlp(hidden: int, width: int, *, gated: bool = False, bias: bool = True) -> MlpSpec:
    up = Matrix(name="gate_up_proj" if gated else "up_proj", rows=width * (2 if gated else 1), cols=hidden)
    down = Matrix(name="down_proj", rows=hidden, cols=width, parallel="row")
    return MlpSpec(matrices=(up, down), small_params=up.rows + hidden if bias else 0)


def _cross_kv(hidden: int, inner: int, count: int, bias: int = 0) -> LayerGroup:
    """Keys and values of ``count`` decoder layers, projected from the encoder's output."""
    spec = AttentionSpec(
        kind="none",
        num_heads=0,
        num_kv_heads=0,
        head_dim=0,
        v_head_dim=0,
        matrices=(Matrix(name="cross_kv_proj", rows=2 * inner, cols=hidden),),
        small_params=bias,
    )
    return LayerGroup(count=count, attention=spec, mlp=MlpSpec(matrices=()))


def _t5(fields: Fields, name: str) -> ModelSpec:
    """T5, v1.1 and Flan (Raffel et al., arXiv:1910.10683): RMS norms, no biases, relative positions in the first layers."""
    hidden, heads, head_dim = fields.count("hidden_size"), fields.count("num_heads"), fields.count("d_kv", 64)
    kind = str(fields.get("feed_forward_proj") or "relu")
    mlp = _mlp(hidden, fields.count("d_ff"), gated=kind.startswith("gated"), bias=False)
    layers = fields.count("num_layers")
    decoders = fields.count("num_decoder_layers", layers)
    buckets = fields.count("relative_attention_num_buckets", 32) * heads
    encoder = LayerGroup(
        count=layers,
        attention=_attention(hidden, heads, head_dim, bidirectional=True),
        mlp=mlp,
        norm_params=2 * hidden,
    )
    decoder = LayerGroup(
        count=decoders, attention=_attention(hidden, heads, head_dim, cross=True), mlp=mlp, norm_params=3 * hidden
    )
    return ModelSpec(
        name=name,
        model_type=str(fields.get("model_type")),
        hidden_size=hidden,
        vocab_size=fields.count("vocab_size"),
        layers=(decoder,),
        encoder=EncoderSpec(
            layers=(encoder, _cross_kv(hidden, heads * head_dim, decoders)), other_params=hidden + buckets
        ),
        tie_word_embeddings=fields.flag("tie_word_embeddings", True),
        max_position_embeddings=UNBOUNDED,
        other_params=hidden + buckets,
    )


def _bart(fields: Fields, name: str) -> ModelSpec:
    """BART (Lewis et al., arXiv:1910.13461): learned positions with two extra rows, norms after embedding and each part."""
    hidden = fields.count("hidden_size")
    positions = fields.count("max_position_embeddings", 1024)
    outer = (positions + 2) * hidden + 2 * hidden
    return _biased(fields, name, positions, positions, outer, outer, key_bias=True)


def _whisper(fields: Fields, name: str) -> ModelSpec:
    """Whisper (Radford et al., arXiv:2212.04356): two convolutions (below 1 % of the encoder's FLOP, not timed) turn 30 s of
    sound into ``max_source_positions`` tokens; keys have no bias."""
    hidden, mels = fields.count("hidden_size"), fields.count("num_mel_bins", 80)
    source, target = fields.count("max_source_positions", 1500), fields.count("max_target_positions", 448)
    convolutions = 3 * mels * hidden + hidden + 3 * hidden * hidden + hidden
    front, back = convolutions + source * hidden + 2 * hidden, target * hidden + 2 * hidden
    return _biased(fields, name, source, target, front, back, key_bias=False)


def _biased(fields: Fields, name: str, source: int, target: int, front: int, back: int, *, key_bias: bool) -> ModelSpec:
    """What BART and Whisper have in common: biases, LayerNorms, stacks of their own shape."""
    hidden = fields.count("hidden_size")

    def heads_of(part: str) -> tuple[int, int]:
        heads = fields.count(f"{part}_attention_heads")
        if hidden % heads:
            raise UserError(f"{fields.place}: d_model {hidden} is not a multiple of {part}_attention_heads {heads}")
        return heads, hidden // heads

    own = (4 if key_bias else 3) * hidden
    first, second = heads_of("encoder"), heads_of("decoder")
    decoders = fields.count("decoder_layers")
    encoder = LayerGroup(
        count=fields.count("encoder_layers"),
        attention=_attention(hidden, *first, bias=own, bidirectional=True),
        mlp=_mlp(hidden, fields.count("encoder_ffn_dim")),
        norm_params=4 * hidden,
    )
    decoder = LayerGroup(
        count=decoders,
        attention=_attention(hidden, *second, bias=own + 2 * hidden, cross=True),
        mlp=_mlp(hidden, fields.count("decoder_ffn_dim")),
        norm_params=6 * hidden,
    )
    cross = _cross_kv(hidden, hidden, decoders, bias=(2 if key_bias else 1) * hidden)
    return ModelSpec(
        name=name,
        model_type=str(fields.get("model_type")),
        hidden_size=hidden,
        vocab_size=fields.count("vocab_size"),
        layers=(decoder,),
        encoder=EncoderSpec(layers=(encoder, cross), max_positions=source, other_params=front),
        tie_word_embeddings=fields.flag("tie_word_embeddings", True),
        max_position_embeddings=source + target,
        other_params=back,
    )


def _encoder_layer(fields: Fields, *, qkv_bias: bool = True) -> LayerGroup:
    hidden, heads = fields.count("hidden_size"), fields.count("num_attention_heads")
    if hidden % heads:
        raise UserError(f"{fields.place}: hidden_size {hidden} is not a multiple of num_attention_heads {heads}")
    bias = hidden + (3 * hidden if qkv_bias else 0)
    return LayerGroup(
        count=fields.count("num_hidden_layers"),
        attention=_attention(hidden, heads, hidden // heads, bias=bias, bidirectional=True),
        mlp=_mlp(hidden, fields.count("intermediate_size", 4 * hidden)),
        norm_params=4 * hidden,
    )


def _bert(fields: Fields, name: str) -> ModelSpec:
    """BERT, RoBERTa, XLM-R: embeddings of words, positions and segments with a norm; a pooler after the stack."""
    hidden, positions = fields.count("hidden_size"), fields.count("max_position_embeddings", 512)
    segments = fields.count("type_vocab_size", 2)
    first = 0 if fields.get("model_type") == "bert" else 2  # RoBERTa's positions begin behind the padding index
    return ModelSpec(
        name=name,
        model_type=str(fields.get("model_type")),
        hidden_size=hidden,
        vocab_size=fields.count("vocab_size"),
        layers=(_encoder_layer(fields),),
        pooling=True,
        tie_word_embeddings=True,
        max_position_embeddings=positions - first + 1,  # the answer takes no position
        other_params=(positions + segments + 2) * hidden + hidden * hidden + hidden,
    )


def _vit(fields: Fields, name: str) -> ModelSpec:
    """ViT and DeiT (arXiv:2010.11929, 2012.12877): a request is the patches of an image and one class token; the classes of
    the head stand for the vocabulary."""
    hidden = fields.count("hidden_size")
    image, patch = fields.count("image_size", 224), fields.count("patch_size", 16)
    tokens = (image // patch) ** 2 + 1
    classes = fields.count("num_labels", 1000)
    embedding = fields.count("num_channels", 3) * patch * patch * hidden + hidden
    return ModelSpec(
        name=name,
        model_type=str(fields.get("model_type")),
        hidden_size=hidden,
        vocab_size=classes,
        layers=(_encoder_layer(fields, qkv_bias=fields.flag("qkv_bias", True)),),
        pooling=True,
        tie_word_embeddings=True,
        max_position_embeddings=tokens + 1,  # the answer takes no position
        other_params=embedding + hidden + tokens * hidden + 2 * hidden + classes,
    )


BUILDERS: Mapping[str, Callable[[Fields, str], ModelSpec]] = {
    "t5": _t5,
    "bart": _bart,
    "whisper": _whisper,
    "bert": _bert,
    "roberta": _bert,
    "xlm-roberta": _bert,
    "vit": _vit,
}
"""By ``model_type``."""


def encoder_spec(fields: Fields, name: str, dtype: str) -> ModelSpec | None:
    """The model of a config with an encoder; None for every other ``model_type``."""
    builder = BUILDERS.get(str(fields.get("model_type") or ""))
    return None if builder is None else replace(builder(fields, name), dtype=dtype)
