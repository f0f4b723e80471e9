"""What a run leaves behind: one row per request, gaps between tokens, counters and a coarse time series."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from simulator import clock
from simulator.adapters.pool import AdapterCounts
from simulator.events.step_log import StepLog
from simulator.gaps import TokenGaps
from simulator.kv_tiers import TierCounts
from simulator.phases import PromptShares
from simulator.request import Request
from simulator.sharing.counters import SplitCounters
from simulator.speculative.counters import SpeculativeCounters

COMPLETED, REJECTED = 1, 2
"""Status codes of the request table; 0 is unfinished."""


@dataclass(slots=True)
class Counters:
    """Sums over the steps of one replica."""

    steps: int = 0
    busy_ticks: int = 0
    joules: float = 0.0
    prefill_tokens: int = 0
    prefill_pairs: int = 0
    prefill_context: int = 0
    """Sum over prefill chunks of the KV entries before them; MLA expands those again."""
    decode_tokens: int = 0
    decode_context: int = 0
    """Sum over decode steps of the KV entries read in full-attention layers."""
    decode_window: int = 0
    """The same in sliding-window layers; 0 when no layer has a window."""
    window_pairs: int = 0
    """As prefill_pairs, in sliding-window layers; equal to it when no layer has a window."""
    mixed_steps: int = 0
    swapped_tokens: int = 0
    preemptions: int = 0
    peak_blocks: int = 0
    peak_running: int = 0
    peak_waiting: int = 0


class Timeline:
    """Samples of a replica's state at step boundaries, thinned by doubling the interval when there are too many; the last
    one stays."""

    LIMIT = 4096
    COLUMNS = 6

    def __init__(self) -> None:
        self.rows = array("d")
        self.next_tick = 0
        self.last_tick = 0
        self._interval = clock.to_ticks(0.01)

    def add(self, tick: int, running: int, waiting: int, used_blocks: int, counters: Counters) -> None:
        """Record one sample, with the energy and busy time so far; call only at or after ``next_tick``."""
        ticks_per_s = clock.TICKS_PER_S
        row = (tick / ticks_per_s, running, waiting, used_blocks, counters.joules, counters.busy_ticks / ticks_per_s)
        self.rows.extend(row)
        if len(self.rows) >= self.COLUMNS * self.LIMIT:
            self._thin()
        self.next_tick = tick + self._interval
        self.last_tick = tick

    def _thin(self) -> None:
        kept = array("d")
        for begin in range(self.COLUMNS, len(self.rows), 2 * self.COLUMNS):
            kept.extend(self.rows[begin : begin + self.COLUMNS])
        self.rows = kept
        self._interval *= 2


@dataclass(slots=True)
class ReplicaRecord:
    """What one replica measured."""

    counters: Counters = field(default_factory=Counters)
    gaps: TokenGaps = field(default_factory=TokenGaps)
    timeline: Timeline = field(default_factory=Timeline)
    prompts: PromptShares = field(default_factory=PromptShares)
    tiers: list[TierCounts] = field(default_factory=list)
    """Memories for cached prefixes below the device's, nearest first."""
    speculative: SpeculativeCounters | None = None
    """With speculative decoding."""
    split: SplitCounters | None = None
    """Where two phases share the devices."""
    step_sizes: dict[int, int] = field(default_factory=dict)
    """Steps by their tokens, where something depends on them (simulator.step_sizes)."""
    adapters: AdapterCounts | None = None
    """With adapters that are loaded."""
    step_log: StepLog | None = None
    """Of a run that is watched."""


class RequestTable:
    """Columns of the request table; seconds since the start of the trace. Unfinished times are NaN."""

    def __init__(self, num_requests: int) -> None:
        nan = float("nan")
        self.replica = array("i", [-1]) * num_requests
        self.status = array("b", [0]) * num_requests
        self.arrival_s = array("d", [nan]) * num_requests
        self.scheduled_s = array("d", [nan]) * num_requests
        self.first_token_s = array("d", [nan]) * num_requests
        self.finish_s = array("d", [nan]) * num_requests
        self.output_tokens = array("q", [0]) * num_requests
        self.cached_tokens = array("q", [0]) * num_requests
        self.preemptions = array("i", [0]) * num_requests

    def finish(self, request: Request, tick: int, replica: int) -> None:
        """Write the row of a finished request."""
        row = request.row
        ticks_per_s = clock.TICKS_PER_S
        self.status[row] = COMPLETED
        self.replica[row] = replica
        self.scheduled_s[row] = request.scheduled_tick / ticks_per_s
        self.first_token_s[row] = request.first_token_tick / ticks_per_s
        self.finish_s[row] = tick / ticks_per_s
        self.output_tokens[row] = request.output_tokens
        if request.cached_tokens:
            self.cached_tokens[row] = request.cached_tokens
        if request.num_preemptions:
            self.preemptions[row] = request.num_preemptions
