"""The workload of a run: a trace, a file, or one generated from a rate and lengths; checked under the names users give."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Unpack

import numpy as np

from hardware_profiles.errors import UserError
from simulator.setting_checks import check_number, flag
from workloads.spec import prompts_in_common
from workloads.synthetic import generate as generate_trace
from workloads.token_changes import TokenChanges, TokenSettings, change_tokens
from workloads.trace import Trace

DEFAULT_NUM_REQUESTS = 1000
SAMPLE_WORKLOAD = "chat_small"
"""Bundled workload that is used when none is given."""
HORIZON_S = 1e9
"""Longest simulated time [s]: 30 years."""


class WorkloadSettings(TokenSettings, total=False):
    """Keywords that describe a workload; see :func:`make_trace`."""

    trace: Trace | str | Path | None
    trace_format: str | None
    trace_sort: bool
    spread_ties: bool
    rate_scale: float
    rate: float | None
    input_len: str | int | None
    output_len: str | int | None
    num_requests: int | None
    arrival: str | None
    prefix: str | Mapping[str, Any] | None
    prompts: str | Mapping[str, Any] | None
    sessions: str | Mapping[str, Any] | None


def load_trace(path: str | Path, **options: Any) -> Trace:
    """Read a trace file, a workload YAML or a bundled sample; ``options`` as workloads.options.ReadOptions, and format."""
    from workloads.spec import open_workload

    return open_workload(path, **options)


def arrivals(rate: float | None, arrival: str | None) -> tuple[float | None, str | None]:
    """Rate and arrival process; an infinite rate without one is how benchmark tools say that all requests come at once."""
    return (None, "at-once") if rate == math.inf and arrival is None else (rate, arrival)


def all_at_once(trace: object, rate: float | None, arrival: str | None) -> bool:
    """An infinite rate for a workload that has its own arrivals, which no process replaces: a Trace, or a workload YAML."""
    described = isinstance(trace, Trace) or (isinstance(trace, str | Path) and Path(trace).suffix in (".yaml", ".yml"))
    return rate == math.inf and arrival is None and described


def at_once(trace: Trace) -> Trace:
    """The same requests, all at time 0; later turns of a session still wait for those before."""
    if trace.concurrency is not None:
        raise UserError(
            f"{trace.name}: a closed loop of {trace.concurrency} has no rate; --rate inf means nothing there"
        )
    return replace(trace, arrival_s=np.zeros(len(trace)), source=f"{trace.source}; all at once")


def make_trace(
    *,
    trace: Trace | str | Path | None = None,
    trace_format: str | None = None,
    trace_sort: bool = False,
    spread_ties: bool = False,
    rate_scale: float = 1.0,
    rate: float | None = None,
    input_len: str | int | None = None,
    output_len: str | int | None = None,
    num_requests: int | None = None,
    arrival: str | None = None,
    prefix: str | Mapping[str, Any] | None = None,
    prompts: str | Mapping[str, Any] | None = None,
    sessions: str | Mapping[str, Any] | None = None,
    seed: int = 0,
    **tokens: Unpack[TokenSettings],
) -> Trace:
    """The workload: a trace (object, file or YAML), or a synthetic one from rate [1/s], arrival process and lengths.

    ``rate`` with a trace rescales its time to that mean rate; with an infinite one all requests arrive at once. Without
    trace and lengths, the bundled sample is used. ``prefix``, ``prompts`` and ``sessions`` say what the prompts of a
    synthetic one have in common, as text (``groups=8,tokens=512``) or mapping (docs/workloads.md).
    ``tokens`` changes token counts at the end (workloads.token_changes): scale_input, scale_output, extra_input ...
    """
    changes = TokenChanges(**tokens, seed=seed)
    once = all_at_once(trace, rate, arrival)
    rate, arrival = (None, None) if once else arrivals(rate, arrival)
    common = {"prefix": prefix, "prompts": prompts, "sessions": sessions}
    if trace_format is not None and not isinstance(trace_format, str):
        raise UserError(f"--trace-format is {trace_format!r}; it must be text")
    check_workload(
        trace,
        rate=rate,
        rate_scale=rate_scale,
        input_len=input_len,
        output_len=output_len,
        num_requests=num_requests,
        arrival=arrival,
        seed=seed,
        **common,
    )
    if trace is None and input_len is None and output_len is None:
        trace = SAMPLE_WORKLOAD
    if trace is None:
        if input_len is None or output_len is None:
            given, lacking = ("--output-len", "--input-len") if input_len is None else ("--input-len", "--output-len")
            raise UserError(
                f"{given} is given without {lacking}: a synthetic workload needs both (tokens, or a distribution such as "
                "'lognormal(median=660,sigma=0.9)'); without both, the bundled sample or --trace is played"
            )
        generated = generate_trace(
            input_len=input_len,
            output_len=output_len,
            num_requests=DEFAULT_NUM_REQUESTS if num_requests is None else num_requests,
            rate_per_s=rate,
            arrival=arrival or "poisson",
            seed=seed,
            **prompts_in_common(common),
        )
        return change_tokens(_within_horizon(_rescaled(generated, rate_scale)), changes)
    if isinstance(trace, Trace):
        replayed = trace
    else:
        options: dict[str, Any] = {"format": trace_format} if trace_format else {}
        options |= {name: True for name, on in (("sort", trace_sort), ("spread_ties", spread_ties)) if on}
        if arrival is not None:
            options |= {"arrival": arrival, "rate_per_s": rate, "seed": seed}
        replayed = load_trace(trace, **options)
    if num_requests is not None:
        if num_requests > len(replayed):
            warnings.warn(
                f"{replayed.name} has {len(replayed):,} requests, not {num_requests:,}: all are sent", stacklevel=2
            )
        replayed = replayed.head(num_requests)
    if once:
        replayed = at_once(replayed)
    if rate is not None and arrival is None:
        replayed = _at_rate(replayed, rate)
    return change_tokens(_within_horizon(_rescaled(replayed, rate_scale)), changes)


def check_workload(
    trace: object,
    *,
    rate: float | None = None,
    rate_scale: float = 1.0,
    input_len: object = None,
    output_len: object = None,
    num_requests: int | None = None,
    arrival: str | None = None,
    seed: int = 0,
    **common: object,
) -> None:
    """Values of the wrong kind or sign, and settings that exclude each other, under the names the user gave them."""
    if trace is not None and not isinstance(trace, Trace | str | Path):
        raise UserError(
            f"--trace is {trace!r}; give a Trace, the path of a file, or a bundled sample such as chat_small"
        )
    check_number("seed", seed, int, 0)
    if num_requests is not None:
        check_number("num_requests", num_requests, int, 1, 1e8)
    for name, value in (("rate", rate), ("rate_scale", rate_scale)):
        if value is not None:
            check_number(name, value, float, 1 / HORIZON_S)
    for name, length in (("input_len", input_len), ("output_len", output_len)):
        if length is None:
            continue
        if trace is not None:
            raise UserError(f"{flag(name)} describes a synthetic workload; it cannot be combined with a trace")
        if _constant(length) < 1:
            raise UserError(f"{flag(name)} is {length}; a request has at least 1 token")
    for name, given in common.items():
        if given is not None and input_len is None and output_len is None:
            raise UserError(
                f"{flag(name)} describes a synthetic workload; give --input-len and --output-len, without a trace"
            )
    if arrival is not None and isinstance(trace, Trace):
        raise UserError("--arrival describes a synthetic workload; it cannot be combined with a trace")


def _constant(length: object) -> float:
    """The number that a length is, infinite when it is a distribution."""
    try:
        return float(str(length))
    except ValueError:
        return math.inf


def _at_rate(trace: Trace, rate: float) -> Trace:
    """The trace played so that its mean rate is ``rate`` [1/s]."""
    if trace.concurrency is None and trace.duration_s == 0:
        raise UserError(
            f"{trace.name}: all requests arrive at the same instant, so --rate has nothing to scale; give --arrival poisson"
        )
    return trace.scale_rate(rate / trace.request_rate_per_s)


def _within_horizon(trace: Trace) -> Trace:
    last_s = float(trace.arrival_s[-1])
    if last_s > HORIZON_S:
        raise UserError(
            f"{trace.name}: the last request arrives after {last_s:.3g} s; the longest simulated time is {HORIZON_S:.0e} s "
            "(30 years). Raise --rate or send fewer requests"
        )
    return trace


def _rescaled(trace: Trace, factor: float) -> Trace:
    if factor == 1.0:
        return trace
    return trace.scale_rate(factor)
