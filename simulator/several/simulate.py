"""simulate_several(): models of one cluster meet a trace."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hardware_profiles.errors import UserError
from simulator.events.step_log import Watch
from simulator.routing import parse_routing
from simulator.run import Progress
from simulator.scheduling.setup import in_order
from simulator.several.cascade import escalated, with_models
from simulator.several.deployment import SeveralDeployment
from simulator.several.result import SeveralResult
from simulator.several.run import MemberSetup, SeveralSimulation
from simulator.speculative.setup import seeded
from workloads.slo import Slo
from workloads.trace import Trace


def simulate_several(
    several: SeveralDeployment,
    trace: Trace,
    *,
    slo: Slo | None = None,
    seed: int = 0,
    exact_steps: bool = False,
    progress: Progress | None = None,
    watch: Watch | None = None,
) -> SeveralResult:
    """Run ``trace`` on all models to the end. The seed draws models by share, who goes on in a cascade, and what any run
    draws. With a cascade the trace's own column ``model`` is not used: all requests begin at the first model. ``watch``
    keeps every step, for :func:`simulator.events.chrome.trace_of`."""
    several.check_memory()
    names = [member.name for member in several.members]
    first_of = None
    if several.cascade is not None:
        trace, first_of = escalated(trace, several.cascade, names, seed)
    else:
        trace = with_models(trace, names, [member.share for member in several.members], seed)
    _check_prefixes(several, trace)
    members, routers = [], []
    for member, deployment in zip(several.members, several.served, strict=True):
        setup: Any = seeded(deployment.replica_setup(), seed)
        if watch is not None:
            setup = replace(setup, watch=watch)
        setup = in_order(setup, deployment.scheduling, deployment.engine.batching, trace, seed)
        members.append(
            MemberSetup(
                setup=setup,
                replicas=deployment.plan.dp,
                group=member.group,
                load_s=several.load_s(member) if len(several.groups[member.group]) > several.switch.resident else 0.0,
                deadline_s=member.deadline_s,
            )
        )
        routers.append(parse_routing(deployment.routing)[1](seed))
    record = SeveralSimulation(
        trace, members, several.switch, routers, exact_steps=exact_steps, progress=progress
    ).run()
    result = SeveralResult.of(several, trace, record, slo, seed)
    result.first_of = first_of
    return result


def _check_prefixes(several: SeveralDeployment, trace: Trace) -> None:
    """UserError for cached prefixes where models share devices: whose they are after a switch is not modelled."""
    if trace.prefix_ids is None:
        return
    for group, members in several.groups.items():
        for member in members if len(members) > 1 else ():
            if member.deployment.engine.prefix_caching:
                raise UserError(
                    f"{member.name}: cached prefixes do not go with models that share devices (group '{group}') yet; set "
                    "enable_prefix_caching: false"
                )
