"""Hugging Face ``config.json`` to ModelSpec: what the families have in common, and what each does differently."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from hardware_profiles.errors import UserError
from workloads.generation import asks_for_top_p, config_asks_for_top_p
from workloads.hf_attention import attention_of
from workloads.hf_encoder import BUILDERS, encoder_spec
from workloads.hf_families import FAMILIES, Family
from workloads.hf_fields import Fields, Json, config_path, read_json, text_part
from workloads.hf_mlp import mlp_of
from workloads.hf_quant import quant_from_config
from workloads.hf_ssm import with_model_type
from workloads.model import FLOAT_DTYPES, LayerGroup, ModelSpec


def model_from_config(source: str | Path | Json, name: str | None = None, *, place: str | None = None) -> ModelSpec:
    """ModelSpec of a config.json (file, model folder, or its content as a mapping).

    ``name`` defaults to the folder's name; ``place`` is what error messages call the source. Multimodal configs give
    their language model. A model_type that is not known is read as a Llama with a warning.
    """
    sibling: Json | None = None
    filters_logits = name is not None and asks_for_top_p(name)
    if isinstance(source, Mapping):
        config: Json = source
        place = place or "config"
    else:
        path = config_path(Path(source))
        config = read_json(path)
        place = place or str(path)
        name = name or _name_of(path)
        beside = path.with_name("hf_quant_config.json")
        sibling = read_json(beside) if beside.is_file() else None
        generation = path.with_name("generation_config.json")
        if generation.is_file():
            filters_logits = config_asks_for_top_p(read_json(generation))
    text = text_part(with_model_type(config))
    plain = Fields(text, place, {})
    title = name or str(config.get("_name_or_path") or "model")
    with_encoder = encoder_spec(plain, title, _dtype(plain))
    if with_encoder is not None:
        quant = quant_from_config(text, sibling, place, moe=False)
        return replace(with_encoder, quant=quant, source=str(config.get("_source") or place))
    family = _family(text, place)
    fields = Fields(text, place, family.defaults)
    quantised = {**text, "quantization_config": text.get("quantization_config") or config.get("quantization_config")}
    spec = _spec(fields, family, title)
    quant = quant_from_config(quantised, sibling, place, moe=spec.is_moe)
    source_text = str(config.get("_source") or place)
    return replace(spec, quant=quant, filters_logits=filters_logits, source=source_text)


def _name_of(path: Path) -> str:
    return path.absolute().parent.name if path.name == "config.json" else path.stem


_REFUSED = {
    "zamba": "its attention blocks share their weights",
    "zamba2": "its attention blocks share their weights, with an adapter each",
    "falcon_h1": "attention and state-space heads run side by side in every layer",
}
"""Families that would be read wrongly as a Llama."""


def _family(text: Json, place: str) -> Family:
    model_type = str(text.get("model_type") or "")
    if model_type in FAMILIES:
        return FAMILIES[model_type]
    if text.get("is_encoder_decoder"):
        raise UserError(
            f"{place}: model_type {model_type!r} is an encoder-decoder that is not modelled; known with an encoder: "
            f"{', '.join(BUILDERS)}"
        )
    if model_type in _REFUSED:
        raise UserError(f"{place}: model_type {model_type!r} is not modelled: {_REFUSED[model_type]}")
    warnings.warn(f"{place}: model_type {model_type!r} is not known; reading its fields as a Llama's", stacklevel=3)
    return Family()


def _spec(fields: Fields, family: Family, name: str) -> ModelSpec:
    hidden = fields.count("hidden_size")
    vocab = fields.count("vocab_size")
    groups: dict[LayerGroup, int] = {}
    counts: list[int] = []
    pattern: list[int] = []
    for index in range(fields.count("num_hidden_layers")):
        layer = LayerGroup(
            count=1,
            attention=attention_of(fields, family, index),
            mlp=mlp_of(fields, family, index),
            norm_params=(1 if family.bare_mixers else family.norms_per_layer(fields)) * hidden * family.params_per_norm,
        )
        group = groups.setdefault(layer, len(groups))
        if group == len(counts):
            counts.append(0)
        counts[group] += 1
        pattern.append(group)
    tied = fields.flag("tie_word_embeddings", family.tied)
    layers = tuple(replace(layer, count=counts[i]) for layer, i in groups.items())
    return ModelSpec(
        name=name,
        model_type=str(fields.get("model_type") or "llama"),
        hidden_size=hidden,
        vocab_size=vocab,
        layers=layers,
        tie_word_embeddings=tied,
        max_position_embeddings=fields.count("max_position_embeddings", 2048),
        dtype=_dtype(fields),
        other_params=_other_params(fields, family, hidden, vocab),
        layer_pattern=tuple(pattern) if pattern != sorted(pattern) else (),
    )


def _dtype(fields: Fields) -> str:
    """Dtype of the checkpoint; bfloat16 when it does not say."""
    value = str(fields.get("dtype") or fields.get("torch_dtype") or "bfloat16").removeprefix("torch.")
    if value == "auto":
        return "bfloat16"
    if value not in FLOAT_DTYPES:
        raise UserError(f"{fields.place}: torch_dtype is {value!r}; it must be bfloat16, float16 or float32")
    return value


def _other_params(fields: Fields, family: Family, hidden: int, vocab: int) -> int:
    """Final norm, embedding norm, learned positions, lm_head bias, OPT's projections between embedding and hidden width."""
    norms = int(family.final_norm(fields)) + int(family.embedding_norm)
    total = norms * hidden * family.params_per_norm
    total += vocab if family.lm_head_bias else 0
    if family.position_offset is not None:
        total += (fields.count("max_position_embeddings") + family.position_offset) * hidden
    width = fields.count("word_embed_proj_dim", hidden)
    if width != hidden:  # OPT-350m: narrower embedding, projected in and out
        total += 2 * width * hidden - vocab * (hidden - width)
    return total
