"""What ``--search`` may choose beside layouts: number formats, drafts, memory for cached prefixes.

Accuracy of a format and acceptance of drafts are not predicted: what was assumed is listed with the plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from hardware_profiles.errors import UserError, unknown_name
from hardware_profiles.schema import Cluster, DeviceProfile
from planners.caches import DISK, HOST_SHARE, Cache
from planners.space import SearchSpace
from simulator.speculative.config import MTP_ACCEPTANCE, SpeculativeConfig, parse_speculative
from workloads.catalog import catalog, load_model
from workloads.model import ModelSpec
from workloads.trace import Trace

SEARCHES = {
    "pd": "prefill and decode on replicas of their own",
    "quantization": "weight formats and KV in 8 bits",
    "speculative": "drafts and how many tokens they run ahead",
    "prefix-cache": "sharing of prefixes, off or on, with host memory and disk below the devices",
}
"""What may be named, and what it adds."""

DRAFT_LENGTHS = (1, 2, 3, 4, 5)
"""Drafted tokens in a row that are tried."""
SMALLER = 4
"""A model drafts for one with at least so many times its parameters."""
NGRAM_ACCEPTANCE = 0.40
"""Mean accepted tokens of prompt lookup on Spec-Bench (github.com/hemingkx/Spec-Bench, A100 leaderboard): 1.73, 1.68 and 1.55
for Vicuna 7B, 13B and 33B, 1.65 on average; with drafts of any length that is 1 / (1 - a), a = 0.40."""
DRAFT_ACCEPTANCE = 0.54
"""The same for a draft model (Vicuna, 68M): 2.28, 2.18 and 2.01, 2.16 on average, a = 0.54."""
ASSUMED: Mapping[str, tuple[float, str]] = {
    "ngram": (NGRAM_ACCEPTANCE, "Spec-Bench leaderboard, prompt lookup on Vicuna: 1.65 tokens per step"),
    "draft_model": (DRAFT_ACCEPTANCE, "Spec-Bench leaderboard, a 68M draft of Vicuna: 2.16 tokens per step"),
    "mtp": (MTP_ACCEPTANCE, "DeepSeek-V3 report, arXiv 2412.19437: 85 to 90 % of second tokens"),
}
"""Method -> acceptance where the user gives none, and where it comes from."""
MTP_MODELS = ("deepseek_v3", "deepseek_v32", "glm4_moe", "qwen3_next")
"""model_type of checkpoints that come with a multi-token-prediction module which vLLM serves (from memory)."""


def search_techniques(
    space: SearchSpace,
    model: ModelSpec,
    cluster: Cluster,
    trace: Trace,
    searches: Iterable[str],
    acceptance: Any = None,
) -> SearchSpace:
    """The space with what ``searches`` name to choose from; formats that are listed in it already are the choice.

    ``acceptance``: of drafts, see :func:`acceptance_of`.
    """
    names = tuple(searches)
    for name in names:
        if name not in SEARCHES:
            raise unknown_name("search", str(name), SEARCHES)
    rates = acceptance_of(acceptance)
    if rates and ("speculative" not in names or space.settings.get("speculative_config") is not None):
        raise UserError(
            "--draft-acceptance is for drafts that --search speculative tries; a --speculative-config has its own"
        )
    found: dict[str, Any] = {"searched": names, "pools": space.pools or "pd" in names}
    if "quantization" in names:
        weights, kinds = formats_of(model, cluster.device)
        listed = (len(space.quantizations) > 1, len(space.kv_cache_dtypes) > 1)
        if not any(listed):
            found["quantizations"] = tuple(dict.fromkeys((*space.quantizations, *weights)))
            found["kv_cache_dtypes"] = tuple(dict.fromkeys((*space.kv_cache_dtypes, *kinds)))
    if "speculative" in names:
        settings = dict(space.settings)
        own = settings.pop("speculative_config", None)
        found |= {"settings": settings, "drafts": drafts_of(model, own, rates)}
    if "prefix-cache" in names:
        found["caches"] = caches_of(space, cluster, trace)
    own_drafts = space.settings.get("speculative_config") is not None
    space = dataclasses.replace(space, **found)
    return dataclasses.replace(space, assumptions=tuple(assumptions_of(space, rates, own_drafts, trace)))


def formats_of(model: ModelSpec, device: DeviceProfile) -> tuple[tuple[str | None, ...], tuple[str, ...]]:
    """(weight formats, KV formats) that vLLM serves on the device (its table of supported hardware, from memory); the
    checkpoint's own first. A checkpoint that is quantised already stays as it is."""
    peaks = device.dense_flop_per_s
    weights: list[str | None] = [None]
    nvidia = device.vendor.upper() == "NVIDIA"
    if model.quant is None:
        weights += ["fp8"] if "fp8" in peaks else []
        weights += ["w8a8"] if nvidia and "int8" in peaks and "fp4" not in peaks else []  # no int8 GEMMs on Blackwell
        weights += ["awq_marlin"] if nvidia and "bfloat16" in peaks else []  # Ampere and later
        weights += ["nvfp4"] if nvidia and "fp4" in peaks else []
    return tuple(weights), ("auto", "fp8") if "fp8" in peaks else ("auto",)


def acceptance_of(given: Any) -> dict[str, float]:
    """Acceptance by method from ``0.7`` (every method's) or ``ngram=0.3,draft_model=0.7``; a mapping or number in the API."""
    if given is None:
        return {}
    if isinstance(given, Mapping):
        pairs = [(str(name), value) for name, value in given.items()]
    elif isinstance(given, str) and "=" in given:
        pairs = [(name.strip(), value) for name, _, value in (part.partition("=") for part in given.split(","))]
    else:
        pairs = [(name, given) for name in ASSUMED]
    found: dict[str, float] = {}
    for name, value in pairs:
        if name not in ASSUMED:
            raise unknown_name("method of --draft-acceptance", name, ASSUMED)
        try:
            found[name] = float(value)
        except (TypeError, ValueError):
            found[name] = -1.0
        if not 0 <= found[name] <= 1:
            raise UserError(
                f"--draft-acceptance {name}={value}: it must be a probability from 0 to 1, for example "
                "ngram=0.3,draft_model=0.7"
            )
    return found


def drafts_of(model: ModelSpec, given: object, acceptance: Mapping[str, float]) -> dict[str, SpeculativeConfig]:
    """Drafts to try by label: of the configuration the user gives its own length and those of DRAFT_LENGTHS; else n-grams, the
    smallest model of the catalog with the same vocabulary, and the checkpoint's own module."""
    if given is not None:
        return _lengths(parse_speculative(given))
    drafts: dict[str, SpeculativeConfig] = {}
    small = smallest_draft(model)
    for method in ("ngram", "draft_model", "mtp"):
        if (method == "draft_model" and small is None) or (method == "mtp" and model.model_type not in MTP_MODELS):
            continue
        rate = acceptance.get(method, ASSUMED[method][0])
        for length in DRAFT_LENGTHS:
            config = SpeculativeConfig(
                method=method,
                model=small if method == "draft_model" else None,
                num_speculative_tokens=length,
                rates=(rate,) * length,
            )
            drafts[label_of(config)] = config
    return drafts


def _lengths(config: SpeculativeConfig) -> dict[str, SpeculativeConfig]:
    """The user's drafts with other lengths; trees and lists of rates, which are of one depth, as they are."""
    if config.num_candidates is not None or len(set(config.rates)) > 1:
        return {label_of(config): config}
    lengths = sorted({*DRAFT_LENGTHS, config.num_speculative_tokens})
    configs = [dataclasses.replace(config, num_speculative_tokens=n, rates=config.rates[:1] * n) for n in lengths]
    return {label_of(c): c for c in configs}


def label_of(config: SpeculativeConfig) -> str:
    """``ngram x3``, ``llama-3.2-1b x5``: what drafts, and how many tokens in a row."""
    name = config.method if config.model is None else config.model.split("/")[-1].lower()
    return f"{name} x{config.num_speculative_tokens}"


def smallest_draft(model: ModelSpec) -> str | None:
    """The smallest model of the catalog of the same family with as many tokens in its vocabulary, if it is small enough. With
    one acceptance assumed for all of them, larger ones would only cost more."""
    found = [
        (small.num_params, entry.names[0])
        for entry in catalog().values()
        if entry.config.get("model_type") == model.model_type and entry.config.get("vocab_size") == model.vocab_size
        for small in [load_model(entry.names[0])]
        if SMALLER * small.num_params <= model.num_params and small.quant is None
    ]
    return min(found)[1] if found else None


def caches_of(space: SearchSpace, cluster: Cluster, trace: Trace) -> tuple[Cache, ...]:
    """Ways of sharing prefixes to try; the settings' alone where no two requests share one (the workload does not say so)."""
    for name in ("enable_prefix_caching", "kv_offloading_size", "kv_offloading_disk"):
        if space.settings.get(name) is not None:
            raise UserError(
                f"--{name.replace('_', '-')} fixes what --search prefix-cache looks for; drop one of the two"
            )
    if trace.prefix_ids is None:
        return ("",)
    host = cluster.device.host_link is not None and cluster.node.host_memory_bytes > 0
    return ("on", "off", "host", "disk") if host else ("on", "off")


def assumptions_of(space: SearchSpace, acceptance: Mapping[str, float], own_drafts: bool, trace: Trace) -> list[str]:
    """What a plan that was searched rests on, a sentence each."""
    lines = []
    if "quantization" in space.searched:
        names = [name for name in space.quantizations if name] + [f"KV in {k}" for k in space.kv_cache_dtypes[1:]]
        what = (
            f"{', '.join(names)}: what it does to accuracy is not predicted"
            if names
            else "this checkpoint stays as it is"
        )
        lines.append(f"quantization: {what}")
    if "speculative" in space.searched:
        methods = list(dict.fromkeys(config.method for config in space.drafts.values()))
        lines += [_acceptance_line(method, acceptance, own_drafts, space) for method in methods]
    if "prefix-cache" in space.searched:
        lines.append(_cache_line(space, trace))
    return lines


def _acceptance_line(method: str, acceptance: Mapping[str, float], own: bool, space: SearchSpace) -> str:
    if own:
        return f"speculative: acceptance of {method} as --speculative-config says"
    if method in acceptance:
        return f"speculative: acceptance of {method} is {acceptance[method]:g}, as given"
    rate, source = ASSUMED[method]
    return (
        f"speculative: acceptance of {method} is assumed to be {rate:g} at every place ({source}); it depends on models and "
        "text: measure it and give --draft-acceptance"
    )


def _cache_line(space: SearchSpace, trace: Trace) -> str:
    if space.caches == ("",):
        return f"prefix-cache: {trace.name} does not say which prefixes requests share; there was nothing to choose"
    return (
        f"prefix-cache: host is {HOST_SHARE:.0%} of a node's memory and disk one {DISK} a node, split over its replicas"
    )
