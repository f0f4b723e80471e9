"""Reading a Hugging Face config: finding the file, and fields that are checked when they are asked for."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from hardware_profiles.errors import UserError

Json: TypeAlias = Mapping[str, Any]

ALIASES: Mapping[str, tuple[str, ...]] = {
    "hidden_size": ("n_embd", "d_model"),
    "num_hidden_layers": ("n_layer", "n_layers", "num_layers"),
    "num_attention_heads": ("n_head", "n_heads"),
    "num_key_value_heads": ("num_kv_heads",),
    "intermediate_size": ("ffn_dim", "ffn_hidden_size", "n_inner"),
    "max_position_embeddings": ("n_positions", "n_ctx", "max_seq_len", "seq_length"),
    "num_experts": ("num_local_experts", "n_routed_experts"),
    "num_experts_per_tok": ("experts_per_token", "top_k_experts", "num_experts_per_token", "moe_topk"),
}
"""Names that other families use for a field."""


@dataclass(frozen=True, slots=True)
class Fields:
    """The fields of one config, with the place they come from and the family's defaults for what it may leave out."""

    values: Json
    place: str
    defaults: Json

    def get(self, name: str) -> Any:
        """Raw value under its name or an alias, the family's default, or None."""
        for key in (name, *ALIASES.get(name, ())):
            if self.values.get(key) is not None:
                return self.values[key]
        return self.defaults.get(name)

    def optional_count(self, name: str) -> int | None:
        """A positive integer, or None when absent or null."""
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():
            value = int(value)
        if isinstance(value, bool) or not isinstance(value, int) or value < 0:
            raise UserError(f"{self.place}: {name} is {value!r}; it must be a whole number of 0 or more")
        return value

    def count(self, name: str, default: int | None = None) -> int:
        """A positive integer; ``default`` where absent, an error without one."""
        value = self.optional_count(name)
        if value is None:
            value = default
        if value is None:
            raise UserError(f"{self.place}: field {name!r} is missing; a config.json of this model_type must have it")
        if value < 1:
            raise UserError(f"{self.place}: {name} is {value}; it must be 1 or more")
        return value

    def flag(self, name: str, default: bool) -> bool:
        """A boolean."""
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise UserError(f"{self.place}: {name} is {value!r}; it must be true or false")
        return value

    def names(self, name: str) -> tuple[str, ...]:
        """A list of strings; empty when absent."""
        value = self.get(name)
        if value is None:
            return ()
        if not isinstance(value, Sequence) or isinstance(value, str) or not all(isinstance(v, str) for v in value):
            raise UserError(f"{self.place}: {name} must be a list of strings")
        return tuple(value)

    def counts(self, name: str) -> tuple[int, ...]:
        """A list of integers; empty when absent."""
        value = self.get(name)
        if value is None:
            return ()
        if not isinstance(value, Sequence) or isinstance(value, str) or not all(type(v) is int for v in value):
            raise UserError(f"{self.place}: {name} must be a list of whole numbers")
        return tuple(value)


def read_json(path: Path) -> Json:
    """The JSON object of a file."""
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError:
        raise UserError(f"{path}: no such file") from None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not a text file; give a config.json") from None
    except json.JSONDecodeError as error:
        raise UserError(
            f"{path}: broken JSON at line {error.lineno}, column {error.colno}: {error.msg}. Download the file again"
        ) from None
    if not isinstance(data, dict):
        raise UserError(f"{path}: holds a JSON {type(data).__name__}; a config.json holds an object")
    return data


def config_path(path: Path) -> Path:
    """The config.json meant by a file or a folder."""
    if not path.is_dir():
        return path
    inside = path / "config.json"
    if not inside.is_file():
        raise UserError(f"{path}: this folder has no config.json; give a model folder or the file itself")
    return inside


def text_part(config: Json) -> dict[str, Any]:
    """The language model of a config: ``text_config`` or ``llm_config`` unwrapped, outer fields as a fallback."""
    for key in ("text_config", "llm_config", "language_config"):
        inner = config.get(key)
        if isinstance(inner, Mapping):
            outer = {k: v for k, v in config.items() if k in ("tie_word_embeddings", "torch_dtype", "dtype")}
            return {"model_type": config.get("model_type"), **outer, **inner}
    return dict(config)
