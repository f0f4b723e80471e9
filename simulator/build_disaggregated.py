"""From what the user writes of two pools to a DisaggregatedDeployment."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from hardware_profiles.cluster import parse_cluster
from hardware_profiles.errors import UserError, unknown_name
from hardware_profiles.schema import Cluster, Link
from hardware_profiles.terms import with_terms
from simulator.build import EngineSettings, build_deployment, name_of
from simulator.deployment import Deployment
from simulator.disaggregated import DisaggregatedDeployment
from workloads.model import ModelSpec

POOLS = ("prefill", "decode")
DEGREES = ("tp", "pp", "dp", "ep")
EXAMPLE = "write --disaggregate prefill=tp2,dp2 decode=tp4,dp1"

_DEGREE = re.compile(r"(tp|pp|dp|ep)=?(\d+)")
_LINK = re.compile(r"(\d+(?:\.\d*)?(?:e[+-]?\d+)?)\s*([GMT])(b|B|bit|Bit)(?:/s|ps)", re.ASCII)
_SCALE = {"M": 1e6, "G": 1e9, "T": 1e12}

Pool = dict[str, Any]
"""Degrees, ``cluster``, ``engine`` and engine settings of one pool, where they are its own."""


def parse_pools(texts: tuple[str, ...] | list[str]) -> dict[str, Pool]:
    """``prefill=tp2,dp2`` and ``decode=tp4,cluster=a100-sxm-80gb:8,max-num-seqs=64`` in either order."""
    pools: dict[str, Pool] = {}
    for text in texts:
        name, sign, terms = text.partition("=")
        if name not in POOLS or not sign:
            raise UserError(f"--disaggregate {text!r}: a pool is prefill=... or decode=...; {EXAMPLE}")
        if name in pools:
            raise UserError(f"--disaggregate names the {name} pool twice; {EXAMPLE}")
        pools[name] = _parse_pool(name, terms)
    for name in POOLS:
        if name not in pools:
            raise UserError(f"--disaggregate has no {name} pool; {EXAMPLE}")
    return pools


def _parse_pool(name: str, terms: str) -> Pool:
    pool: Pool = {}
    for term in filter(None, (part.strip() for part in terms.split(","))):
        degree = _DEGREE.fullmatch(term)
        key, sign, value = term.partition("=")
        key = key.strip().replace("-", "_")
        if degree is not None:
            key, found = degree[1], int(degree[2])
        elif sign and (key in ("cluster", "engine") or key in EngineSettings.__annotations__):
            found = _value(value.strip())
        else:
            raise UserError(
                f"--disaggregate {name}={terms}: {term!r} is neither a degree (tp2, pp2, dp2, ep2) nor cluster=SPEC, "
                f"engine=NAME or an engine setting such as max-num-seqs=64; {EXAMPLE}"
            )
        if key in pool:
            raise UserError(f"--disaggregate {name}={terms}: {key} is given twice; drop one")
        pool[key] = found
    return pool


def _value(text: str) -> Any:
    """A number, true or false, or text."""
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def parse_kv_link(text: str | Link | None) -> Link | None:
    """What KV goes over: ``50GB/s`` or ``400Gb/s`` per device and direction, ``inf``; ``auto`` or None: what the clusters
    have."""
    if text is None or isinstance(text, Link) or text == "auto":
        return text if isinstance(text, Link) else None
    if text == "inf":
        return Link(name="inf", bandwidth_bytes_per_s=float("inf"), latency_s=0.0)
    match = _LINK.fullmatch(text.strip()) if isinstance(text, str) else None
    if match is None or not float(match[1]) > 0:
        raise UserError(
            f"--kv-link is {text!r}; write a bandwidth above 0 per device and direction, such as 50GB/s or 400Gb/s, or auto "
            "(the clusters' own links) or inf"
        )
    bits = 1.0 if match[3] == "B" else 8.0
    return Link(
        name=text.strip(), bandwidth_bytes_per_s=float(match[1]) * _SCALE[match[2]] / bits, latency_s=LINK_LATENCY_S
    )


LINK_LATENCY_S = 10e-6
"""Of a link that is given by its bandwidth alone: as the networks of hosts.yaml."""


def build_disaggregated(
    model: ModelSpec | str,
    cluster: Cluster | str,
    pools: Mapping[str, Mapping[str, Any] | str],
    *,
    engine: str = "vllm-v1",
    kv_link: str | Link | None = None,
    kv_overlap: bool = False,
    terms: Mapping[str, Any] | None = None,
    **settings: Any,
) -> DisaggregatedDeployment:
    """Two pools of one model; ``pools`` as :func:`parse_pools` returns them. What a pool does not say is as ``cluster``,
    ``engine`` and ``settings`` say; ``terms`` (cost and carbon) hold for all clusters. Raises UserError early."""
    for name in pools:
        if name not in POOLS:
            raise UserError(f"disaggregate: {name!r} is no pool; there are prefill and decode")
    for name in POOLS:
        if not pools.get(name):
            raise UserError(f"the {name} pool has no devices: it needs at least a degree such as tp1; {EXAMPLE}")
    parsed = {name: _pool_of(name, pools[name]) for name in POOLS}
    machines = cluster if isinstance(cluster, Cluster) else parse_cluster(name_of("cluster", cluster))
    built = [_build_pool(name, model, machines, engine, parsed[name], terms or {}, settings) for name in POOLS]
    deployment = DisaggregatedDeployment(
        prefill=built[0], decode=built[1], link=parse_kv_link(kv_link), overlap=kv_overlap
    )
    deployment.check_memory()
    return deployment


def _pool_of(name: str, pool: object) -> Pool:
    """One pool: a mapping of what it may say, or the terms as the command line writes them (``tp2,dp2``)."""
    if isinstance(pool, str):
        return _parse_pool(name, pool)
    if not isinstance(pool, Mapping):
        raise UserError(
            f"disaggregate: {name} is {pool!r}; write its degrees: {name}: {{tp: 2, dp: 2}}, or {name}: tp2,dp2"
        )
    known = (*DEGREES, "cluster", "engine", *EngineSettings.__annotations__)
    for key in pool:
        if key not in known:
            raise UserError(f"disaggregate: {name}: {unknown_name('setting', str(key), known)}")
    return dict(pool)


def _build_pool(
    name: str,
    model: ModelSpec | str,
    cluster: Cluster,
    engine: str,
    pool: Mapping[str, Any],
    terms: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> Deployment:
    own = dict(pool)
    if name == "prefill":  # drafts are of no use to a first token
        settings = {key: value for key, value in settings.items() if key != "speculative_config"}
    degrees = {degree: own.pop(degree, 1) for degree in DEGREES}
    try:
        machines = _under(own.pop("cluster", None), terms) or cluster
        return build_deployment(model, machines, engine=own.pop("engine", engine), **degrees, **{**settings, **own})
    except UserError as error:
        raise UserError(f"{name} pool: {error}") from None


def _under(cluster: Cluster | str | None, terms: Mapping[str, Any]) -> Cluster | None:
    """A pool's own cluster under the terms of all."""
    if cluster is None:
        return None
    given = any(value is not None for value in terms.values())
    known = (
        cluster if isinstance(cluster, Cluster) else parse_cluster(name_of("cluster", cluster), check_terms=not given)
    )
    return with_terms(known, **terms)
