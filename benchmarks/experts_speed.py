"""How fast and how near to their bounds expert placements are: balance of every catalog MoE, traffic of a few.

    python benchmarks/experts_speed.py [--tokens N] [--only balance|traffic]

Generated routing with the default skew and affinity of ``apex-sim experts``, half of the tokens planned on. Seconds are wall
clock and CPU time of this process. Greedy plus local search is the balanced placement followed by swaps under the same limit.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np

from simulator.experts.routing import Demand, Floats, Ints

T = TypeVar("T")
EP_SIZES = (4, 8, 16, 32, 64)
TRAFFIC = (
    ("mixtral-8x7b", "h100-sxm:4", 4),
    ("mixtral-8x7b", "h100-sxm:8", 8),
    ("mixtral-8x7b", "h100-sxm:4x2", 8),
    ("phi-3.5-moe", "h100-sxm:8", 8),
    ("deepseek-v2-lite", "h100-sxm:8", 8),
    ("qwen3-30b-a3b", "h100-sxm:8", 8),
    ("qwen3-235b-a22b", "h100-sxm:8x2", 16),
    ("deepseek-v3", "h100-sxm:8x4", 32),
)


def instances() -> Iterator[tuple[str, int, int, int]]:
    """(a model's name, experts, top-k, MoE layers), one for each shape in the catalog."""
    from apex_sim.experts_inputs import moe_layers
    from hardware_profiles.errors import UserError
    from workloads.catalog import load_model, model_names

    seen = set()
    for name in model_names():
        try:
            mlp, numbers, _ = moe_layers(load_model(name))
        except UserError:
            continue
        shape = (mlp.num_experts, mlp.experts_per_token, len(numbers))
        if shape not in seen:
            seen.add(shape)
            yield (name, *shape)


def demand(experts: int, top_k: int, layers: int, tokens: int) -> Demand:
    """What half of a generated trace asks for."""
    from simulator.experts.generate import AFFINITY, generate_routing
    from simulator.experts.routing import demand_of
    from simulator.experts.settings import default_skew

    skew = default_skew(experts)
    routing = generate_routing(
        num_experts=experts, num_layers=layers, top_k=top_k, tokens=tokens, skew=skew, affinity=AFFINITY, seed=1
    )
    return demand_of(routing.split(0.5)[0])


def timed(work: Callable[[], T]) -> tuple[T, float, float]:
    """(result, wall clock, CPU time) [s]."""
    wall, cpu = time.perf_counter(), time.process_time()
    result = work()
    return result, time.perf_counter() - wall, time.process_time() - cpu


def balance_table(tokens: int) -> None:
    """Balance of every shape at every size that divides."""
    from planners.experts.balance import busiest
    from planners.experts.search import balance_layers

    print("| Model | Experts x layers | GPUs | Busiest / mean | Gap | Wall s |\n|---|---|--:|--:|--:|--:|")
    for name, experts, top_k, layers in instances():
        job = demand(experts, top_k, layers, tokens)
        for ranks in (n for n in EP_SIZES if experts % n == 0 and n < experts):

            def place(job: Demand = job, ranks: int = ranks) -> tuple[Ints, Floats]:
                return balance_layers(job, ranks)

            (placed, bounds), wall, _ = timed(place)
            top = sum(busiest(load, row, ranks) for load, row in zip(job.loads, placed, strict=True))
            mean = job.loads.sum() / ranks
            print(
                f"| {name} | {experts} x {layers} | {ranks} | {top / mean:.4f} | {top / bounds.sum() - 1:.3%} | {wall:.2f} |",
                flush=True,
            )


def traffic_table(tokens: int) -> None:
    """Whole plans, against greedy plus local search."""
    from apex_sim.experts_inputs import moe_layers
    from hardware_profiles.cluster import parse_cluster
    from planners.experts.placement import figures_of
    from planners.experts.search import SearchSettings, plan_experts
    from planners.experts.topology import topology_of
    from planners.experts.traffic import sweep_experts
    from simulator.experts.placement import from_ranks, to_ranks
    from workloads.catalog import load_model

    print(
        "| Model | Cluster | Gap of balance | Traffic of linear: balance alone | greedy and swaps | plan | Gap | Wall s |"
    )
    print("|---|---|--:|--:|--:|--:|--:|--:|")
    for name, cluster, ranks in TRAFFIC:
        mlp, numbers, _ = moe_layers(load_model(name))
        job = demand(mlp.num_experts, mlp.experts_per_token, len(numbers), tokens)
        topology = topology_of(parse_cluster(cluster), ranks)
        plan, wall, _ = timed(lambda job=job, topology=topology: plan_experts(job, topology, SearchSettings()))  # type: ignore[misc]
        named = {c.name: c for c in plan.candidates}
        start = to_ranks(named["greedy balance"].placement)
        swaps = from_ranks(sweep_experts(job, start, topology, np.asarray(plan.limits), 6), ranks)
        linear = named["linear"].figures.traffic
        shares = (named["greedy balance"].figures.traffic, figures_of(job, swaps, topology).traffic)
        parts = " | ".join(f"{t / linear:.4f}" for t in (*shares, plan.chosen.figures.traffic))
        proven = " (proven)" if plan.traffic_proven else ""
        print(
            f"| {name} | {cluster} | {plan.balance_gap:.2%} | {parts} | {plan.traffic_gap:.2%}{proven} | {wall:.1f} |",
            flush=True,
        )


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--only", choices=("balance", "traffic"))
    args = parser.parse_args()
    if args.only != "traffic":
        balance_table(args.tokens)
    if args.only != "balance":
        traffic_table(args.tokens)


if __name__ == "__main__":
    main()
