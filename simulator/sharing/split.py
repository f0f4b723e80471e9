"""One device for two phases at once: prompts on a share of its multiprocessors, tokens on the rest (Nexus, arXiv:2507.06608).

The setting, and what a share of a device can do.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

from hardware_profiles.errors import UserError, unknown_name
from hardware_profiles.schema import Cluster
from simulator.physics.tenants import Factors, slower_cluster
from workloads.expressions import Call, bind, number, parse_call

FLAG = "--sm-split"
Order = Literal["fcfs", "shortest"]
EXAMPLE = f"write {FLAG} 0.6 (prompts' share of the multiprocessors) or {FLAG} proactive"
LEAST, MOST = 0.05, 0.95
"""Bounds of the share: neither phase is without multiprocessors."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SmSplit:
    """How a device is divided while both phases have work; a phase that is alone has all of it."""

    share: float | None = None
    """Of the multiprocessors, for prompts; None: chosen by the load of both phases (``proactive``)."""
    slack: float = 2.0
    """Proactive: how much longer the phase that comes second may take than with the whole device. Assumption."""
    kv: float = 0.7
    """Proactive: prompts come first while less than this share of the KV blocks is held, else tokens. Assumption."""
    hysteresis: float = 0.1
    """Proactive: a share nearer than this to the one in force is not worth a change. Assumption."""
    memory_knee: float = 0.5
    """Share of the multiprocessors that saturates the memory; from memory, of streaming kernels on A100 and H100."""
    compute_knee: float = 1.0
    """Share beyond which arithmetic gains nothing; 1: it is proportional to the multiprocessors."""
    order: Order = "fcfs"
    """Of prompts: first come first served, or shortest first (Nexus)."""

    def reach(self, share: float) -> Factors:
        """How many times as slow arithmetic and memory are on a share of the multiprocessors.

        ``sat(r) = min(1, r / knee)`` of the peak, and the same of the bandwidth.
        """
        return Factors(
            compute=1.0 / min(1.0, share / self.compute_knee), memory=1.0 / min(1.0, share / self.memory_knee)
        )


def parse_split(value: object) -> SmSplit:
    """``0.6``, ``fixed(prompts=0.6)``, ``proactive``, ``proactive(slack=1.5, order=shortest)``, or values."""
    if isinstance(value, SmSplit):
        return _checked(value)
    call = parse_call(value, FLAG, "a share such as 0.6, or a name such as proactive(slack=1.5)")
    common = ("memory_knee", "compute_knee", "order")
    if call.name == "constant":
        return _checked(SmSplit(share=float(call.args[0])))
    if call.name == "fixed":
        found = bind(call, ("prompts",), common)
        return _checked(replace(_numbers(call, found), share=number(call, "prompts", found["prompts"])))
    if call.name != "proactive":
        raise unknown_name(f"policy of {FLAG}", call.name, ("fixed", "proactive"))
    return _checked(_numbers(call, bind(call, (), (*common, "slack", "kv", "hysteresis"))))


def _numbers(call: Call, found: dict[str, str]) -> SmSplit:
    order = found.get("order", "fcfs")
    if order not in get_args(Order):
        raise call.error(str(unknown_name("order of prompts", order, get_args(Order))))
    values = {name: number(call, name, text) for name, text in found.items() if name not in ("order", "prompts")}
    return SmSplit(order=order, **values)  # type: ignore[arg-type]


def _checked(split: SmSplit) -> SmSplit:
    if split.share is not None and not LEAST <= split.share <= MOST:
        raise UserError(f"{FLAG} is {split.share:g}; prompts have from {LEAST:g} to {MOST:g} of the device; {EXAMPLE}")
    if not (math.isfinite(split.slack) and split.slack >= 1):
        raise UserError(f"{FLAG}: slack is {split.slack:g}; it is a factor of at least 1, such as 2")
    for name, value, least in (
        ("memory_knee", split.memory_knee, LEAST),
        ("compute_knee", split.compute_knee, LEAST),
        ("kv", split.kv, 0.0),
        ("hysteresis", split.hysteresis, 0.0),
    ):
        if not least <= value <= 1:
            raise UserError(f"{FLAG}: {name} is {value:g}; it is a share from {least:g} to 1")
    return split


def on_share(cluster: Cluster, split: SmSplit, share: float) -> Cluster:
    """The cluster as a phase sees it that has a share of every device's multiprocessors, and all of the bandwidth."""
    if share == 1:
        return cluster
    slower = slower_cluster(cluster, split.reach(share))
    device = replace(
        slower.device, num_sms=max(1, round(cluster.device.num_sms * share)) if slower.device.num_sms else 0
    )
    return replace(slower, node=replace(slower.node, device=device))
