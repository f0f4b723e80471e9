"""``vllm bench serve --save-result`` and SGLang's ``bench_serving``, which began as one script.

Both mean by TPOT (latency - TTFT) / (output tokens - 1) of every request, those of one token left out, and by ITL the gaps
between chunks of all requests together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from simulator.validation.bench.result import LONGEST, BenchResult, Figure, engine_in, figure, number, spread_of, whole
from simulator.validation.run import Lengths
from workloads.trace import Trace

PREFIXES = {"mean": "mean", "p50": "median", "p90": "p90", "p95": "p95", "p99": "p99"}
VLLM = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2e": "e2el"}
SGLANG = {**VLLM, "e2e": "e2e_latency"}
"""Our latency -> the tool's."""
RATES = {
    "request_throughput": "req_s",
    "output_throughput": "output_tok_s",
    "total_token_throughput": "total_tok_s",
    "total_throughput": "total_tok_s",
    "input_throughput": "input_tok_s",
}
MEAN_ONLY = (
    "the file has mean lengths only, so all requests are alike; percentiles need --save-detailed, or --input-len DIST"
)


DRAWN = "the file has lengths but no times of requests, so lengths are drawn from it"


def read_vllm(data: Mapping[str, Any], place: str) -> BenchResult:
    """One object of ``vllm bench serve`` (also of InferenceX's fork of its client)."""
    return _result(data, place, "vllm bench serve", VLLM)


def read_sglang(data: Mapping[str, Any], place: str) -> BenchResult:
    """One line of SGLang's ``bench_serving``."""
    return _result(data, place, "sglang bench_serving", SGLANG)


def _result(data: Mapping[str, Any], place: str, tool: str, names: Mapping[str, str]) -> BenchResult:
    done = whole(data, "completed")
    requests, lengths = _requests(data, place), _lengths(data)
    model = data.get("model_id") or data.get("model")
    return BenchResult(
        tool=tool,
        place=place,
        figures=_figures(data, names),
        model=model if isinstance(model, str) else None,
        engine=None if engine_in(data.get("backend")) == "vllm" else engine_in(data.get("backend")),
        num_requests=done or whole(data, "num_prompts"),
        requests=requests,
        input_len=lengths[0] if lengths else _mean(data, "total_input_tokens", done),
        output_len=lengths[1] if lengths else _mean(data, "total_output_tokens", done),
        rate_per_s=_rate(data.get("request_rate")),
        reached_rate_per_s=number(data, "request_throughput"),
        arrival=_arrival(number(data, "burstiness")),
        concurrency=whole(data, "max_concurrency"),
        unknown="it replays the times of a trace; --output-details would have them"
        if data.get("request_rate") == "trace" and requests is None
        else None,
        notes=() if requests is not None else (DRAWN,) if lengths else (MEAN_ONLY,),
    )


def _figures(data: Mapping[str, Any], names: Mapping[str, str]) -> tuple[Figure, ...]:
    found: list[Figure] = []
    for latency, word in names.items():
        for statistic, prefix in PREFIXES.items():
            name = f"{prefix}_{word}_ms"
            found += figure(name, f"{latency}_{statistic}_ms", number(data, name))
    for name, metric in RATES.items():
        found += figure(name, metric, number(data, name))
    return tuple(found)


def _lengths(data: Mapping[str, Any]) -> tuple[Lengths, Lengths] | None:
    """Prompt and output tokens of the requests that were answered, to draw from."""
    inputs, outputs = _array(data.get("input_lens")), _array(data.get("output_lens"))
    if inputs is None or outputs is None or len(inputs) != len(outputs):
        return None
    answered = (inputs >= 1) & (outputs >= 1)
    if not answered.any():
        return None
    return tuple(inputs[answered].astype(int).tolist()), tuple(outputs[answered].astype(int).tolist())


def _mean(data: Mapping[str, Any], total: str, done: int | None) -> Any:
    value = number(data, total)
    return None if value is None or not done else spread_of(value / done, None)


def _rate(value: object) -> float | None:
    """Requests per second; "inf" (text) and "trace" are no rate."""
    try:
        rate = float(str(value))
    except ValueError:
        return None
    return rate if 0 < rate < math.inf else None


def _arrival(burstiness: float | None) -> str:
    """Gaps are exponential and scaled to the run's length; gamma with this shape otherwise."""
    if burstiness is None or burstiness <= 0 or burstiness == 1.0:
        return "scaled-poisson"
    return f"gamma(cv={burstiness**-0.5:.10g})"


def _requests(data: Mapping[str, Any], place: str) -> Trace | None:
    """Every request that was answered, where the file has them (--save-detailed, --output-details)."""
    inputs, outputs = _array(data.get("input_lens")), _array(data.get("output_lens"))
    if inputs is None or outputs is None or len(inputs) != len(outputs) or not len(inputs):
        return None
    answered = (inputs >= 1) & (outputs >= 1)
    starts = _array(data.get("start_times"))
    known = starts is not None and len(starts) == len(inputs)
    unbounded = _rate(data.get("request_rate")) is None and data.get("request_rate") != "trace"
    limited = whole(data, "max_concurrency") is not None or unbounded
    if not answered.any() or not (known or limited):
        return None
    arrivals = (
        starts[answered] - starts[answered].min() if known and starts is not None else np.zeros(int(answered.sum()))
    )
    order = np.argsort(arrivals, kind="stable")
    return Trace(
        arrival_s=arrivals[order],
        input_tokens=inputs[answered][order].astype(np.int64),
        output_tokens=outputs[answered][order].astype(np.int64),
        name=place,
    )


def _array(value: object) -> np.ndarray[Any, np.dtype[np.float64]] | None:
    try:
        array = np.asarray(value, dtype=np.float64) if isinstance(value, list) else None
    except (TypeError, ValueError):
        return None
    sound = array is not None and array.ndim == 1 and (np.abs(array) < 10 * LONGEST).all()
    return array if sound else None
