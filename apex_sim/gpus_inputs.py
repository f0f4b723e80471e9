"""What the arguments of ``apex-sim gpus`` mean: types of instances with their prices, windows, what is left out."""

from __future__ import annotations

import argparse
import dataclasses
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hardware_profiles.schema import Cluster
    from planners.fleet.instance import Candidate
    from planners.fleet.problem import FleetProblem
    from workloads.trace import Trace

STARTUP = "300s"
"""From asking for an instance to its first token: boot, weights, warm-up take minutes."""
MOST_WINDOWS = 200
ROUTING = "least-outstanding"
"""Among the instances of a type."""
REDRAWS = 2
"""Of a synthetic workload: a plan that one draw of its arrivals filled to the brim misses the SLO on the next."""


def refuse_beside_table(args: argparse.Namespace) -> None:
    """What a table says itself, and what only simulations heed, has no meaning with --profile."""
    from apex_sim.options import ENGINE_SETTINGS
    from hardware_profiles.errors import UserError

    said = ("gpus", "slo", "model", "pricing", "lifetime_years", "grid", "pue", "usd_per_kwh")
    unset = (None, False, 0.0, "auto", ROUTING, "vllm-v1")
    for name in (*said, "engine", *ENGINE_SETTINGS, "no_headroom", "cache", "no_cache"):
        if getattr(args, name) not in unset:
            raise UserError(
                f"--{name.replace('_', '-')} has no meaning beside --profile, whose table says what is served; drop one"
            )
    workload = (args.trace, args.input_len, args.output_len)
    if args.num_requests is not None and workload == (None, None, None):
        raise UserError(
            "--num-requests has no meaning with the sizes of --profile; give a trace or lengths, or drop it"
        )


def window_of(args: argparse.Namespace, trace: Trace) -> tuple[float, float]:
    """(length of a window, start-up time) [s]."""
    from hardware_profiles.errors import UserError
    from workloads.slo import parse_seconds

    window_s = parse_seconds(args.autoscale, "--autoscale")
    none = args.startup is not None and args.startup.strip() in ("0", "0s")
    startup_s = 0.0 if none else parse_seconds(args.startup or STARTUP, "--startup")
    if startup_s > window_s:
        raise UserError(
            f"--startup {args.startup or STARTUP} is longer than a window of --autoscale {args.autoscale}: an instance "
            "would start before the window in which it is wanted is foreseen; use longer windows"
        )
    if trace.duration_s > MOST_WINDOWS * window_s:
        raise UserError(
            f"--autoscale {args.autoscale} makes {trace.duration_s / window_s:.0f} windows of this trace; "
            f"at most {MOST_WINDOWS} are planned together: use longer windows or a part of the trace"
        )
    return window_s, startup_s


def redraws_of(args: argparse.Namespace) -> list[Trace]:
    """Other draws of a synthetic workload; none of a trace."""
    from apex_sim.options import workload_of

    if args.trace is not None or args.input_len is None:
        return []
    return [workload_of(argparse.Namespace(**{**vars(args), "seed": args.seed + 1 + i})) for i in range(REDRAWS)]


def notes(problem: FleetProblem, skipped: tuple[int, ...], beyond: int) -> dict[str, Any]:
    """What the plan leaves out."""
    return {"unserved": [problem.sizes[b].name for b in skipped], "requests_beyond_grid": beyond}


def served(problem: FleetProblem, skip: bool) -> tuple[FleetProblem, tuple[int, ...]]:
    """The problem without the requests that nothing serves, and which sizes these are."""
    import numpy as np

    from planners.fleet.shortage import Shortage

    skipped = problem.unserved
    if not skip or not skipped:
        return problem, ()
    if len(skipped) == np.count_nonzero(problem.rates_per_s):
        raise Shortage("no GPU type serves any size within the SLO, so nothing is left to plan: relax it or add a type")
    sizes = [dataclasses.replace(s, rate_per_s=0.0) if b in skipped else s for b, s in enumerate(problem.sizes)]
    return dataclasses.replace(problem, sizes=tuple(sizes)), skipped


def candidates_of(args: argparse.Namespace) -> list[Candidate]:
    """Types of instances from --gpus, with their prices and limits."""
    from hardware_profiles.cluster import parse_cluster
    from hardware_profiles.errors import UserError
    from planners.fleet.instance import Candidate
    from planners.fleet.problem import GpuType
    from simulator.accounting.rates import full_power_usd_per_hour

    names = [name.strip() for name in args.gpus.split(",") if name.strip()]
    if not names or len(set(names)) < len(names):
        raise UserError(f"--gpus is {args.gpus!r}; name each type once, for example h100-sxm,h100-sxm:2,l4")
    prices, limits = pairs(args.price, "--price", names), pairs(args.limit, "--limit", names)
    found = []
    for name in names:
        cluster = parse_cluster(name, check_terms=False)
        if cluster.num_nodes > 1:
            raise UserError(f"--gpus {name}: an instance is one node; write {name.split('x')[0]}")
        cluster = _with_terms(args, name, cluster, prices.get(name))
        price = prices.get(name, full_power_usd_per_hour(cluster))
        if price is None:
            raise UserError(f"--gpus {name}: its profile has no price; give one: --price {name}=2.50")
        limit = int(limits[name]) if name in limits else None
        found.append(Candidate(kind=GpuType(name=name, usd_per_hour=price, limit=limit), cluster=cluster))
    return found


def _with_terms(args: argparse.Namespace, name: str, cluster: Cluster, price: float | None) -> Cluster:
    """An instance under the terms of the arguments. ``price``: its rent [$/h], which wins over every pricing."""
    from hardware_profiles.errors import UserError, unknown_name
    from hardware_profiles.terms import PRICINGS, usd_per_device_hour, with_terms

    if args.pricing is not None and args.pricing not in PRICINGS:
        raise unknown_name("pricing", args.pricing, PRICINGS)
    pricing = cluster.terms.pricing if args.pricing is None else args.pricing
    terms = dataclasses.replace(cluster.terms, pricing=pricing)
    if price is not None:
        terms = dataclasses.replace(terms, pricing="on-demand", usd_per_gpu_hour=price / cluster.num_devices)
    elif pricing != "on-demand" and usd_per_device_hour(cluster.device, terms) is None:
        raise UserError(
            f"--gpus {name}: its profile has no price for --pricing {pricing}; give one: --price {name}=2.50, or choose "
            "another pricing"
        )
    figures = {name: getattr(args, name) for name in ("lifetime_years", "grid", "pue", "usd_per_kwh")}
    return with_terms(dataclasses.replace(cluster, terms=terms), **figures)


def pairs(items: list[str], flag: str, names: list[str] | tuple[str, ...]) -> dict[str, float]:
    """NAME=NUMBER options: prices, and limits (whole numbers)."""
    from hardware_profiles.errors import UserError, unknown_name

    found: dict[str, float] = {}
    for item in (part.strip() for text in items for part in text.split(",")):
        name, _, text = (piece.strip() for piece in item.partition("="))
        if name not in names:
            raise UserError(f"{flag} {item}: {unknown_name('type', name, names)}")
        try:
            value = float(int(text) if flag == "--limit" else float(text))
        except ValueError:
            value = -1.0
        if not 0 <= value < float("inf"):
            kind = "a whole number" if flag == "--limit" else "a number of dollars per hour"
            raise UserError(f"{flag} {item}: {text!r} must be {kind} of at least 0; write {flag} {name}=2")
        found[name] = value
    return found


def cache_folder(folder: str | None) -> Path:
    if folder is not None:
        return Path(folder)
    base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
    return Path(base).expanduser() / "apex-sim" / "fleet"
