"""From ``--scheduling-policy`` to the batching policy of a replica."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Callable
from functools import partial

import numpy as np

from hardware_profiles.errors import UserError, unknown_name
from simulator.batching import RESERVING
from simulator.run import ReplicaSetup
from simulator.scheduling.orders import Order, Priority, Static, TokenCounters
from simulator.scheduling.queue import Ordered
from workloads.expressions import bind, number, parse_call
from workloads.streams import stream
from workloads.trace import Trace

Make = Callable[[], Order]
"""A fresh order, one per replica."""

FCFS = "fcfs"


def _priority(trace: Trace, seed: int, *, preempt: float = 0, update: float = 0, levels: float = 0) -> Make:
    """Of the trace's column; else ``levels`` classes drawn from the seed, or drawn anew ``update`` times per step."""
    values = np.zeros(len(trace))
    if levels:
        values = stream(seed, "priority").integers(0, int(levels), len(trace)).astype(np.float64)
    elif trace.priority is not None:
        values = trace.priority.astype(np.float64)
    elif not update:
        raise UserError(
            f"--scheduling-policy priority: {trace.name} has no priorities; add a column priority, or draw them: "
            "priority(levels=3) or priority(update=0.02)"
        )
    period = max(1, round(1 / update)) if update else 0
    return partial(Priority, values, preempt=bool(preempt), period=period, seed=seed)


def _shortest_job(trace: Trace, seed: int, *, error: float = 0) -> Make:
    """By predicted output length; the prediction is off by a lognormal factor of that sigma."""
    noise = stream(seed, "predicted output").standard_normal(len(trace))
    return partial(Static, trace.output_tokens.astype(np.float64) * np.exp(error * noise))


def _shortest_prompt(trace: Trace, seed: int) -> Make:
    return partial(Static, trace.input_tokens.astype(np.float64))


def _fair(trace: Trace, seed: int, *, input: float = 1, output: float = 2) -> Make:
    clients = trace.client
    if clients is None and trace.previous is not None:
        clients = trace.session_roots()
    if clients is None:
        raise UserError(
            f"--scheduling-policy vtc shares an engine among clients; {trace.name} names none: add a column client"
        )
    return partial(TokenCounters, clients, input_weight=input, output_weight=output)


SCHEDULING: dict[str, Callable[..., Make] | None] = {
    FCFS: None,
    "priority": _priority,
    "sjf": _shortest_job,
    "shortest-prompt": _shortest_prompt,
    "vtc": _fair,
}
"""Names for the CLI and YAML, with parameters as in ``priority(preempt=1)``. An order of your own goes into
:class:`simulator.scheduling.queue.Ordered` and from there into ``simulate_deployment(batching=...)``."""


def parse_scheduling(text: str, batching: str) -> tuple[str, dict[str, float]]:
    """(name, parameters) of ``priority(preempt=1, update=0.02)``. UserError for what makes no sense."""
    call = parse_call(text, "--scheduling-policy", "a name such as priority(preempt=1)")
    if call.name not in SCHEDULING:
        raise unknown_name("scheduling policy", call.name, SCHEDULING)
    make = SCHEDULING[call.name]
    names = (
        []
        if make is None
        else [p.name for p in inspect.signature(make).parameters.values() if p.kind is p.KEYWORD_ONLY]
    )
    given = {name: number(call, name, value) for name, value in bind(call, (), names).items()}
    if given.get("preempt", 0) not in (0, 1):
        raise call.error(f"preempt is {given['preempt']:g}; it is 0 or 1")
    if given.get("update", 0) > 1:
        raise call.error(f"update is {given['update']:g}; priorities change at most once per step: use 1 or less")
    if given.get("levels", 0) % 1:
        raise call.error(f"levels is {given['levels']:g}; it must be a whole number")
    if given.get("levels") and given.get("update"):
        raise call.error("levels stand and update draws anew; drop one of them")
    if given.get("preempt") and batching in RESERVING:
        raise call.error(f"batching {batching} reserves memory and cannot preempt; drop preempt")
    return call.name, given


def in_order(setup: ReplicaSetup, text: str, batching: str, trace: Trace, seed: int) -> ReplicaSetup:
    """The replica with its requests served in that order; first come first served it is as it was."""
    name, given = parse_scheduling(text, batching)
    make = SCHEDULING[name]
    if make is None:
        return setup
    order, policy = make(trace, seed, **given), setup.batching
    return dataclasses.replace(setup, batching=lambda: Ordered(policy(), order()))
