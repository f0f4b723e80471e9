"""A request on its way through a replica."""

from __future__ import annotations

from typing import Protocol


class RequestView(Protocol):
    """What a real scheduler or router knows of a request. The output length is not part of it."""

    @property
    def row(self) -> int:
        """Identity: row of the trace."""

    @property
    def arrival_tick(self) -> int:
        """When it reached the engine's queue [ticks]."""

    @property
    def input_tokens(self) -> int:
        """Prompt length [tokens]."""

    @property
    def prompt_left(self) -> int:
        """Tokens to compute before the next output token (after a preemption: the generated ones too)."""

    @property
    def computed(self) -> int:
        """Tokens whose KV entries exist (prefix hits included), while the prompt is being computed."""

    @property
    def num_preemptions(self) -> int:
        """How often it lost its KV blocks."""

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """Identities of the successive pieces of its prompt (with prefix caching); equal ids mean equal tokens up to there."""

    @property
    def session(self) -> int:
        """Row of the first request of its session; its own without sessions."""


class Request:
    """Mutable state of one request; identity semantics."""

    __slots__ = (
        "admit_seq",
        "arrival_tick",
        "blocks",
        "cached_tokens",
        "computed",
        "crossing",
        "finish_it",
        "first_token_tick",
        "generated",
        "input_tokens",
        "joined_it",
        "joined_tick",
        "last_token_tick",
        "load_number",
        "loaded",
        "num_preemptions",
        "output_tokens",
        "phase",
        "pieces",
        "prefix",
        "prompt_left",
        "prompt_pieces",
        "row",
        "scheduled_tick",
        "segments_held",
        "session",
        "shared",
        "swapped_tokens",
    )

    def __init__(
        self, row: int, arrival_tick: int, input_tokens: int, output_tokens: int, prefix: tuple[int, ...] = ()
    ) -> None:
        self.row = row
        self.arrival_tick = arrival_tick
        self.input_tokens = input_tokens
        self.output_tokens = output_tokens
        self.prefix = prefix
        self.pieces: list[tuple[int | tuple[int, int], int]] | None = None
        """Keys and blocks of the prefix's pieces, once a prefix cache has worked them out."""
        self.prompt_pieces = 0
        """How many of the prefix's ids name pieces of the prompt; the rest is output, which nobody knows yet."""
        self.session = row
        self.prompt_left = input_tokens
        self.computed = 0
        self.generated = 0
        self.admit_seq = -1
        self.blocks = 0
        self.shared = 0
        self.segments_held = 0
        self.cached_tokens = 0
        self.finish_it = 0
        self.phase = 0
        self.crossing = -1
        self.scheduled_tick = -1
        self.first_token_tick = -1
        self.last_token_tick = -1
        self.joined_tick = -1
        self.joined_it = -1
        self.num_preemptions = 0
        self.swapped_tokens = 0
        self.loaded = False
        """What was cached below the device has been loaded for its admission, or could not be kept."""
        self.load_number = 0
        """Which load of the replica that was; 0: none."""

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """Identities of the successive pieces of its prompt."""
        return self.prefix[: self.prompt_pieces]
