"""How fast the event loop is: requests per second of CPU time, memory and linearity, on llama-3-8b on one H100.

    python benchmarks/engine_speed.py [--requests N]

CPU time of this process (time.process_time), so that other work on the machine disturbs less. Each size runs in a
process of its own, so that peak memory is that of the size.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time

INPUT_LEN = "lognormal(median=660, sigma=0.9)"
OUTPUT_LEN = "lognormal(median=180, sigma=0.8)"
LOAD = 0.6
"""Share of the saturation rate."""
SATURATION_REQUESTS = 5_000
COMPARED_REQUESTS = 20_000
COMPARED_LOADS = (0.1, LOAD)
"""Requests and loads of the comparison with --exact-steps."""


def saturation_rate_per_s() -> float:
    """Requests per second of a backlog that arrives all at once."""
    return measure(SATURATION_REQUESTS, 1e6, False)["request_throughput"]


def measure(num_requests: int, rate_per_s: float, exact_steps: bool) -> dict[str, float]:
    """Simulate once; figures of this process."""
    from apex_sim import api
    from simulator.simulate import simulate_deployment

    deployment = api.build_deployment("llama-3-8b", "h100-sxm:1", max_model_len=8192)
    trace = api.make_trace(
        rate=rate_per_s, input_len=INPUT_LEN, output_len=OUTPUT_LEN, num_requests=num_requests, seed=1
    )
    start_s = time.process_time()
    result = simulate_deployment(deployment, trace, exact_steps=exact_steps)
    loop_s = time.process_time() - start_s
    summary = result.summary
    report_s = time.process_time() - start_s - loop_s
    return {
        "requests": num_requests,
        "loop_s": loop_s,
        "summary_s": report_s,
        "requests_per_s": num_requests / loop_s,
        "engine_steps": summary["engine_steps"],
        "mixed_steps": sum(replica.counters.mixed_steps for replica in result.record.replicas),
        "peak_memory_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3,
        "request_throughput": summary["request_throughput"],
    }


def in_own_process(num_requests: int, rate_per_s: float, exact_steps: bool = False) -> dict[str, float]:
    """:func:`measure` in a fresh interpreter."""
    mode = ["--exact-steps"] if exact_steps else []
    command = [sys.executable, __file__, "--worker", "--requests", str(num_requests), "--rate", str(rate_per_s), *mode]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    figures: dict[str, float] = json.loads(output)
    return figures


def show(name: str, figures: dict[str, float]) -> None:
    """One line per run."""
    print(
        f"{name:12s} {figures['requests']:>10,.0f} requests  {figures['loop_s']:7.2f} s  "
        f"{figures['requests_per_s']:>8,.0f} requests/s  {figures['engine_steps']:>12,.0f} engine steps "
        f"({figures['mixed_steps']:,.0f} with prefill)  peak {figures['peak_memory_mb']:,.0f} MB  "
        f"summary {figures['summary_s']:.2f} s"
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2_000_000, help="largest size; a tenth of it is run as well")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--rate", type=float, help=argparse.SUPPRESS)
    parser.add_argument("--exact-steps", action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.worker:
        print(json.dumps(measure(args.requests, args.rate, args.exact_steps)))
        return
    saturation = saturation_rate_per_s()
    rate_per_s = LOAD * saturation
    print(f"saturation {saturation:.1f} requests/s; offered {rate_per_s:.1f} requests/s ({LOAD:.0%})")
    for load in COMPARED_LOADS:
        spans = in_own_process(COMPARED_REQUESTS, load * saturation)
        steps = in_own_process(COMPARED_REQUESTS, load * saturation, exact_steps=True)
        show(f"spans {load:.0%}", spans)
        show(f"steps {load:.0%}", steps)
        print(f"at {load:.0%} load spans are {steps['loop_s'] / spans['loop_s']:.1f} times as fast as single steps")
    small = in_own_process(args.requests // 10, rate_per_s)
    large = in_own_process(args.requests, rate_per_s)
    show("a tenth", small)
    show("all", large)
    print(f"time per request, all against a tenth: {small['requests_per_s'] / large['requests_per_s']:.2f}")


if __name__ == "__main__":
    main()
