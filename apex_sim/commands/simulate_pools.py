"""``apex-sim simulate --disaggregate``: two pools, one workload."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from apex_sim import options

if TYPE_CHECKING:
    from simulator.disaggregated import DisaggregatedDeployment
    from workloads.slo import Slo


def refuse_link(args: argparse.Namespace) -> None:
    """--kv-link and --kv-overlap need two pools."""
    from hardware_profiles.errors import UserError

    for name, given in (("--kv-link", args.kv_link is not None), ("--kv-overlap", args.kv_overlap)):
        if given:
            raise UserError(f"{name} has no meaning without two pools; add --disaggregate prefill=tp1 decode=tp1")


def run(args: argparse.Namespace, slo: Slo | None, settings: dict[str, Any]) -> int:
    """Simulate, print, write."""
    from apex_sim.api import check_pools_served
    from apex_sim.files import prepare_file, prepare_folder, to_json, write_text
    from apex_sim.report import summary_text, write_run
    from apex_sim.text import ProgressBar
    from simulator.simulate_disaggregated import simulate_disaggregated

    deployment = build(args, settings)
    trace = options.workload_of(args)
    check_pools_served(deployment, trace)
    json_file = prepare_file(args.json, "--json") if args.json not in (None, "-") else None
    folder = prepare_folder(args.out) if args.out is not None else None
    with ProgressBar("simulating") as progress:
        result = simulate_disaggregated(
            deployment, trace, slo=slo, seed=args.seed, exact_steps=args.exact_steps, progress=progress
        )
    print(to_json(result.summary) if args.json == "-" else summary_text(result), end="" if args.json == "-" else "\n")
    if json_file is not None:
        write_text(json_file, to_json(result.summary))
    if folder is not None:
        paths = write_run(result, folder, config(args, deployment))
        print(f"\nwrote {', '.join(path.name for path in paths)} to {folder}")
    return 0


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
        **{name: {k: v for k, v in pool.items() if k not in shared} for name, pool in pools.items()},
    }
