"""Lists of models and loads that one command serves: a few minutes on the device they are named after."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from workloads.synthetic import generate
from workloads.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests of one run: open loop at ``rate_per_s``, or a closed loop of ``concurrency``."""

    num_requests: int
    input_len: str
    output_len: str
    rate_per_s: float | None = None
    concurrency: int | None = None

    @property
    def name(self) -> str:
        """Short text for tables."""
        return f"{self.rate_per_s:g} req/s" if self.rate_per_s is not None else f"{self.concurrency} at once"

    def trace(self, seed: int) -> Trace:
        """The requests; another seed gives other arrivals and lengths."""
        arrival = "poisson" if self.concurrency is None else f"closed(concurrency={self.concurrency})"
        return generate(
            input_len=self.input_len,
            output_len=self.output_len,
            num_requests=self.num_requests,
            rate_per_s=self.rate_per_s,
            arrival=arrival,
            seed=seed,
            name=self.name,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One model under several loads; the engine's constants are fitted once for it, on other requests."""

    model: str
    dtype: str
    loads: tuple[Load, ...]
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int


def _loads(input_len: str, output_len: str, *rates: tuple[float, int]) -> tuple[Load, ...]:
    return tuple(Load(num_requests=n, input_len=input_len, output_len=output_len, rate_per_s=rate) for rate, n in rates)


_CHAT = ("lognormal(median=400,sigma=0.7)", "lognormal(median=120,sigma=0.6)")
_SHORT = ("lognormal(median=96,sigma=0.6)", "lognormal(median=40,sigma=0.5)")
SUITES: Mapping[str, tuple[Case, ...]] = {
    "tiny": (
        Case(
            model="tiny",
            dtype="float32",
            loads=_loads("uniform(8,64)", "uniform(4,12)", (20.0, 12), (100.0, 20)),
            max_num_seqs=4,
            max_num_batched_tokens=64,
            max_model_len=128,
        ),
    ),
    "cpu": (
        Case(
            model="small",
            dtype="bfloat16",
            loads=_loads(*_SHORT, (0.3, 14), (1.0, 32), (2.5, 64)),
            max_num_seqs=16,
            max_num_batched_tokens=256,
            max_model_len=1024,
        ),
    ),
    "h200": (
        Case(
            model="llama-3.1-8b",
            dtype="bfloat16",
            loads=(
                *_loads(*_CHAT, (2.0, 40), (8.0, 160), (20.0, 400)),
                Load(num_requests=256, input_len=_CHAT[0], output_len=_CHAT[1], concurrency=64),
            ),
            max_num_seqs=128,
            max_num_batched_tokens=2048,
            max_model_len=4096,
        ),
        Case(
            model="qwen3-30b-a3b",
            dtype="bfloat16",
            loads=_loads(*_CHAT, (2.0, 40), (8.0, 160), (16.0, 320)),
            max_num_seqs=128,
            max_num_batched_tokens=2048,
            max_model_len=4096,
        ),
    ),
}
"""Arrivals are Poisson; lengths spread like chat traffic. The rates span a lone request to near saturation."""


def clipped(trace: Trace, max_model_len: int) -> Trace:
    """The same requests, cut so that prompt and output fit (as a client that knows the limit would)."""
    from dataclasses import replace

    outputs = np.minimum(trace.output_tokens, max_model_len // 2)
    return replace(trace, output_tokens=outputs, input_tokens=np.minimum(trace.input_tokens, max_model_len - outputs))
