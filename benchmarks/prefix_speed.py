"""How fast the event loop is with prefix caching and KV tiers, against the same requests without: same process, in turn.

    python benchmarks/prefix_speed.py [--requests N] [--piece TOKENS]

CPU time of this process, best of three rounds. Every request has one of 64 prefixes of up to 512 tokens and text of its own,
all of it with identities, in pieces of 512 tokens (as in Mooncake's traces) or as --piece says; llama-3-8b on H100s, memory
full of cached prefixes most of the time.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

CASES: dict[str, dict[str, Any]] = {
    "plain": {"enable_prefix_caching": False},
    "prefix cache": {},
    "tiers": {"kv_offloading_size": 40.0, "kv_offloading_disk": 400.0},
    "tiers, lfu": {"kv_offloading_size": 40.0, "kv_offloading_disk": 400.0, "kv_eviction": "lfu"},
    "two replicas, tiers, kv-aware": {"kv_offloading_size": 40.0, "dp": 2, "routing": "kv-aware"},
    "two replicas, prefix-affinity": {"dp": 2, "routing": "prefix-affinity"},
    "two replicas, jsq-tokens": {"enable_prefix_caching": False, "dp": 2, "routing": "jsq-tokens"},
    "two replicas, plain": {"enable_prefix_caching": False, "dp": 2},
}
ROUNDS = 3


def workload(num_requests: int, rate_per_s: float) -> Any:
    """Lengths and arrivals, without identities."""
    from apex_sim import api

    return api.make_trace(
        rate=rate_per_s,
        input_len="lognormal(median=660, sigma=0.9)",
        output_len="lognormal(median=180, sigma=0.8)",
        num_requests=num_requests,
        seed=1,
    )


def with_prefixes(trace: Any, piece: int) -> Any:
    """The same requests, each of one of 64 groups whose prefix makes up to 512 tokens of its prompt; ids for the rest too."""
    import dataclasses

    import numpy as np

    rng = np.random.default_rng(2)
    pieces = -(-(trace.input_tokens + trace.output_tokens - 1) // piece)
    offsets = np.concatenate(([0], np.cumsum(pieces)))
    position = np.arange(offsets[-1]) - np.repeat(offsets[:-1], pieces)
    group = np.repeat(rng.integers(64, size=len(trace)), pieces)
    ids = np.where(position < 512 // piece, group * 512 + position, 10**6 + np.arange(offsets[-1]))
    return dataclasses.replace(trace, prefix_ids=ids, prefix_offsets=offsets, prefix_block_tokens=piece)


def main() -> None:
    """Print the table."""
    from apex_sim import api
    from simulator.simulate import simulate_deployment

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--rate", type=float, default=18.0, help="requests per second of one replica")
    parser.add_argument("--piece", type=int, default=512, help="tokens of a prefix identity, at most 512")
    args = parser.parse_args()
    best: dict[str, float] = {}
    hits: dict[str, float] = {}
    for _ in range(ROUNDS):
        for name, settings in CASES.items():
            cluster = f"h100-sxm:{settings.get('dp', 1)}"
            deployment = api.build_deployment("llama-3-8b", cluster, max_model_len=8192, **settings)
            _ = deployment.memory, deployment.step_model
            trace = with_prefixes(workload(args.requests, args.rate * settings.get("dp", 1)), args.piece)
            start_s = time.process_time()
            result = simulate_deployment(deployment, trace)
            best[name] = min(best.get(name, 1e9), time.process_time() - start_s)
            hits[name] = result.summary["prefix_hit_rate"]
    for name, seconds in best.items():
        base = best["two replicas, plain" if name.startswith("two") else "plain"]
        print(
            f"{name:30s} {args.requests / seconds:8,.0f} requests/s  {base / seconds:5.2f} of plain  "
            f"prefix hits {hits[name]:.1%}"
        )


if __name__ == "__main__":
    main()
