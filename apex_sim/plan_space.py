"""What a plan may choose from: number formats, techniques, links between pools; every setting that is given is fixed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hardware_profiles.errors import UserError
from hardware_profiles.schema import Cluster, Link
from simulator.build import EngineSettings, check_compute
from simulator.build_disaggregated import parse_kv_link
from simulator.plan import ParallelPlan
from simulator.sharing.setup import refuse_sharing
from workloads.model import ModelSpec
from workloads.trace import Trace

if TYPE_CHECKING:
    from planners.space import SearchSpace


def search_space(
    model: ModelSpec,
    cluster: Cluster,
    engine: str,
    quantizations: tuple[str | None, ...] | None,
    kv_cache_dtypes: tuple[str, ...] | None,
    settings: EngineSettings,
) -> SearchSpace:
    """What the planner may vary: the formats as in :func:`apex_sim.plan`; every other setting that is given is fixed."""
    from planners.space import SearchSpace

    check_compute(cluster)
    refuse_sharing(settings)
    fixed = {name: value for name, value in settings.items() if value is not None}
    space = SearchSpace(
        engine=engine,
        quantizations=_formats(fixed.pop("quantization", None), quantizations, None),
        kv_cache_dtypes=_formats(fixed.pop("kv_cache_dtype", None), kv_cache_dtypes, "auto"),
        settings=fixed,
    )
    check_formats(model, cluster, space.quantizations, space.kv_cache_dtypes)
    return space


def with_search(
    space: SearchSpace,
    model: ModelSpec,
    cluster: Cluster,
    trace: Trace,
    search: Iterable[str],
    kv_link: str | Link | None,
    kv_overlap: bool,
    draft_acceptance: Any = None,
) -> SearchSpace:
    """The space with what ``search`` names to choose from, and the link between pools."""
    from planners.techniques import search_techniques

    names = (search,) if isinstance(search, str) else tuple(search)
    space = search_techniques(space, model, cluster, trace, names, draft_acceptance)
    if not space.pools and (kv_link is not None or kv_overlap):
        raise UserError("--kv-link and --kv-overlap have no meaning without two pools; add --search pd")
    return replace(space, kv_link=parse_kv_link(kv_link), kv_overlap=kv_overlap)


def _formats(setting: Any, allowed: tuple[Any, ...] | None, own: Any) -> tuple[Any, ...]:
    """Number formats to choose from, in order: the one set, then those allowed; without either the checkpoint's own."""
    if isinstance(allowed, str):
        raise UserError(
            f"quantizations and kv_cache_dtypes are lists of formats; {allowed!r} is text, write ({allowed!r},)"
        )
    given = () if setting is None else (setting,)
    return tuple(dict.fromkeys((*given, *(allowed or ())))) or (own,)


def check_formats(
    model: ModelSpec, cluster: Cluster, quantizations: Iterable[str | None], kv_cache_dtypes: Iterable[str]
) -> None:
    """UserError for a number format that the planner could not use because nobody knows it."""
    from simulator.physics.precision import resolve_precision

    for name in quantizations:
        resolve_precision(model, cluster.device, ParallelPlan(quantization=name))
    for kind in kv_cache_dtypes:
        resolve_precision(model, cluster.device, ParallelPlan(kv_cache_dtype=kind))
