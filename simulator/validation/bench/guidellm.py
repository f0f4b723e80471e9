"""GuideLLM's ``benchmarks.json``.

Its TPOT is latency / output tokens, first one included, its ITL (last - first token) / (output tokens - 1) per request;
both are weighted by tokens (ITL: by gaps), so that its mean ITL is what vLLM calls mean ITL.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from simulator.validation.bench.result import BenchResult, Figure, figure, number, spread_of, whole

LATENCIES: Mapping[str, tuple[str, float]] = {
    "time_to_first_token_ms": ("ttft", 1.0),
    "time_per_output_token_ms": ("e2e_per_token", 1.0),
    "inter_token_latency_ms": ("tpot_by_gap", 1.0),
    "request_latency": ("e2e", 1e3),
}
"""Its metric -> ours, and what makes milliseconds of it."""
RATES = {"requests_per_second": "req_s", "output_tokens_per_second": "output_tok_s", "tokens_per_second": "total_tok_s"}


def read_guidellm(benchmark: Mapping[str, Any], place: str) -> BenchResult:
    """One entry of ``benchmarks``."""
    metrics = benchmark.get("metrics")
    metrics = metrics if isinstance(metrics, Mapping) else {}
    found: list[Figure] = []
    for name, (latency, scale) in LATENCIES.items():
        entry = _successful(metrics, name)
        found += figure(f"{name} mean", f"{latency}_mean_ms", number(entry, "mean"), scale)
        shares = entry.get("percentiles")
        for statistic in ("p50", "p90", "p95", "p99"):
            value = number(shares, statistic) if isinstance(shares, Mapping) else None
            found += figure(f"{name} {statistic}", f"{latency}_{statistic}_ms", value, scale)
    for name, metric in RATES.items():
        found += figure(f"{name} mean", metric, number(_successful(metrics, name), "mean"))
    prompts, outputs = _successful(metrics, "prompt_token_count"), _successful(metrics, "output_token_count")
    config = benchmark.get("config") or benchmark.get("args")
    totals = metrics.get("request_totals")
    return BenchResult(
        tool="guidellm",
        place=place,
        figures=tuple(found),
        num_requests=whole(prompts, "count")
        or whole(_successful(metrics, "request_latency"), "count")
        or (whole(totals, "successful") if isinstance(totals, Mapping) else None),
        input_len=_lengths(prompts),
        output_len=_lengths(outputs),
        model=_model(config),
        reached_rate_per_s=number(_successful(metrics, "requests_per_second"), "mean"),
        notes=("lengths are drawn with the file's mean and standard deviation",),
        **_strategy(config),
    )


def _successful(metrics: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    entry = metrics.get(name)
    inner = entry.get("successful") if isinstance(entry, Mapping) else None
    return inner if isinstance(inner, Mapping) else {}


def _lengths(entry: Mapping[str, Any]) -> Any:
    return spread_of(number(entry, "mean"), number(entry, "std_dev"), number(entry, "min"), number(entry, "max"))


def _strategy(config: object) -> dict[str, Any]:
    """rate_per_s, concurrency and arrival, or why they are unknown."""
    strategy = config.get("strategy") if isinstance(config, Mapping) else None
    if not isinstance(strategy, Mapping):
        return {"unknown": "it has no strategy"}
    kind, rate = str(strategy.get("type_")), number(strategy, "rate")
    if kind == "synchronous":
        return {"concurrency": 1}
    if kind in ("concurrent", "throughput"):
        return {"concurrency": whole(strategy, "streams", "max_concurrency")}
    if rate is None:
        return {"unknown": f"its strategy is {kind}"}
    return {
        "rate_per_s": rate,
        "concurrency": whole(strategy, "max_concurrency"),
        "arrival": "constant" if "constant" in kind else "poisson",
    }


def _model(config: object) -> str | None:
    backend = config.get("backend") if isinstance(config, Mapping) else None
    model = backend.get("model") if isinstance(backend, Mapping) else None
    return model if isinstance(model, str) and model else None
