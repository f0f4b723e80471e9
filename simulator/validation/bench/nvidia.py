"""GenAI-Perf and AIPerf: ``profile_export_genai_perf.json``, ``profile_export_aiperf.json``, and AIPerf's records.

Their inter-token latency is (latency - TTFT) / (output tokens - 1) of a request, which others call TPOT; their inter-chunk
latency is what vLLM calls ITL.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from simulator.validation.bench.aiperf import broken_off, load_of, model_of
from simulator.validation.bench.result import LONGEST, BenchResult, Figure, figure, number, spread_of, whole
from workloads.trace import Trace

LATENCIES = {
    "time_to_first_token": "ttft",
    "inter_token_latency": "tpot",
    "inter_chunk_latency": "itl",
    "request_latency": "e2e",
}
RATES = {
    "request_throughput": "req_s",
    "output_token_throughput": "output_tok_s",
    "total_token_throughput": "total_tok_s",
}
FIELDS = {"mean": "avg", "p50": "p50", "p90": "p90", "p95": "p95", "p99": "p99"}
MILLISECONDS = {"ns": 1e-6, "us": 1e-3, "ms": 1.0, "s": 1e3, "sec": 1e3, "seconds": 1e3}


def read_nvidia(data: Mapping[str, Any], place: str) -> BenchResult:
    """The aggregate file of either tool."""
    found: list[Figure] = []
    for name, latency in LATENCIES.items():
        entry = _entry(data, name)
        scale = MILLISECONDS.get(str(entry.get("unit", "ms")).lower(), 1.0)
        for statistic, field in FIELDS.items():
            found += figure(f"{name} {field}", f"{latency}_{statistic}_ms", number(entry, field), scale)
    for name, metric in RATES.items():
        found += figure(f"{name} avg", metric, number(_entry(data, name), "avg"))
    config = data.get("input_config")
    load = load_of(config) or _load(config)
    return BenchResult(
        tool="aiperf" if "aiperf" in place.lower() or "aiperf_version" in data else "genai-perf",
        place=place,
        figures=tuple(found),
        model=model_of(config) or _model(config),
        num_requests=whole(_entry(data, "request_count"), "avg"),
        input_len=_lengths(_entry(data, "input_sequence_length")),
        output_len=_lengths(_entry(data, "output_sequence_length")),
        reached_rate_per_s=number(_entry(data, "request_throughput"), "avg"),
        notes=("lengths are drawn with the file's mean and standard deviation", *broken_off(data)),
        **load,
    )


def read_records(lines: Sequence[Mapping[str, Any]], place: str) -> BenchResult:
    """AIPerf's ``profile_export.jsonl``: a line per request, replayed at the times they began.

    Statistics are worked out here, with linear interpolation between ranks.
    """
    rows = [row for row in map(_record, lines) if row is not None]
    table = np.array(rows, dtype=np.float64).reshape(len(rows), 6)
    found: list[Figure] = []
    for column, latency in ((3, "ttft"), (4, "tpot"), (5, "e2e")):
        values = table[:, column]
        values = values[np.isfinite(values)]
        if len(values):
            found += figure(f"{latency} mean", f"{latency}_mean_ms", float(values.mean()))
            for statistic in ("p50", "p90", "p95", "p99"):
                value = float(np.percentile(values, float(statistic[1:])))
                found += figure(f"{latency} {statistic}", f"{latency}_{statistic}_ms", value)
    return BenchResult(
        tool="aiperf", place=place, figures=tuple(found), num_requests=len(rows) or None, requests=_trace(table, place)
    )


def _record(line: Mapping[str, Any]) -> tuple[float, ...] | None:
    """(begin [s], prompt tokens, output tokens, TTFT, TPOT, E2E [ms]) of a profiled request that was answered."""
    about, metrics = line.get("metadata"), line.get("metrics")
    if not isinstance(about, Mapping) or not isinstance(metrics, Mapping) or line.get("error"):
        return None
    begin, inputs = number(about, "request_start_ns"), _value(metrics, "input_sequence_length")
    outputs = _value(metrics, "output_sequence_length")
    if about.get("benchmark_phase", "profiling") != "profiling" or None in (begin, inputs, outputs):
        return None
    assert begin is not None and inputs is not None and outputs is not None
    latencies = [_value(metrics, name) for name in ("time_to_first_token", "inter_token_latency", "request_latency")]
    return (begin / 1e9, inputs, outputs, *(np.nan if value is None else value for value in latencies))


def _value(metrics: Mapping[str, Any], name: str) -> float | None:
    """A record's value; latencies in milliseconds."""
    entry = _entry(metrics, name)
    value = number(entry, "value")
    return None if value is None else value * MILLISECONDS.get(str(entry.get("unit", "")).lower(), 1.0)


def _trace(table: np.ndarray[Any, np.dtype[np.float64]], place: str) -> Trace | None:
    if not len(table) or not ((table[:, 1:3] >= 1) & (table[:, 1:3] <= LONGEST)).all():
        return None
    ordered = table[np.argsort(table[:, 0], kind="stable")]
    return Trace(
        arrival_s=ordered[:, 0] - ordered[0, 0],
        input_tokens=ordered[:, 1].astype(np.int64),
        output_tokens=ordered[:, 2].astype(np.int64),
        name=place,
    )


def _entry(data: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    entry = data.get(name)
    return entry if isinstance(entry, Mapping) else {}


def _lengths(entry: Mapping[str, Any]) -> Any:
    return spread_of(number(entry, "avg"), number(entry, "std"), number(entry, "min"), number(entry, "max"))


def _settings(config: object, name: str) -> Iterator[Any]:
    """Values of a setting, wherever in the configuration it stands (its place differs between versions)."""
    if isinstance(config, Mapping):
        if name in config:
            yield config[name]
        for value in config.values():
            yield from _settings(value, name)
    elif isinstance(config, list):
        for value in config:
            yield from _settings(value, name)


def _setting(config: object, name: str) -> float | None:
    for value in _settings(config, name):
        found = number({name: value}, name)
        if found is not None and found > 0:
            return found
    return None


def _load(config: object) -> dict[str, Any]:
    """How requests were sent, in configurations without phases (GenAI-Perf, AIPerf before them)."""
    rate, places = _setting(config, "request_rate"), _setting(config, "concurrency")
    if rate is None and places is None:
        return {"unknown": "it has neither request_rate nor concurrency"}
    return {
        "rate_per_s": rate,
        "concurrency": None if places is None else int(places),
        "arrival": _arrival(config),
    }


def _arrival(config: object) -> str:
    for name in ("request_rate_mode", "arrival_pattern"):
        for value in _settings(config, name):
            if isinstance(value, str) and "constant" in value.lower():
                return "constant"
    return "poisson"


def _model(config: object) -> str | None:
    for name in ("model_names", "model"):
        for value in _settings(config, name):
            first = value[0] if isinstance(value, list) and value else value
            if isinstance(first, str):
                return first
    return None
