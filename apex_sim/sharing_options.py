"""Arguments for devices that are shared (docs/sharing.md)."""

from __future__ import annotations

import argparse


def add_sharing(parser: argparse.ArgumentParser) -> None:
    """--interference, --sm-split and --pair-instances."""
    group = parser.add_argument_group("shared devices (docs/sharing.md)")
    group.add_argument(
        "--interference",
        metavar="FACTORS|FILE",
        help="co-tenants: compute=1.2,memory=1.5,host-link=2,host-cpu=1.3 times as slow, on=20s,off=60s in bursts, or a YAML",
    )
    group.add_argument(
        "--sm-split",
        metavar="SHARE|POLICY",
        help="prompts and tokens at the same time on each device: 0.6 (prompts' share of the SMs), proactive, "
        "'proactive(slack=1.5, order=shortest)'",
    )
    group.add_argument(
        "--pair-instances",
        action="store_true",
        default=None,
        help="replicas in pairs (an even --dp) that hold each other's KV: roles change without transfers",
    )
