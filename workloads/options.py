"""How to read a trace file: the options all formats share, and the column names other tools use."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from hardware_profiles.errors import UserError, unknown_name

CHARACTERS_PER_TOKEN = 4.0
"""Rule of thumb for English text: OpenAI help centre, 'What are tokens and how to count them?'."""
PLAIN_BLOCK_TOKENS = 16
"""Tokens per prefix id of plain files that do not say: vLLM's default KV block."""
TIME_UNITS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}

ALIASES: dict[str, tuple[str, ...]] = {
    "arrival_s": ("arrived_at", "arrival_timestamp", "arrival_time_s", "arrival_time_ms", "arrival_time_ns"),
    "input_tokens": (
        *("num_prefill_tokens", "prompt_size", "input_toks", "input_length", "input_len", "prompt_tokens"),
        *("prompt_len", "ContextTokens", "Request tokens", "isl"),
    ),
    "output_tokens": (
        *("num_decode_tokens", "token_size", "output_toks", "output_length", "output_len", "completion_tokens"),
        *("generated_tokens", "GeneratedTokens", "Response tokens", "osl"),
    ),
    "session_id": ("conversation_id",),
    "prefix_ids": ("hash_ids",),
    "client": ("client_id", "user_id", "tenant"),
}
"""Column names of other tools that mean ours (Vidur, splitwise-sim, LLMServingSim, vLLM, AIPerf). Names that end in
_ms and _ns are in those units, all others in seconds."""
OTHER_COLUMNS = (
    "priority",
    "adapter",
    "model",
    "think_s",
    "previous",
    "prefix_id",
    "prefix_tokens",
    "prefix_block_tokens",
    "concurrency",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadOptions:
    """How to read a trace file; every field is also a key of a workload YAML and a keyword of ``read_trace``."""

    sort: bool = False
    """Sort rows by arrival instead of refusing unsorted ones."""
    sessions: bool = False
    """Link the requests of a session: a turn waits for the one before and a think time (BurstGPT v3, Mooncake with
    session_id and delay, ShareGPT, plain files with session_id and think_s)."""
    spread_ties: bool = False
    """Spread requests of one timestamp evenly up to the next timestamp (clocks too coarse for the rate)."""
    drop_empty: bool = False
    """Drop, and count, rows with zero input or output tokens instead of refusing them."""
    block_tokens: int | None = None
    """Tokens per prefix id; None: the format's own."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Plain files: our column name -> the file's."""
    time_unit: str | None = None
    """Plain files: unit of the arrival column (s, ms, us, ns); None: from its name."""
    characters_per_token: float = CHARACTERS_PER_TOKEN
    """Text without token counts: how lengths are estimated."""
    arrival: str | None = None
    """Arrival process that replaces the file's times; needed for files of lengths only."""
    rate_per_s: float | None = None
    """Rate of ``arrival``."""
    think_s: str | None = None
    """ShareGPT sessions: distribution of the pause before the next question."""
    seed: int = 0
    """Of ``arrival`` and ``think_s``."""

    def __post_init__(self) -> None:
        if self.block_tokens is not None and self.block_tokens < 1:
            raise UserError(f"block_tokens is {self.block_tokens}; it must be at least 1")
        if self.time_unit is not None and self.time_unit not in TIME_UNITS:
            raise unknown_name("time unit", self.time_unit, TIME_UNITS)
        if self.characters_per_token <= 0:
            raise UserError(f"characters_per_token is {self.characters_per_token}; it must be above 0")
        for name in self.columns:
            if name not in (*ALIASES, *OTHER_COLUMNS):
                raise unknown_name("trace column", name, (*ALIASES, *OTHER_COLUMNS))
        if self.rate_per_s is not None and self.arrival is None:
            raise UserError(
                "rate_per_s needs an arrival process; to change the pace of recorded arrivals scale the trace"
            )
