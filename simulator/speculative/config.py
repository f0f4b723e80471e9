"""--speculative-config: vLLM's option and field names, and what a simulation needs to know beside them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from hardware_profiles.errors import UserError
from hardware_profiles.records import from_mapping, read_yaml, unknown_field
from simulator.speculative.acceptance import expected_tokens, rate_of_mean

OPTION = "--speculative-config"
EXAMPLE = '{"method": "draft_model", "model": "llama-3.2-1b", "num_speculative_tokens": 5, "acceptance": 0.7}'

Method = Literal["draft_model", "eagle", "eagle3", "mtp", "ngram"]

MTP_ACCEPTANCE = 0.85
"""DeepSeek-V3's second token is accepted in 85 to 90 % of cases (technical report, arXiv 2412.19437, section 5.4.3); the
lower end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeculativeConfig:
    """How tokens are drafted, and how many of them stay."""

    method: Method
    model: str | None = None
    """draft_model: the model that drafts, by name or path. eagle, eagle3: a config of the head, None for one block of the
    target."""
    num_speculative_tokens: int = 0
    """Drafts in a row per step; of a tree its depth."""
    draft_tensor_parallel_size: int | None = None
    """Devices that a draft is split over; None: as the target."""
    quantization: str | None = None
    """Weight format of the draft; None: as its checkpoint."""
    rates: tuple[float, ...] = ()
    """acceptance: probability that the draft at each place is accepted when those before it were."""
    num_candidates: int | None = None
    """Tree drafts: tokens of the tree that are verified."""
    tree_width: int | None = None
    """Tree drafts: tokens per sequence that the draft computes at each level; None: num_candidates over the depth."""
    draft_device: str | None = None
    """Device that drafts, of a set of its own per replica; None: the target's devices."""
    draft_speedup: float = 1.0
    """Drafting takes 1 / this of the time of its steps one after the other (layer-parallel drafts: EasySpec 1.62)."""
    head_layers: int = 1
    """eagle, eagle3, mtp: blocks of the head or module."""
    draft_vocab_size: int | None = None
    """eagle3 and other drafts that choose among fewer tokens: rows of their LM head; None: all."""

    @property
    def queries(self) -> int:
        """Tokens of a sequence that one step verifies: the drafts and the token before them."""
        return 1 + (self.num_candidates or self.num_speculative_tokens)

    @property
    def width(self) -> int:
        """Tokens per sequence in each step of the draft."""
        if self.num_candidates is None:
            return 1
        return self.tree_width or -(-self.num_candidates // self.num_speculative_tokens)

    @property
    def expected_tokens(self) -> float:
        """Mean tokens per step, long outputs."""
        return expected_tokens(self.rates)


def given_fields(config: SpeculativeConfig) -> dict[str, Any]:
    """A configuration as the option takes it: fields that differ from their defaults, ``acceptance`` by place."""
    fields = {
        field.name: value
        for field in dataclasses.fields(SpeculativeConfig)
        if field.name != "rates" and (value := getattr(config, field.name)) != field.default
    }
    return fields | {"acceptance": list(config.rates)}


_OWN = ["acceptance", "mean_accepted_length"]
_NO_EFFECT = ["prompt_lookup_max", "prompt_lookup_min"]
"""vLLM's fields of n-gram lookup: what they lead to is what ``acceptance`` says."""


def parse_speculative(value: object) -> SpeculativeConfig:
    """A mapping, JSON text, or the path of a JSON or YAML file. UserError in one line for anything that makes no sense."""
    if isinstance(value, SpeculativeConfig):
        return value
    content = dict(_mapping(value))
    known = [f.name for f in dataclasses.fields(SpeculativeConfig) if f.name != "rates"] + _OWN + _NO_EFFECT
    for name in content:
        if name not in known:
            raise unknown_field(name, known, where=OPTION)
    for name in _NO_EFFECT:
        content.pop(name, None)
    given = {name: content.pop(name) for name in list(content) if name in _OWN}
    config = _checked(from_mapping(SpeculativeConfig, content, where=OPTION))
    return dataclasses.replace(config, rates=_rates(config, given))


def _mapping(value: object) -> Mapping[str, Any]:
    if isinstance(value, Mapping):
        return value
    if isinstance(value, Path) or (isinstance(value, str) and value.strip() and not value.lstrip().startswith("{")):
        return read_yaml(Path(value))
    if not isinstance(value, str) or not value.strip():
        raise UserError(f"{OPTION} is {value!r}; write JSON such as '{EXAMPLE}', or the path of a YAML file")
    try:
        content: Mapping[str, Any] = json.loads(value)
    except json.JSONDecodeError as error:
        raise UserError(
            f"{OPTION} is not valid JSON ({error.msg} at character {error.pos}); write e.g. '{EXAMPLE}'"
        ) from error
    return content


def _checked(config: SpeculativeConfig) -> SpeculativeConfig:
    method = config.method
    if method == "draft_model" and config.model is None:
        raise UserError(f'{OPTION}: method draft_model has no draft model; add "model": "llama-3.2-1b" or another name')
    if config.model is not None and method in ("mtp", "ngram"):
        raise UserError(f"{OPTION}: method {method} takes no model; leave out {config.model!r}")
    if not config.num_speculative_tokens:
        if method != "mtp":
            raise UserError(f"{OPTION}: num_speculative_tokens is missing or 0; it must be at least 1, for example 5")
        config = dataclasses.replace(config, num_speculative_tokens=1)
    for name in ("draft_tensor_parallel_size", "num_candidates", "tree_width", "head_layers", "draft_vocab_size"):
        number = getattr(config, name)
        if number is not None and number < 1:
            raise UserError(f"{OPTION}: {name} is {number}; it must be at least 1")
    if config.draft_speedup <= 0:
        raise UserError(f"{OPTION}: draft_speedup is {config.draft_speedup:g}; it must be above 0, 1 for none")
    if config.num_candidates is not None and config.num_candidates < config.num_speculative_tokens:
        raise UserError(
            f"{OPTION}: num_candidates ({config.num_candidates}) is less than the depth of the tree, "
            f"num_speculative_tokens ({config.num_speculative_tokens}); every level has a candidate"
        )
    if config.tree_width is not None and config.num_candidates is None:
        raise UserError(f"{OPTION}: tree_width is for trees; add num_candidates or leave it out")
    if config.draft_device is not None and method != "draft_model":
        raise UserError(f"{OPTION}: draft_device is for method draft_model; {method} runs on the target's devices")
    if config.draft_tensor_parallel_size is not None and method != "draft_model":
        raise UserError(
            f"{OPTION}: draft_tensor_parallel_size is for method draft_model; {method} is split as the target"
        )
    return config


def _rates(config: SpeculativeConfig, given: Mapping[str, Any]) -> tuple[float, ...]:
    places = config.num_speculative_tokens
    value = given.get("acceptance")
    mean = given.get("mean_accepted_length")
    if value is not None and mean is not None:
        raise UserError(f"{OPTION}: acceptance and mean_accepted_length say the same; leave one out")
    if mean is not None:
        if not _is_number(mean) or not 1 <= mean <= places + 1:
            raise UserError(
                f"{OPTION}: mean_accepted_length is {mean!r}; tokens per step are between 1 and num_speculative_tokens + 1 "
                f"({places + 1})"
            )
        return (rate_of_mean(float(mean), places),) * places
    if value is None:
        if config.method != "mtp":
            raise UserError(
                f'{OPTION}: acceptance is missing; add "acceptance": 0.7, a list by place, or mean_accepted_length'
            )
        value = MTP_ACCEPTANCE
    rates = list(value) if isinstance(value, list | tuple) else [value] * places
    for rate in rates:
        if not _is_number(rate) or not 0 <= rate <= 1:
            raise UserError(f"{OPTION}: acceptance is {rate!r}; it must be a probability from 0 to 1, for example 0.7")
    if len(rates) != places:
        raise UserError(
            f"{OPTION}: acceptance lists {len(rates)} places, num_speculative_tokens is {places}; give as many as that"
        )
    return tuple(float(rate) for rate in rates)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
