"""A measured run as a value: who measured what, with which configuration and load, and what came out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

from hardware_profiles.errors import UserError, unknown_name
from workloads.trace import Trace

Lengths = int | float | str | tuple[int, ...]
"""Token counts: a number, a distribution as in docs/workloads.md, or values to draw from with replacement."""
Kind = Literal["serving", "batch"]
Split = Literal["calibration", "held-out", "cited", "unstated"]
Observer = Literal["client", "engine"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """One piece of an open load: so many requests within so many seconds, then a pause."""

    num_requests: int
    duration_s: float
    pause_s: float = 0.0
    """Between the end of this stage and the begin of the next [s]."""

    def __post_init__(self) -> None:
        if self.num_requests < 1:
            raise UserError(f"stages: num_requests is {self.num_requests}; it must be at least 1")
        if not self.duration_s > 0:
            raise UserError(f"stages: duration_s is {self.duration_s}; it must be above 0")
        if not self.pause_s >= 0:
            raise UserError(f"stages: pause_s is {self.pause_s}; it must be at least 0")


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """What was sent: a file with every request, the requests themselves, or distributions.

    Distributions arrive in ``stages``, at ``rate_per_s`` (``arrival``: poisson, constant, gamma(cv=2) ...), all at once
    (neither), or in a closed loop of ``concurrency``.
    """

    trace: str | None = None
    """Trace file with arrivals and lengths (any format ``apex-sim traces`` reads); relative to the file of the run."""
    requests: Trace | None = field(default=None, compare=False)
    """The same, already read; for sources that keep requests in layouts of their own."""
    input_len: Lengths | None = None
    output_len: Lengths | None = None
    arrival: str = "poisson"
    """With ``stages``: exponential gaps scaled so that each stage lasts what it should, or ``constant`` ones."""
    rate_per_s: float | None = None
    num_requests: int | None = None
    stages: tuple[Stage, ...] = ()
    concurrency: int | None = None
    """Requests in flight in a closed loop; a new one is sent when one ends."""
    distinct_prompts: int | None = None
    """Only so many different prompts exist; they repeat in turn, token by token."""
    shared_prefix_tokens: int = 0
    """Tokens that all prompts begin with (a system prompt); part of ``input_len``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Window:
    """Which requests the measured figures are about; the default is all of them."""

    stage: int | None = None
    first: int | None = None
    """Only the first so many requests."""
    skip_first: int = 0
    """Leave out the first so many requests (warm-up that was sent but not measured)."""
    steady: bool = False
    """Between the moment when the batch is full and the moment when no new request is left to fill it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRun:
    """One row of truth. Settings left out are the engine's defaults, as they were for the run."""

    id: str
    source: str
    split: Split = "unstated"
    kind: Kind = "serving"
    """``batch``: one fixed batch of equal prompts, from the first prompt to the last token."""
    model: str
    cluster: str
    engine: str = "vllm-v1"
    engine_version: str | None = None
    tp: int = 1
    pp: int = 1
    dp: int = 1
    ep: int = 1
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Engine settings under the names ``apex-sim simulate`` has for them."""
    workload: Workload
    window: Window = field(default_factory=Window)
    measured: Mapping[str, float]
    """Metric -> value, in the unit the name ends with; names are in simulator.validation.metrics."""
    measured_by: Observer = "client"
    """``engine``: times count from the engine's queue, without HTTP and tokenisation in front of it."""
    skip: str | None = None
    """Why the run is listed but not simulated."""
    tags: Mapping[str, str] = field(default_factory=dict)
    """Free labels to aggregate by (workload, scope ...)."""
    note: str | None = None
    citation: str | None = None
    place: str = ""
    """File and row the run came from, for messages."""

    def __post_init__(self) -> None:
        for name, value, choices in (
            ("kind", self.kind, get_args(Kind)),
            ("split", self.split, get_args(Split)),
            ("measured_by", self.measured_by, get_args(Observer)),
        ):
            if value not in choices:
                raise unknown_name(name, str(value), choices)

    @property
    def device(self) -> str:
        """Name of the device in the cluster: what comes before the first colon."""
        return self.cluster.partition(":")[0]

    @property
    def gpus(self) -> int:
        """Devices in use."""
        return self.tp * self.pp * self.dp
