"""``apex-sim simulate --disaggregate``: two pools, one workload."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from apex_sim import options

if TYPE_CHECKING:
    from simulator.disaggregated import DisaggregatedDeployment


def refuse_link(args: argparse.Namespace) -> None:
    """--kv-link and --kv-overlap need two pools."""
    from hardware_profiles.errors import UserError

    for name, given in (("--kv-link", args.kv_link is not None), ("--kv-overlap", args.kv_overlap)):
        if given:
            raise UserError(f"{name} has no meaning without two pools; add --disaggregate prefill=tp1 decode=tp1")


def build(args: argparse.Namespace, settings: dict[str, Any]) -> DisaggregatedDeployment:
    """The deployment that the arguments ask for."""
    from hardware_profiles.errors import UserError
    from simulator.build_disaggregated import build_disaggregated, parse_pools

    for degree in ("tp", "pp", "dp", "ep"):
        if getattr(args, degree) != 1:
            raise UserError(
                f"--{degree} {getattr(args, degree)} beside --disaggregate: each pool has its own layout; write it there, as "
                f"prefill={degree}{getattr(args, degree)}"
            )
    terms = {name: value for name in options.TERM_SETTINGS if (value := getattr(args, name)) is not None}
    return build_disaggregated(
        args.model,
        options.cluster_of(args),
        parse_pools(args.disaggregate),
        engine=args.engine,
        kv_link=args.kv_link,
        kv_overlap=args.kv_overlap,
        terms=terms,
        **settings,
    )


def config(args: argparse.Namespace, deployment: DisaggregatedDeployment) -> dict[str, Any]:
    """All that is needed to repeat the run: each pool as a deployment of its own, and the link."""
    import dataclasses

    from apex_sim.commands.simulate import resolved_config

    pools = {name: resolved_config(args, pool) for name, pool in deployment.pools}
    shared = {key: pools["prefill"][key] for key in ("apex_sim_version", "model", "workload", "command")}
    return {
        **shared,
        "kv_link": dataclasses.asdict(deployment.kv_link()),
        "kv_overlap": deployment.overlap,
        "elasticity": None if deployment.elasticity is None else dataclasses.asdict(deployment.elasticity),
        **{name: {k: v for k, v in pool.items() if k not in shared} for name, pool in pools.items()},
    }
