"""Reading a benchmark's file: which tool wrote it, and every result in it."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from hardware_profiles.errors import UserError
from simulator.validation.bench.guidellm import read_guidellm
from simulator.validation.bench.inferencex import read_inferencex
from simulator.validation.bench.nvidia import read_nvidia, read_records
from simulator.validation.bench.result import BenchResult
from simulator.validation.bench.vllm import read_sglang, read_vllm
from simulator.validation.bench.vllm_log import is_log, read_vllm_log

KNOWN = "vllm bench serve, sglang bench_serving, GenAI-Perf, AIPerf, GuideLLM and InferenceX"
SGLANG_ONLY = ("mean_e2e_latency_ms", "total_output_tokens_retokenized", "server_info")


def read_bench(path: str | Path) -> list[BenchResult]:
    """All results of a file: one JSON value, one per line, or the log of a vLLM server. UserError names file and remedy."""
    path = Path(path)
    if path.name.endswith(".pytorch.json"):
        raise UserError(f"{path}: is the twin for PyTorch's dashboard; give the file without .pytorch in its name")
    text = _text(path)
    if is_log(text):
        return read_vllm_log(text, path.name)
    values = _values(path, text)
    if all(isinstance(v, Mapping) and {"metadata", "metrics"} <= v.keys() for v in values):
        return [read_records(values, path.name)]
    results = []
    for index, value in enumerate(values):
        place = path.name if len(values) == 1 else f"{path.name}:{index + 1}"
        results += _results(value, place)
    return results


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: is not UTF-8 text; give a JSON file of {KNOWN}") from None


def _values(path: Path, text: str) -> list[Any]:
    decoder, values, at = json.JSONDecoder(), [], 0
    while at < len(text):
        if text[at].isspace() or text[at] == "\ufeff":
            at += 1
            continue
        try:
            value, at = decoder.raw_decode(text, at)
        except (json.JSONDecodeError, RecursionError) as error:
            line = text.count("\n", 0, at) + 1
            raise UserError(
                f"{path}: is no JSON from line {line} on ({str(error).partition(':')[0]}); give a whole file"
            ) from None
        values += value if isinstance(value, list) else [value]
    if not values:
        raise UserError(f"{path}: is empty; give a JSON file of {KNOWN}")
    return values


def _results(value: object, place: str) -> list[BenchResult]:
    if not isinstance(value, Mapping):
        raise UserError(f"{place}: is no result of a benchmark; known are {KNOWN}")
    benchmarks = value.get("benchmarks")
    if isinstance(benchmarks, list) and benchmarks and all(isinstance(b, Mapping) for b in benchmarks):
        several = len(benchmarks) > 1
        return [read_guidellm(b, f"{place}#{i + 1}" if several else place) for i, b in enumerate(benchmarks)]
    if isinstance(value.get("time_to_first_token") or value.get("request_latency"), Mapping):
        return [read_nvidia(value, place)]
    if "isl" in value and "osl" in value and "conc" in value:
        return [read_inferencex(value, place)]
    if any(name in value for name in SGLANG_ONLY):
        return [read_sglang(value, place)]
    if "request_throughput" in value and any(name.endswith("_ttft_ms") for name in value):
        return [read_vllm(value, place)]
    raise UserError(f"{place}: no known tool wrote this; known are {KNOWN}")
