"""The benchmark that would verify a plan, and what the simulator expects of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from planners.pools import AnyDeployment, simulate_any
from workloads.slo import Slo
from workloads.synthetic import generate
from workloads.trace import Trace

REQUESTS = 1000
"""Most requests of the benchmark."""
SINCE = "0.8.5"
"""vLLM whose benchmark sends lengths that are all equal: with --random-range-ratio 0 (before, 0 spread them widest)."""
LEAST = 50
"""Fewest, so that a p95 means something."""
EXPECTED = (
    "request_throughput",
    "output_throughput",
    "total_token_throughput",
    *(f"{stat}_{name}_ms" for name in ("ttft", "tpot", "itl", "e2el") for stat in ("mean", "median", "p95", "p99")),
    "mean_ttft_ms_low",
    "mean_ttft_ms_high",
    "mean_tpot_ms_low",
    "mean_tpot_ms_high",
    "request_goodput",
)
"""Fields of the summary to compare, under the names of vllm bench serve."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Benchmark:
    """Requests of one length at the plan's rate, or clients of a closed loop: what ``vllm bench serve`` can send."""

    model: str
    input_tokens: int
    output_tokens: int
    rate_per_s: float | None
    """None: all at once, or a closed loop."""
    concurrency: int | None
    num_requests: int
    seed: int
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    e2el_ms: float | None = None
    target: str = ""
    """Role of the servers that it goes to; empty: the one address of all."""

    @property
    def file(self) -> str:
        """Name of its script."""
        return f"bench-{self.target}.sh" if self.target else "bench.sh"

    @property
    def command(self) -> tuple[str, ...]:
        """Words of the command; ``$URL`` is the server's address."""
        rate = "inf" if self.rate_per_s is None else f"{self.rate_per_s:.6g}"
        limits = {"ttft": self.ttft_ms, "tpot": self.tpot_ms, "e2el": self.e2el_ms}
        goodput = [f"{name}:{value:g}" for name, value in limits.items() if value is not None]
        words = ["vllm", "bench", "serve", "--base-url", "$URL", "--model", self.model, "--dataset-name", "random"]
        words += ["--random-input-len", str(self.input_tokens), "--random-output-len", str(self.output_tokens)]
        words += ["--random-range-ratio", "0", "--request-rate", rate]
        words += ["--max-concurrency", str(self.concurrency)] if self.concurrency is not None else []
        words += ["--num-prompts", str(self.num_requests), "--seed", str(self.seed), "--ignore-eos"]
        words += ["--percentile-metrics", "ttft,tpot,itl,e2el", "--metric-percentiles", "50,95,99"]
        words += ["--goodput", *goodput] if goodput else []
        return (*words, "--save-result", "--result-filename", f"measured{'-' * bool(self.target)}{self.target}.json")


def benchmark_of(model: str, trace: Trace, slo: Slo | None, seed: int, target: str = "") -> Benchmark:
    """Mean lengths and rate of a workload."""
    limits = (None, None, None) if slo is None else (slo.ttft_s, slo.tpot_s, slo.e2e_s)
    ttft, tpot, e2e = (None if limit is None else limit * 1e3 for limit in limits)
    paced = trace.concurrency is None and trace.duration_s > 0
    return Benchmark(
        model=model,
        input_tokens=max(1, round(float(trace.input_tokens.mean()))),
        output_tokens=max(1, round(float(trace.output_tokens.mean()))),
        rate_per_s=float(f"{trace.request_rate_per_s:.6g}") if paced else None,
        concurrency=trace.concurrency,
        num_requests=min(max(len(trace), LEAST), REQUESTS),
        seed=max(0, seed),
        ttft_ms=ttft,
        tpot_ms=tpot,
        e2el_ms=e2e,
        target=target,
    )


def trace_of(benchmark: Benchmark) -> Trace:
    """What the command sends: lengths all equal, arrivals Poisson (its --burstiness is 1), prompts without shared prefixes."""
    closed = benchmark.concurrency
    return generate(
        input_len=benchmark.input_tokens,
        output_len=benchmark.output_tokens,
        num_requests=benchmark.num_requests,
        rate_per_s=benchmark.rate_per_s,
        arrival="poisson"
        if benchmark.rate_per_s is not None
        else f"closed(concurrency={closed})"
        if closed is not None
        else "at-once",
        seed=benchmark.seed,
    )


def expected_of(benchmark: Benchmark, deployment: AnyDeployment, slo: Slo | None) -> dict[str, Any]:
    """The simulator's figures for the benchmark."""
    summary = simulate_any(deployment, trace_of(benchmark), slo, benchmark.seed).summary
    return {name: summary[name] for name in EXPECTED if name in summary}


def from_dict(data: Mapping[str, Any]) -> Benchmark:
    """The benchmark from plain values."""
    return Benchmark(**data)
