"""Built-in models by Hugging Face name, short alias or path.

``models/*.json`` hold the fields of a ``config.json`` that this project reads, plus ``_names`` (Hub names with this
architecture), ``_aliases`` (short names), ``_source`` (where the numbers can be checked) and, for variants, ``_base``
(another file of the folder whose fields they change).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from hardware_profiles.errors import UserError, unknown_name
from workloads.huggingface import model_from_config
from workloads.model import ModelSpec

_SUFFIXES = ("-instruct", "-chat", "-it", "-pt", "-base", "-hf", "-chat-hf", "-instruct-hf")


@dataclass(frozen=True, slots=True, kw_only=True)
class CatalogEntry:
    """One file of the catalog."""

    stem: str
    names: tuple[str, ...]
    aliases: tuple[str, ...]
    source: str
    config: Mapping[str, Any]


@cache
def catalog() -> Mapping[str, CatalogEntry]:
    """Entries by file stem, sorted (about 5 ms once per process)."""
    raw: dict[str, dict[str, Any]] = {
        item.name.removesuffix(".json"): json.loads(item.read_text(encoding="utf-8"))
        for item in files("workloads").joinpath("models").iterdir()
        if item.name.endswith(".json")
    }
    return {stem: _entry(stem, raw[stem], raw) for stem in sorted(raw)}


def _entry(stem: str, config: dict[str, Any], raw: Mapping[str, dict[str, Any]]) -> CatalogEntry:
    own = {k: v for k, v in config.items() if not k.startswith("_")}
    base = raw[config["_base"]] if "_base" in config else {}
    return CatalogEntry(
        stem=stem,
        names=tuple(config["_names"]),
        aliases=tuple(config.get("_aliases", ())),
        source=config["_source"],
        config={**{k: v for k, v in base.items() if not k.startswith("_")}, **own},
    )


def model_names() -> list[str]:
    """Hub names of all built-in models."""
    return sorted((name for entry in catalog().values() for name in entry.names), key=str.lower)


def load_model(name_or_path: str) -> ModelSpec:
    """A model by Hub name (any case), short name, or path of a config.json or model folder.

    Files come first, then the catalog, then the local Hugging Face cache. The network is never used.
    """
    path = Path(name_or_path)
    if path.is_file() or (path / "config.json").is_file() or name_or_path.endswith(".json"):
        return model_from_config(path)
    found = _index().get(_key(name_or_path))
    if found is not None:
        stem, name = found
        entry = catalog()[stem]
        return model_from_config({**entry.config, "_source": entry.source}, name, place=f"models/{stem}.json")
    cached = _cached_config(name_or_path)
    if cached is not None:
        return model_from_config(cached, name_or_path)
    if path.is_dir():
        raise UserError(f"{path}: this folder has no config.json; give a model folder or the file itself")
    error = unknown_name("model", name_or_path, _readable_names())
    raise UserError(f"{error} Or give the path of its config.json.")


def _readable_names() -> list[str]:
    """Names worth suggesting: Hub names, and short ones for those who type short ones."""
    short = {stem for stem in catalog()} | {alias for entry in catalog().values() for alias in entry.aliases}
    return [*model_names(), *sorted(short)]


def _key(name: str) -> str:
    """Case, hyphens and underscores do not matter (dots do: 3.1 is not 31)."""
    return name.strip().strip("/").lower().replace("_", "").replace("-", "")


@cache
def _index() -> Mapping[str, tuple[str, str]]:
    """Key to (file stem, Hub name): Hub names, file stems and aliases; then names once shortened."""
    exact: dict[str, tuple[str, str]] = {}
    loose: dict[str, tuple[str, str]] = {}
    for stem, entry in catalog().items():
        for name in (*entry.names, stem, *entry.aliases):
            exact[_key(name)] = (stem, name if name in entry.names else entry.names[0])
        for name in entry.names:
            for short in _shortened(name):
                loose.setdefault(_key(short), (stem, name))
    return {**loose, **exact}


def _shortened(name: str) -> list[str]:
    """``meta-llama/Meta-Llama-3.1-8B-Instruct``: without the organisation, the ``Meta-`` and the ``-Instruct``."""
    bare = name.split("/")[-1].lower()
    forms = [bare, bare.removeprefix("meta-")]
    for form in tuple(forms):
        forms += [form.removesuffix(suffix) for suffix in _SUFFIXES if form.endswith(suffix)]
    return forms


def _cached_config(name: str) -> Path | None:
    """config.json of a model that Hugging Face tools have downloaded to this machine, newest snapshot first."""
    if name.count("/") != 1:
        return None
    home = os.environ.get("HF_HUB_CACHE") or os.path.join(
        os.environ.get("HF_HOME") or os.path.join(os.path.expanduser("~"), ".cache", "huggingface"), "hub"
    )
    snapshots = Path(home, f"models--{name.replace('/', '--')}", "snapshots")
    found = sorted(snapshots.glob("*/config.json"), key=lambda p: (p.stat().st_mtime, str(p)))
    return found[-1] if found else None
