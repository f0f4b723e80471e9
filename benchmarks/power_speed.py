"""How fast the row of ``apex-sim power`` is: POLCA's row of 52 servers over a day, its search over thresholds, a capped server.

    python benchmarks/power_speed.py [--days N]

CPU time of this process and of the solvers it starts. The row is the default of the command: DGX A100 with BLOOM-176B.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from planners.oversubscribe.planning import StaticPlan

T = TypeVar("T")
PAIRS = ((0.75, 0.85), (0.80, 0.89), (0.85, 0.95))
EXTRAS = (0, 2, 4, 6, 8, 10, 12, 14, 16)
RUNS = 3
"""Of the comparison of a free and a capped server; the fastest counts."""


def timed(work: Callable[[], T]) -> tuple[float, T]:
    """(CPU seconds of this process and of the solvers it started, what the work returned)."""
    before = sum(os.times()[:4])
    done = work()
    return sum(os.times()[:4]) - before, done


def row(days: float) -> None:
    """One line per part of the row."""
    from planners.oversubscribe.planning import plan_static
    from planners.oversubscribe.policy import baselines, polca
    from planners.oversubscribe.row import DAY_S, LoadShape
    from planners.oversubscribe.services import PAPER_MIX
    from planners.oversubscribe.study import Setting, evaluate, prepare, search
    from simulator.build import build_deployment

    server = build_deployment("bloom-176b", "a100-sxm:8", tp=8, max_model_len=12288)
    setting = Setting(
        deployment=server,
        services=PAPER_MIX,
        num_servers=40,
        shape=LoadShape(),
        peak_load=0.25,
        peak_utilisation=0.79,
        caps_w=(350.0, 300.0),
        seconds=round(days * DAY_S),
    )
    policies = (polca(), *baselines())
    prepared_s, study = timed(lambda: prepare(setting, policies))
    runs = len(study.library.entries) + len(study.library.capped)
    show("servers at every load, clock and cap", prepared_s, f"{runs} runs")
    row_s, outcome = timed(lambda: evaluate(study, 52, policies[0]))
    show(f"52 servers, {days:g} day(s), POLCA", row_s, f"{outcome.run.num_brakes} brakes")
    others_s, _ = timed(lambda: [evaluate(study, 52, policy) for policy in policies[1:]])
    show("three other policies", others_s)
    plan_s, static = timed(lambda: plan_static(study))
    show("planning ILP and its row", plan_s, f"{static.plan.num_servers - 40:+d} servers, {gap_of(static)}")
    show("command without a search", prepared_s + row_s + others_s + plan_s)
    tried = tuple(replace(polca(*pair), name=f"{pair}") for pair in PAIRS)
    search_s, _ = timed(lambda: search(study, EXTRAS, tried))
    show("search", search_s, f"{len(PAIRS)} pairs of thresholds, {len(EXTRAS)} rows each")
    in_racks = prepare(replace(setting, racks=5), policies)
    racks_s, static = timed(lambda: plan_static(in_racks))
    show("planning ILP with 5 racks, its row", racks_s, gap_of(static))


def gap_of(static: StaticPlan) -> str:
    """How far from proven the plan is."""
    gap = static.plan.solver.gap
    return f"{static.plan.solver.status}, gap {'unknown' if gap is None else f'{100 * gap:.2f} %'}"


def show(name: str, seconds: float, note: str = "") -> None:
    """One line of the table."""
    print(f"{name:38s} {seconds:7.2f} s  {note}")


def capped() -> None:
    """What a power cap costs the simulator itself."""
    from apex_sim import api
    from simulator.simulate import simulate_deployment

    def once(cap_w: float | None) -> float:
        deployment = api.build_deployment("llama-3-8b", "h100-sxm:1", max_model_len=8192, power_cap=cap_w)
        trace = api.make_trace(rate=20.0, input_len=660, output_len=180, num_requests=20_000, seed=1)
        return timed(lambda: simulate_deployment(deployment, trace))[0]

    free_s, capped_s = (min(once(cap_w) for _ in range(RUNS)) for cap_w in (None, 400.0))
    print(
        f"20,000 requests, free and capped at 400 W: {free_s:.2f} s and {capped_s:.2f} s, ratio {capped_s / free_s:.2f}"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--days", type=float, default=1.0, metavar="N")
    row(parser.parse_args().days)
    capped()


if __name__ == "__main__":
    main()
