"""Arguments for replicas that come and go (docs/autoscaling.md)."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from simulator.elastic.settings import Elasticity

SECONDS = ("interval", "startup", "cooldown", "soft_stop", "repair", "retry", "mtbf")


def add_elastic(parser: argparse.ArgumentParser) -> None:
    """--autoscale, --mtbf and what goes with them."""
    group = parser.add_argument_group(
        "autoscaling and failures (docs/autoscaling.md); --dp is the most replicas there are"
    )
    group.add_argument(
        "--autoscale",
        metavar="POLICY",
        help="outstanding(target=20), busy(0.7), tokens(target=2000), arrivals(4), reactive(up=30, down=5), forecast(4)",
    )
    group.add_argument(
        "--pd-ratio", metavar="P:D", help="two pools: prefill replicas per decode replica, which --autoscale sets"
    )
    group.add_argument("--autoscale-prefill", metavar="POLICY", help="two pools: policy of the prefill pool")
    group.add_argument("--min-replicas", type=int, metavar="N", help="fewest that serve (default 1)")
    group.add_argument("--initial-replicas", type=int, metavar="N", help="that serve when the trace begins")
    group.add_argument("--interval", metavar="TIME", help="between two looks of the controller (default 15s)")
    group.add_argument("--startup", metavar="TIME", help="from the decision to the first request (default 120s)")
    group.add_argument("--cooldown", metavar="TIME", help="no fewer replicas for so long after a change (default 0)")
    group.add_argument("--soft-stop", metavar="TIME", help="keep stopped replicas for so long (default 0)")
    group.add_argument("--mtbf", metavar="TIME", help="mean time between failures of a serving replica")
    group.add_argument("--repair", metavar="TIME", help="from a failure to the next start (default 600s)")
    group.add_argument("--retry", metavar="TIME", help="from a failure until its requests are sent again (default 1s)")


def elasticity_of(args: argparse.Namespace) -> Elasticity | None:
    """What the arguments ask for; None when they ask for neither autoscaling nor failures."""
    from hardware_profiles.errors import UserError
    from simulator.elastic.settings import Elasticity, parse_ratio

    times: dict[str, Any] = {
        f"{name}_s": _seconds(name, getattr(args, name)) for name in SECONDS if getattr(args, name) is not None
    }
    counts = {
        name: getattr(args, name) for name in ("min_replicas", "initial_replicas") if getattr(args, name) is not None
    }
    ratio = None if args.pd_ratio is None else parse_ratio(args.pd_ratio)
    shape = {"pd_ratio": ratio, "prefill_policy": args.autoscale_prefill}
    if args.autoscale is None and args.mtbf is None:
        given = [*(name.removesuffix("_s") for name in times), *counts]
        given += [name for name in ("pd_ratio", "autoscale_prefill") if getattr(args, name) is not None]
        if given:
            raise UserError(
                f"--{given[0].replace('_', '-')} says how replicas come and go; add --autoscale POLICY or --mtbf TIME"
            )
        return None
    return Elasticity(policy=args.autoscale, **shape, **counts, **times)


def _seconds(name: str, text: str) -> float:
    from workloads.slo import parse_seconds

    return 0.0 if text.strip() in ("0", "0s") else parse_seconds(text, "--" + name.replace("_", "-"))
