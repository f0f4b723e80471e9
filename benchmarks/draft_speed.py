"""How fast the event loop is with drafts, and plans that search techniques, against plain ones: same process, in turn.

    python benchmarks/draft_speed.py [--requests N] [--plan]

CPU time of this process, best of three rounds (of plans one). llama-3.1-8b on an H100 at 18 requests/s; with drafts sequences
grow by 1 to 6 tokens per step, each by its own number. --plan: llama-3.1-70b on eight H100.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

DRAFT = {"method": "draft_model", "model": "llama-3.2-1b", "num_speculative_tokens": 5, "acceptance": 0.54}
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "n-grams, 3 tokens": {"speculative_config": {"method": "ngram", "num_speculative_tokens": 3, "acceptance": 0.4}},
    "draft model, 5 tokens": {"speculative_config": DRAFT},
    "rates by place": {"speculative_config": DRAFT | {"acceptance": [0.8, 0.7, 0.6, 0.5, 0.4]}},
}
SEARCHES: dict[str, tuple[str, ...]] = {
    "plan": (),
    "plan, quantization": ("quantization",),
    "plan, speculative": ("speculative",),
    "plan, both": ("quantization", "speculative"),
}
ROUNDS = 3
LENGTHS: dict[str, Any] = {
    "input_len": "lognormal(median=660, sigma=0.9)",
    "output_len": "lognormal(median=180, sigma=0.8)",
}


def loops(num_requests: int) -> None:
    """Print requests per second of each case."""
    from apex_sim import api
    from simulator.simulate import simulate_deployment

    best: dict[str, float] = {}
    trace = api.make_trace(rate=18.0, num_requests=num_requests, seed=1, **LENGTHS)
    for _ in range(ROUNDS):
        for name, settings in CASES.items():
            deployment = api.build_deployment("llama-3.1-8b", "h100-sxm:1", max_model_len=8192, **settings)
            _ = deployment.memory, deployment.step_model
            start_s = time.process_time()
            simulate_deployment(deployment, trace)
            best[name] = min(best.get(name, 1e9), time.process_time() - start_s)
    for name, seconds in best.items():
        print(f"{name:24s} {num_requests / seconds:8,.0f} requests/s  {best['plain'] / seconds:5.2f} of plain")


def plans() -> None:
    """Print seconds of each search."""
    from apex_sim import api

    seconds: dict[str, float] = {}
    for name, search in SEARCHES.items():
        start_s = time.process_time()
        result = api.plan(
            "llama-3.1-70b",
            "h100-sxm:8",
            slo="ttft=1s,tpot=50ms",
            search=search,
            rate=5.5,
            num_requests=1000,
            **LENGTHS,
        )
        seconds[name] = time.process_time() - start_s
        ratio = seconds[name] / seconds["plan"]
        print(f"{name:24s} {seconds[name]:6.1f} s  {ratio:5.1f} x plan  {len(result.entries):5,} candidates")


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=5000)
    parser.add_argument("--plan", action="store_true", help="time searches instead")
    args = parser.parse_args()
    plans() if args.plan else loops(args.requests)


if __name__ == "__main__":
    main()
