"""InferenceX (formerly InferenceMAX) ``agg_*.json``: closed loops of the vLLM client, figures in seconds and per device."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardware_profiles.errors import UserError
from simulator.validation.bench.result import BenchResult, Figure, engine_in, figure, number, whole

PREFIXES = {"mean": "mean", "p50": "median", "p90": "p90", "p95": "p95", "p99": "p99"}
LATENCIES = {"ttft": "ttft", "tpot": "tpot", "itl": "itl", "e2e": "e2el"}
REQUESTS_PER_PLACE = 10
"""Its launch scripts send ten prompts per place of the loop."""
SHORTEST = 0.8
"""Its clients draw lengths from this share of ISL and OSL up to the whole (from memory: RANDOM_RANGE_RATIO)."""


def read_inferencex(data: Mapping[str, Any], place: str) -> BenchResult:
    """One object; two pools (``disagg``, ``is_multinode``) are refused, since its layout names them alone."""
    if data.get("disagg") is True or data.get("is_multinode") is True:
        raise UserError(
            f"{place}: is of two pools or several nodes, which this comparison does not build; choose another file"
        )
    tp, pp = whole(data, "tp") or 1, whole(data, "pp") or 1
    found: list[Figure] = []
    for latency, word in LATENCIES.items():
        for statistic, prefix in PREFIXES.items():
            name = f"{prefix}_{word}"
            found += figure(name, f"{latency}_{statistic}_ms", number(data, name), 1e3)
    found += figure("output_tput_per_gpu", "output_tok_s_per_gpu", number(data, "output_tput_per_gpu"))
    found += figure("tput_per_gpu", "total_tok_s", number(data, "tput_per_gpu"), float(tp * pp))
    places, isl, osl = whole(data, "conc"), whole(data, "isl"), whole(data, "osl")
    model = data.get("model")
    return BenchResult(
        tool="inferencex",
        place=place,
        figures=tuple(found),
        model=model if isinstance(model, str) else None,
        engine=engine_in(data.get("framework")),
        num_requests=None if places is None else REQUESTS_PER_PLACE * places,
        input_len=_range(isl),
        output_len=_range(osl),
        concurrency=places,
        layout={"tp": tp, "pp": pp},
        notes=(
            f"{REQUESTS_PER_PLACE} requests per place, lengths from {SHORTEST:.0%} of isl and osl up, as its clients do",
        ),
    )


def _range(longest: int | None) -> str | None:
    return None if longest is None else f"uniform({max(1, round(SHORTEST * longest))},{longest})"
