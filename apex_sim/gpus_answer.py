"""The fleet that answers the arguments of ``apex-sim gpus``: from a table of throughputs, or from the simulator."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_sim import gpus_inputs as inputs
from apex_sim import options

if TYPE_CHECKING:
    from apex_sim.command_arguments import Bar
    from apex_sim.html.provenance import Simulated
    from planners.export.bundle import Export
    from planners.fleet.capacity import Capacity
    from planners.fleet.instance import Candidate, Serving
    from planners.fleet.problem import FleetProblem
    from workloads.trace import Trace


@dataclass(frozen=True, slots=True)
class FleetAnswer:
    """A fleet, of one load or over a day."""

    data: dict[str, Any]
    """Everything about it as plain values: the JSON of the command."""
    simulated: Simulated | None = None
    """What throughputs rest on; None: a table."""
    solver: str | None = None
    """What solved it, and how long that took: no part of the answer, as it varies."""
    export: Callable[[], Export] | None = None
    """What starts the fleet, where it was simulated."""


def check(args: argparse.Namespace) -> None:
    """Refuse values that mean nothing, before any work."""
    from hardware_profiles.errors import UserError

    if not 0 <= args.gap < 1:
        raise UserError(f"--gap is {args.gap:g}; it must be a share of at least 0 and below 1, for example 0.01")
    if not 0 < args.time_limit < float("inf"):
        raise UserError(f"--time-limit is {args.time_limit:g}; it must be a number of seconds above 0")
    if args.autoscale is None and args.startup is not None:
        raise UserError("--startup has no meaning without --autoscale; give a window, for example --autoscale 1h")


def answer_of(args: argparse.Namespace, bar: Bar, *, export: bool = False) -> FleetAnswer:
    """Plan. ``export``: the data also says how each server is started."""
    return _from_profile(args) if args.profile is not None else _from_simulator(args, bar, export)


def _from_profile(args: argparse.Namespace) -> FleetAnswer:
    """Throughputs from a table, sizes and rate too unless there is a workload; no simulation."""
    import numpy as np

    from apex_sim.gpus_day import day_dict
    from apex_sim.gpus_report import fleet_dict
    from apex_sim.gpus_shortage import no_fleet
    from hardware_profiles.errors import UserError
    from planners.fleet.day import plan as plan_day
    from planners.fleet.ilp import plan_fleet
    from planners.fleet.profile import read_profile
    from planners.fleet.schedule import day_of
    from planners.fleet.shortage import Shortage, refuse_unserved

    inputs.refuse_beside_table(args)
    if args.rate is not None and not 0 <= args.rate < float("inf"):
        raise UserError(f"--rate is {args.rate:g}; it must be a number of requests per second of at least 0")
    profile, rate, cell, trace, beyond = read_profile(Path(args.profile)), args.rate, None, None, 0
    if any(getattr(args, name) is not None for name in ("trace", "input_len", "output_len")):
        trace, rate = options.workload_of(args), None
        profile, cell, beyond = profile.of_trace(trace)
    names = tuple(profile.usd_per_hour)
    prices, limits = inputs.pairs(args.price, "--price", names), inputs.pairs(args.limit, "--limit", names)
    whole = {name: int(value) for name, value in limits.items()}
    full = profile.problem(rate, args.slice_factor, prices, whole)
    try:
        problem, skipped = inputs.served(full, args.skip_unserved)
        refuse_unserved(problem)
    except Shortage as error:
        raise no_fleet(full, error) from None
    if args.autoscale is not None:
        if trace is None or cell is None:
            raise UserError("--autoscale needs arrivals over time; give --trace FILE, or --arrival with --input-len")
        day, _ = day_of(problem, cell, trace, *inputs.window_of(args, trace))
        ones = np.ones((len(day.windows), len(problem.types)))
        plan = plan_day(day, ones, [None] * len(ones), gap=args.gap or None, time_limit_s=args.time_limit)
        return FleetAnswer(day_dict(plan, None) | inputs.notes(problem, skipped, beyond))
    try:
        fleet = plan_fleet(problem, gap=args.gap or None, time_limit_s=args.time_limit)
    except Shortage as error:
        raise no_fleet(full, error) from None
    data = fleet_dict(problem, fleet, skipped, None) | {"requests_beyond_grid": beyond}
    return FleetAnswer(data, solver=_solver(fleet))


def _from_simulator(args: argparse.Namespace, bar: Bar, export: bool) -> FleetAnswer:
    """Throughputs from the simulator, and the fleet simulated."""
    from apex_sim.gpus_shortage import no_fleet
    from apex_sim.html.provenance import Simulated
    from hardware_profiles.errors import UserError
    from planners.fleet.capacity import Capacity
    from planners.fleet.grid import histogram
    from planners.fleet.instance import Serving
    from planners.fleet.problem import FleetProblem
    from planners.fleet.shortage import Shortage, lacks_of
    from planners.fleet.simulated import measure
    from simulator.build import model_of
    from workloads.slo import as_slo

    for name, example in (("model", "llama-3.1-8b"), ("gpus", "h100-sxm,l4"), ("slo", "ttft=1s,tpot=50ms")):
        if getattr(args, name) is None:
            raise UserError(f"--{name} is missing (or give a table with --profile); for example --{name} {example}")
    slo = as_slo(args.slo)
    assert slo is not None
    serving = Serving(model=model_of(args.model), engine=args.engine, settings=options.engine_settings(args))
    candidates = inputs.candidates_of(args)
    if args.export is not None:
        from apex_sim.exporting import check_exportable

        for candidate in candidates:
            check_exportable(args.engine, candidate.cluster.device, args.export)
    trace = options.workload_of(args)
    grid = histogram(trace)
    window = None if args.autoscale is None else inputs.window_of(args, trace)
    capacity = Capacity(slo=slo, seed=args.seed, folder=None if args.no_cache else inputs.cache_folder(args.cache))
    with bar("throughputs") as progress:
        tput = measure(serving, candidates, grid, capacity, progress)
    full = FleetProblem(
        types=tuple(c.kind for c in candidates),
        sizes=grid.sizes,
        max_tput_per_s=tput,
        slice_factor=8 if args.slice_factor is None else args.slice_factor,
    )
    basis = Simulated(serving.model, args.engine, [candidate.cluster.device for candidate in candidates], trace)
    asked = _Asked(args, serving, candidates, trace, grid, capacity, basis)
    try:
        return asked.fleet(full, export) if window is None else asked.day(full, window)
    except Shortage as error:
        lacks = lacks_of(serving, candidates, grid, capacity, full.unserved)
        raise no_fleet(full, error, lacks, str(slo), basis) from None


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a fleet is planned for."""

    args: argparse.Namespace
    serving: Serving
    candidates: list[Candidate]
    trace: Trace
    grid: Any
    capacity: Capacity
    basis: Simulated

    @property
    def limits(self) -> dict[str, Any]:
        """Of the rounds of headroom, and of each solve."""
        from planners.fleet.simulated import ROUNDS

        args = self.args
        rounds = 0 if args.no_headroom else ROUNDS
        return {"rounds": rounds, "gap": args.gap or None, "time_limit_s": args.time_limit}

    def day(self, full: FleetProblem, window: tuple[float, float]) -> FleetAnswer:
        """A fleet for each window."""
        from apex_sim.gpus_account import with_account
        from apex_sim.gpus_day import day_dict
        from planners.fleet.account import day_account
        from planners.fleet.day import keep_day_promise
        from planners.fleet.schedule import day_of
        from planners.fleet.shortage import refuse_unserved

        problem, skipped = inputs.served(full, self.args.skip_unserved)
        refuse_unserved(problem)
        day, of = day_of(problem, self.grid.cell, self.trace, *window)
        parts = (self.serving, self.candidates, self.grid.cell, self.trace, self.capacity)
        plan = keep_day_promise(day, of, *parts, **self.limits)
        data = day_dict(plan, self.capacity.slo) | inputs.notes(problem, skipped, 0)
        spent = day_account(self.candidates, plan)
        return FleetAnswer(with_account(data, spent, 3600.0 * float(plan.day.hours.sum())), self.basis)

    def fleet(self, full: FleetProblem, export: bool) -> FleetAnswer:
        """One fleet for the whole load."""
        from apex_sim.gpus_account import with_account
        from apex_sim.gpus_export import export_of_fleet, export_values
        from apex_sim.gpus_report import fleet_dict
        from planners.fleet.account import fleet_account, fleet_span_s
        from planners.fleet.simulated import keep_promise

        slo, seed = self.capacity.slo, self.args.seed
        problem, skipped = inputs.served(full, self.args.skip_unserved)
        parts = (self.serving, self.candidates, self.grid, self.trace, self.capacity)
        rounds = keep_promise(problem, *parts, redraws=inputs.redraws_of(self.args), **self.limits)
        last = rounds[-1]
        span_s = fleet_span_s(last.checked, self.trace)
        spent = fleet_account(self.candidates, last.fleet.counts, last.checked, span_s)
        data = fleet_dict(problem, last.fleet, skipped, (slo, rounds)) | {"requests_beyond_grid": 0}
        data = with_account(data, spent, span_s)
        if export:
            data |= export_values(self.serving, self.candidates, last, slo, seed)
        return FleetAnswer(
            data,
            self.basis,
            _solver(last.fleet),
            partial(export_of_fleet, self.serving, self.candidates, last, slo, seed),
        )


def _solver(fleet: Any) -> str:
    return f"solved by {fleet.solver} in {fleet.seconds:.2f} s"
