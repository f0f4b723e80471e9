"""From a file, or a mapping, to a deployment of several models."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hardware_profiles.cluster import parse_cluster
from hardware_profiles.errors import UserError, unknown_name
from hardware_profiles.records import from_mapping
from hardware_profiles.schema import Cluster
from simulator.build import EngineSettings, build_deployment
from simulator.deployment import Deployment
from simulator.setting_checks import check_number
from simulator.several.deployment import Member, SeveralDeployment
from simulator.several.settings import Cascade, Switch
from workloads.labels import zipf_shares

KEYS = ("cluster", "engine", "switch", "models", "cascade", "settings")
OWN = ("model", "share", "group", "copies", "skew", "deadline_s", "engine", "tp", "pp", "dp", "ep")
"""Keys of a model beside engine settings."""


def build_several(
    config: Mapping[str, Any] | Path | str, *, cluster: Cluster | str | None = None, engine: str | None = None
) -> SeveralDeployment:
    """The deployment that a file or mapping describes (docs/several_models.md); ``cluster`` and ``engine`` replace its own.

    UserError, naming the key, for whatever does not fit.
    """
    where = "models" if isinstance(config, Mapping) else str(config)
    data = config if isinstance(config, Mapping) else _read(Path(config))
    for key in data:
        if key not in KEYS:
            raise UserError(f"{where}: {unknown_name('key', str(key), KEYS)}")
    models = data.get("models")
    if not isinstance(models, Mapping) or not models:
        raise UserError(f"{where}: models is missing; write 'name: {{model: llama-3.1-8b}}' lines under it")
    machines = cluster if cluster is not None else data.get("cluster")
    if machines is None:
        raise UserError(f"{where}: cluster is missing; write for example 'cluster: h100-sxm:2', or give --cluster")
    if not isinstance(machines, Cluster):
        machines = parse_cluster(str(machines))
    common = data.get("settings") or {}
    if not isinstance(common, Mapping):
        raise UserError(
            f"{where}: settings is {common!r}; write engine settings under it, such as 'max_model_len: 4096'"
        )
    try:
        members = [
            member
            for name, keys in models.items()
            for member in _members(str(name), keys, machines, engine or data.get("engine"), common)
        ]
        switch = from_mapping(Switch, data.get("switch") or {}, where="switch")
        cascade = data.get("cascade")
        if cascade is None and not any(member.share for member in members):
            raise UserError("models: every share is 0, so that nobody is asked for; give one of them 'share: 1'")
        several = SeveralDeployment(
            members=tuple(members),
            switch=switch,
            cascade=None if cascade is None else _cascade(cascade, [member.name for member in members]),
        )
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return several


def _read(path: Path) -> Mapping[str, Any]:
    import yaml

    try:
        data = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror or error}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: is not YAML: {' '.join(str(error).split())}") from None
    if not isinstance(data, Mapping):
        raise UserError(f"{path}: is not a mapping of keys; write at least models and cluster")
    return data


def _members(name: str, keys: Any, cluster: Cluster, engine: Any, common: Mapping[str, Any]) -> list[Member]:
    """A model and its copies: fine-tuned models of one architecture, all with the same weights' size."""
    if not isinstance(keys, Mapping) or "model" not in keys:
        raise UserError(f"models.{name}: model is missing; write 'model: llama-3.1-8b'")
    settings = dict(common)
    allowed = (*OWN, *EngineSettings.__annotations__)
    for key, value in keys.items():
        if key not in allowed:
            raise UserError(f"models.{name}: {unknown_name('key', str(key), allowed)}")
        if key not in OWN:
            settings[key] = value
    for key in settings:
        if key not in EngineSettings.__annotations__:
            raise UserError(f"settings: {unknown_name('key', str(key), EngineSettings.__annotations__)}")
    numbers = {"share": 1.0, "skew": 0.0, "deadline_s": 1.0} | {
        k: keys[k] for k in ("share", "skew", "deadline_s") if k in keys
    }
    for key, value in numbers.items():
        check_number(f"models.{name}.{key}", value, float, 0, 1e12)
    copies = keys.get("copies", 1)
    check_number(f"models.{name}.copies", copies, int, 1, 10_000)
    degrees = {key: keys[key] for key in ("tp", "pp", "dp", "ep") if key in keys}
    deployment = _deployment(name, keys["model"], cluster, keys.get("engine") or engine, degrees, settings)
    shares = zipf_shares(copies, numbers["skew"]) * numbers["share"]
    return [
        Member(
            name=name if copies == 1 else f"{name}-{i}",
            deployment=deployment,
            share=float(share),
            group=str(keys.get("group", "shared")),
            deadline_s=float(numbers["deadline_s"]),
        )
        for i, share in enumerate(shares)
    ]


def _deployment(
    name: str, model: Any, cluster: Cluster, engine: Any, degrees: Mapping[str, Any], settings: Mapping[str, Any]
) -> Deployment:
    try:
        chosen = {} if engine is None else {"engine": str(engine)}
        return build_deployment(str(model), cluster, **chosen, **degrees, **settings)  # type: ignore[arg-type]
    except UserError as error:
        raise UserError(f"models.{name}: {error}") from None


def _cascade(keys: Any, names: list[str]) -> Cascade:
    if not isinstance(keys, Mapping):
        raise UserError("cascade is no mapping; write {first: small, then: large, escalate: 0.3}")
    cascade = from_mapping(Cascade, keys, where="cascade")
    for key in ("first", "then"):
        if getattr(cascade, key) not in names:
            raise UserError(f"cascade.{key}: {unknown_name('model', getattr(cascade, key), names)}")
    return cascade
