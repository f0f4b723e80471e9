"""How fast the fleet planner is: large random problems, the parity cases, and the published formulation beside it.

    python benchmarks/fleet_speed.py [--seeds N] [--limit SECONDS]

Wall clock of one process, whose solver is a child process of one thread. Three tables:
(a) 10 GPU types x 200 sizes, slice factor 8, to a gap of 1 %, of five families and five rates;
(b) the cases of ../shared/data/melange, to proven optimality (left out with a line when they are not there);
(c) the formulation of the Mélange paper (section 5.4: one binary per slice and type) and the planner's own, on the same
    problems with the same solver and the same limit.
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

from hardware_profiles.errors import UserError
from planners.fleet.ilp import plan_fleet
from planners.fleet.problem import FleetProblem, GpuType, Size
from planners.fleet.profile import read_profile
from planners.solver import solve

CASES = Path(__file__).parents[1].parent / "shared" / "data" / "melange"
FAMILIES = ("free", "near-equal prices", "tight limits", "loose limits", "few sizes")
RATES_PER_S = (1.0, 10.0, 30.0, 100.0, 1000.0)
GAP = 0.01
COMPARED = (
    "recon_arena_slo120_r16",
    "recon_mixed_88_12_slo120_r16",
    "recon_mixed_80_20_slo120_r32",
    "edge_fine_slices",
)


def problem(
    family: str, rate_per_s: float, seed: int, types: int = 10, shape: tuple[int, int] = (20, 10)
) -> FleetProblem:
    """A random problem: lognormal lengths, throughput per dollar within 40 % of proportional to the price, by a part of
    compute (input) and one of bandwidth (output and context), and no long prompts on the cheapest types."""
    rng = np.random.default_rng([seed, FAMILIES.index(family)])
    inputs, outputs = (
        g.ravel() for g in np.meshgrid(np.geomspace(25, 16000, shape[0]), np.geomspace(25, 2000, shape[1]))
    )
    weights = rng.uniform(0.3, 1.7, inputs.size)
    for lengths, centre, width in ((inputs, rng.uniform(5, 7), 1.2), (outputs, rng.uniform(4.5, 6), 1.0)):
        weights *= np.exp(-0.5 * ((np.log(lengths) - centre) / width) ** 2)
    if family == "few sizes":
        weights *= rng.random(inputs.size) < 0.3
    weights /= weights.sum()
    near = family == "near-equal prices"
    prices = (rng.uniform(3.9, 4.1, types) if near else np.exp(rng.uniform(np.log(0.5), np.log(12.0), types))).round(3)
    compute, bandwidth = (prices * rng.uniform(0.6, 1.4, types) for _ in range(2))
    seconds = inputs[:, None] * 1e-4 / compute + (outputs * (1 + inputs / 4000))[:, None] * 1.5e-3 / bandwidth + 1e-3
    tput = np.exp(rng.normal(0, 0.05, seconds.shape)) / seconds
    tput[(inputs[:, None] > 8000) & (prices < 1.5)] = 0.0
    loads = np.where(tput > 0, rate_per_s * weights[:, None] / np.maximum(tput, 1e-9), np.inf)
    limits: list[int | None] = [None] * types
    if "limits" in family:  # around what the cheapest type of each size would fill
        best = (loads * prices).argmin(axis=1)
        used = np.array([float(loads[best == j, j].sum()) for j in range(types)])
        share, more = (
            (0.8, 0.1) if family == "tight limits" else (1.2, 0.3)
        )  # of that, and of all dollars on every type
        limits = [int(np.ceil(n)) + 1 for n in (share * used + more * float(used @ prices) / prices).tolist()]
    return FleetProblem(
        types=tuple(GpuType(name=f"g{j}", usd_per_hour=float(p), limit=limits[j]) for j, p in enumerate(prices)),
        sizes=tuple(Size(name=f"s{b}", rate_per_s=float(rate_per_s * w)) for b, w in enumerate(weights)),
        max_tput_per_s=tput,
    )


def published(fleet: FleetProblem, limit_s: float) -> tuple[float | None, float, str]:
    """($/h, seconds, status) of the paper's programme: A_ij binary for every slice i and type j, equations (1) to (5)."""
    import pulp

    started, programme = time.perf_counter(), pulp.LpProblem("slices", pulp.LpMinimize)
    loads, factor = fleet.loads, fleet.slice_factor
    B = [programme.add_variable(f"B_{j}", 0, kind.limit, pulp.LpInteger) for j, kind in enumerate(fleet.types)]
    programme += pulp.lpSum(kind.usd_per_hour * B[j] for j, kind in enumerate(fleet.types))
    held: list[list[Any]] = [[] for _ in B]
    for b in np.flatnonzero(fleet.rates_per_s > 0).tolist():
        may = np.flatnonzero(np.isfinite(loads[b])).tolist()
        for i in range(factor):
            A = {j: programme.add_variable(f"A_{b}_{i}_{j}", 0, 1, pulp.LpInteger) for j in may}
            programme += pulp.lpSum(A.values()) == 1, f"slice_{b}_{i}"
            for j, variable in A.items():
                held[j].append(float(loads[b, j]) / factor * variable)
    for j, terms in enumerate(held):
        programme += pulp.lpSum(terms) <= B[j], f"load_{j}"
    run = solve(programme, time_limit_s=limit_s)
    return run.objective, time.perf_counter() - started, run.status


def ours(fleet: FleetProblem, limit_s: float, gap: float | None = GAP) -> tuple[float, float, float]:
    """($/h, seconds, gap)."""
    started = time.perf_counter()
    plan = plan_fleet(fleet, gap=gap, time_limit_s=limit_s)
    return plan.usd_per_hour, time.perf_counter() - started, plan.gap or 0.0


def large(seeds: int, limit_s: float) -> None:
    """Table (a)."""
    print(f"(a) 10 types x 200 sizes x slice factor 8, to a gap of {GAP:.0%}: seconds by rate; largest gap")
    print(f"{'family':20s}" + "".join(f"{rate:>9g}/s" for rate in RATES_PER_S) + "   worst s   worst gap")
    for family in FAMILIES:
        cells, seconds, gaps = [], [], []
        for rate in RATES_PER_S:
            times = []
            for seed in range(seeds):
                try:
                    _, taken, gap = ours(problem(family, rate, seed), limit_s)
                except UserError:  # limits that cannot carry the load
                    continue
                times.append(taken)
                gaps.append(gap)
            seconds += times
            cells.append(f"{statistics.mean(times):11.2f}" if times else f"{'-':>11s}")
        print(f"{family:20s}{''.join(cells)}{max(seconds):10.2f}{100 * max(gaps):10.2f} %")


def parity(limit_s: float) -> None:
    """Table (b)."""
    files = sorted(CASES.glob("*.json"))
    if not files:
        print(f"\n(b) left out: {CASES} is not here")
        return
    taken: list[tuple[float, str]] = []
    proven = 0
    for file in files:
        started = time.perf_counter()
        try:
            proven += plan_fleet(read_profile(file).problem(None, None, {}, {}), time_limit_s=limit_s).optimal
        except UserError:
            proven += 1  # infeasible, and said so
        taken.append((time.perf_counter() - started, file.stem))
    worst, name = max(taken)
    mean = statistics.mean(seconds for seconds, _ in taken)
    print(f"\n(b) {len(files)} parity cases, {proven} proven: mean {mean:.2f} s, slowest {worst:.2f} s ({name})")


def side_by_side(limit_s: float) -> None:
    """Table (c)."""
    print(f"\n(c) the published formulation and this one, both to optimality, limit {limit_s:g} s")
    print(
        f"{'problem':34s}{'published $/h':>14s}{'s':>8s}  {'status':10s}"
        f"{'ours $/h':>10s}{'s':>8s}{'gap':>8s}{'cost':>8s}{'time':>8s}"
    )
    cases = [(f"free, 4 types x 60, {r:g}/s", problem("free", r, 1, 4, (10, 6))) for r in (10.0, 30.0, 100.0)]
    cases += [(f"free, 10 types x 200, {rate:g}/s", problem("free", rate, 1)) for rate in (10.0, 30.0, 100.0)]
    for name in COMPARED:
        if (file := CASES / f"{name}.json").exists():
            cases.append((name, read_profile(file).problem(None, None, {}, {})))
    for name, fleet in cases:
        their_usd, their_s, status = published(fleet, limit_s)
        usd, seconds, gap = ours(fleet, limit_s, None)
        theirs = "-" if their_usd is None else f"{their_usd:.3f}"
        ratio = "-" if their_usd is None else f"{usd / their_usd:.3f}"
        print(
            f"{name:34s}{theirs:>14s}{their_s:8.2f}  {status:10s}"
            f"{usd:10.3f}{seconds:8.2f}{100 * gap:6.2f} %{ratio:>8s}{their_s / seconds:7.0f}x"
        )


def main() -> None:
    """Print the three tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=4, help="random problems per family and rate")
    parser.add_argument("--limit", type=float, default=60.0, help="seconds of one solve")
    args = parser.parse_args()
    large(args.seeds, args.limit)
    parity(args.limit)
    side_by_side(args.limit)


if __name__ == "__main__":
    main()
