"""Synthetic workloads: an arrival process, lengths, shared prefixes, repeated prompts and multi-turn sessions -> Trace.

Every random quantity has its own named stream of the seed, so changing one leaves the others' numbers as they were.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hardware_profiles.errors import UserError
from workloads.arrivals import Arrival, Horizon, arrival_times, parse_arrival
from workloads.expressions import bind, number, parse_call
from workloads.labels import AdapterDraw, turn_numbers
from workloads.lengths import Length, Role, parse_length
from workloads.prefixes import build_ids
from workloads.streams import stream
from workloads.trace import FloatArray, IntArray, Trace

LengthLike = Length | str | int
MICROSECOND_DIGITS = 6
"""Arrivals are rounded to microseconds: far below any step time, and files stay short."""
TURNS_PROBE = 100_000
"""Draws that estimate the mean number of turns, which turns a request rate into a session rate."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedPrefix:
    """``groups`` system prompts, each put in front of the prompts of the requests that use it."""

    tokens: LengthLike
    """Length of a system prompt, drawn once per group; added to the request's own ``input_len``."""
    groups: int = 1
    popularity: str = "uniform"
    """How requests choose a group: ``uniform``, or ``zipf(s)`` (group k with weight k^-s)."""
    share: float = 1.0
    """Share of requests (of sessions) that have a system prompt at all."""

    def __post_init__(self) -> None:
        if self.groups < 1:
            raise UserError(f"prefix groups is {self.groups}; it must be at least 1")
        if not 0 <= self.share <= 1:
            raise UserError(f"prefix share is {self.share:g}; it must lie between 0 and 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class PromptPool:
    """Only ``distinct`` different requests (prompt and output length) exist; they repeat, token by token."""

    distinct: int
    order: str = "cycle"
    """``cycle`` (0, 1, ... and again), ``uniform`` or ``zipf(s)`` (drawn)."""

    def __post_init__(self) -> None:
        if self.distinct < 1:
            raise UserError(f"prompts distinct is {self.distinct}; it must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class Sessions:
    """Multi-turn conversations: the prompt of a turn is the whole history plus a new question of ``input_len``."""

    turns: LengthLike
    """Turns per session, as a distribution (``geometric(mean=4)``)."""
    think_s: LengthLike = 0
    """Pause between an answer and the next question [s], as a distribution (``exponential(mean=30)``)."""
    max_context_tokens: int | None = None
    """A session ends before the turn whose prompt and answer together would exceed this."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lengths:
    """Prompt and output distributions; ``joint`` when both are the pairs of one file."""

    inputs: Length
    outputs: Length
    seed: int

    def draw(self, n: int) -> tuple[IntArray, IntArray]:
        if self.inputs.joint_file is not None and self.inputs.joint_file == self.outputs.joint_file:
            assert self.inputs.values is not None
            rows = stream(self.seed, "length pairs").integers(len(self.inputs.values), size=n)
            return self.inputs.pick(rows), self.outputs.pick(rows)
        return (
            self.inputs.tokens(stream(self.seed, "input_len"), n),
            self.outputs.tokens(stream(self.seed, "output_len"), n),
        )


def generate(
    *,
    input_len: LengthLike,
    output_len: LengthLike,
    num_requests: int | None = None,
    duration_s: float | None = None,
    rate_per_s: float | None = None,
    arrival: Arrival | str = "poisson",
    seed: int = 0,
    prefix: SharedPrefix | None = None,
    prompts: PromptPool | None = None,
    sessions: Sessions | None = None,
    prefix_block_tokens: int = 16,
    name: str = "synthetic",
    folder: Path | None = None,
) -> Trace:
    """A synthetic trace; the grammar of ``arrival`` and lengths is in docs/workloads.md.

    ``rate_per_s`` counts requests: with sessions, sessions start at that rate divided by the mean number of turns (an
    arrival process with rates of its own and no ``rate_per_s`` gives session starts). ``duration_s`` ends the arrivals
    of requests, or of sessions, whose later turns may come after it; ``num_requests`` cuts the last session short.
    A prefix id names ``prefix_block_tokens`` tokens (16: vLLM's default block); only pieces that can be shared get
    one. ``folder`` is where relative files are.
    """
    lengths = _Lengths(
        inputs=_length(input_len, "input_len", "input", folder),
        outputs=_length(output_len, "output_len", "output", folder),
        seed=seed,
    )
    process = parse_arrival(arrival)
    horizon = Horizon(num=num_requests, duration_s=duration_s)
    if seed < 0:
        raise UserError(f"seed is {seed}; it must be at least 0")
    if prefix_block_tokens < 1:
        raise UserError(f"block_tokens is {prefix_block_tokens}; it must be at least 1")
    if sessions is not None:
        if prompts is not None:
            raise UserError("sessions and a pool of prompts exclude each other; drop one of them")
        trace = _session_trace(lengths, process, rate_per_s, horizon, sessions, prefix, prefix_block_tokens)
    else:
        trace = _single_turn_trace(lengths, process, rate_per_s, horizon, prompts, prefix, prefix_block_tokens)
    rate = "" if rate_per_s is None else f" at {rate_per_s:g}/s"
    source = f"generated: {process.text}{rate}, input {lengths.inputs.text}, output {lengths.outputs.text}, seed {seed}"
    return replace(trace, name=name, source=source)


def sessions_from_turns(
    *, starts: FloatArray, turns: IntArray, think_s: FloatArray, question: IntArray, output: IntArray, block: int
) -> Trace:
    """Sessions whose questions and answers are known: ``turns[i]`` rows of ``question``/``output`` for session i."""
    groups = _Groups.draw(None, len(starts), 0, block)
    return _ordered(_unroll(starts, turns, think_s, question, output, groups, None), block)


def _length(value: LengthLike, what: str, role: Role | None = None, folder: Path | None = None) -> Length:
    return parse_length(value, what=what, role=role, folder=folder)


def _single_turn_trace(
    lengths: _Lengths,
    process: Arrival,
    rate: float | None,
    horizon: Horizon,
    prompts: PromptPool | None,
    prefix: SharedPrefix | None,
    block: int,
) -> Trace:
    arrival_s = np.round(arrival_times(process, stream(lengths.seed, "arrivals"), rate, horizon), MICROSECOND_DIGITS)
    n = len(arrival_s) if prompts is None else prompts.distinct
    own, outputs = lengths.draw(n)
    groups = _Groups.draw(prefix, n, lengths.seed, block)
    inputs = own + groups.tokens
    # Only what can be shared gets ids: the group's pieces, and for repeated prompts every full piece of the prompt.
    num_blocks = groups.blocks if prompts is None else inputs // block
    own_base = groups.end + _starts(num_blocks)
    picks = None if prompts is None else _pick_prompts(prompts, len(arrival_s), lengths.seed)
    columns = [inputs, outputs, num_blocks, groups.blocks, groups.base, own_base]
    if picks is not None:
        columns = [column[picks] for column in columns]
    inputs, outputs, num_blocks, shared_blocks, shared_base, own_base = columns
    sharing = _sharing(
        prefix is not None or prompts is not None,
        block,
        num_blocks=num_blocks,
        shared_blocks=shared_blocks,
        shared_base=shared_base,
        own_base=own_base,
    )
    return Trace(
        arrival_s=arrival_s,
        input_tokens=inputs,
        output_tokens=outputs,
        concurrency=process.concurrency,
        **sharing,
    )


def _session_trace(
    lengths: _Lengths,
    process: Arrival,
    rate: float | None,
    horizon: Horizon,
    sessions: Sessions,
    prefix: SharedPrefix | None,
    block: int,
) -> Trace:
    if process.concurrency is not None:
        raise UserError(f"arrival '{process.text}' and sessions exclude each other; drop one of them")
    turns_dist = _length(sessions.turns, "turns")
    think_dist = _length(sessions.think_s, "think_s")
    if rate is not None:
        rate = rate / float(turns_dist.tokens(stream(lengths.seed, "mean turns"), TURNS_PROBE).mean())

    def draw(num: int | None) -> _Turns:
        """All turns of ``num`` sessions (of those in the duration when None)."""
        span = horizon if num is None else Horizon(num=num)
        starts = arrival_times(process, stream(lengths.seed, "arrivals"), rate, span)
        turns = turns_dist.tokens(stream(lengths.seed, "turns"), len(starts))
        think_s = think_dist.draw(stream(lengths.seed, "think_s"), int(turns.sum()))
        if (think_s < 0).any():
            raise UserError(f"think_s '{think_dist.text}' gives negative pauses; add min=0")
        groups = _Groups.draw(prefix, len(starts), lengths.seed, block)
        question, output = lengths.draw(len(think_s))
        return _unroll(starts, turns, think_s, question, output, groups, sessions.max_context_tokens)

    if horizon.num is None:
        rows = draw(None)
    else:
        num_sessions = max(1, horizon.num // 2)
        rows = draw(num_sessions)
        while len(rows.session) < horizon.num and len(rows.session) > 0:
            num_sessions *= 2
            rows = draw(num_sessions)
    if len(rows.session) == 0:
        raise UserError(f"max_context_tokens {sessions.max_context_tokens}: no first turn fits; raise it")
    return _ordered(rows.head(horizon.num), block)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Turns:
    """Turns of sessions, session by session, parallel arrays."""

    session: IntArray
    turn: IntArray
    nominal_s: FloatArray
    """Session start plus the pauses up to this turn: when it would come if answers took no time [s]."""
    think_s: FloatArray
    inputs: IntArray
    outputs: IntArray
    groups: _Groups

    def head(self, n: int | None) -> _Turns:
        """The first ``n`` rows: whole sessions, the last one perhaps cut short."""
        columns = ("session", "turn", "nominal_s", "think_s", "inputs", "outputs")
        return replace(self, **{column: getattr(self, column)[:n] for column in columns})


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Groups:
    """Per request (or session): its system prompt. Group ids take the range [0, end)."""

    tokens: IntArray
    blocks: IntArray
    """Full pieces of the system prompt; a partial one is shared with nobody."""
    base: IntArray
    end: int

    @staticmethod
    def draw(prefix: SharedPrefix | None, n: int, seed: int, block: int) -> _Groups:
        if prefix is None:
            zeros = np.zeros(n, dtype=np.int64)
            return _Groups(tokens=zeros, blocks=zeros, base=zeros, end=0)
        tokens = _length(prefix.tokens, "prefix tokens").tokens(stream(seed, "prefix tokens"), prefix.groups)
        group = _popular(prefix.popularity, prefix.groups, n, stream(seed, "prefix groups"), "prefix popularity")
        has = stream(seed, "prefix share").random(n) < prefix.share
        blocks = tokens // block
        return _Groups(
            tokens=np.where(has, tokens[group], 0),
            blocks=np.where(has, blocks[group], 0),
            base=_starts(blocks)[group],
            end=int(blocks.sum()),
        )


def _unroll(
    starts: FloatArray,
    turns: IntArray,
    think_s: FloatArray,
    question: IntArray,
    output: IntArray,
    groups: _Groups,
    max_context_tokens: int | None,
) -> _Turns:
    """History of every turn, by cumulative sums within sessions; turns beyond the context limit are cut off."""
    session = np.repeat(np.arange(len(turns), dtype=np.int64), turns)
    first = _starts(turns)
    turn = np.arange(len(session), dtype=np.int64) - np.repeat(first, turns)
    think_s = np.asarray(np.round(think_s * (turn > 0), MICROSECOND_DIGITS), dtype=np.float64)
    spoken = _within(question + output, first, turns)
    inputs = groups.tokens[session] + spoken - output
    nominal_s = starts[session] + _within(think_s, first, turns)
    keep = slice(None) if max_context_tokens is None else np.flatnonzero(inputs + output <= max_context_tokens)
    return _Turns(
        session=session[keep],
        turn=turn[keep],
        nominal_s=nominal_s[keep],
        think_s=think_s[keep],
        inputs=inputs[keep],
        outputs=output[keep],
        groups=groups,
    )


def _ordered(rows: _Turns, block: int) -> Trace:
    """The table in nominal order, with links and prefix identities."""
    order = np.argsort(rows.nominal_s, kind="stable")
    n = len(order)
    row_of = np.full(n + 1, -1, dtype=np.int64)  # the last entry serves "no earlier turn"
    row_of[order] = np.arange(n)
    before = np.where(rows.turn > 0, np.arange(n) - 1, n)
    previous = row_of[before]
    followed = np.append(rows.turn[1:] > 0, False)
    # A turn needs ids for what it shares: the stream of the turn before, and its own when another turn follows.
    history = np.where(rows.turn > 0, np.roll(rows.inputs + rows.outputs, 1), 0)
    stream_tokens = np.where(followed, rows.inputs + rows.outputs, np.minimum(history, rows.inputs))
    shared_blocks = rows.groups.blocks[rows.session]
    num_blocks = np.maximum(-(-stream_tokens // block), shared_blocks)
    longest = np.zeros(len(rows.groups.tokens), dtype=np.int64)
    np.maximum.at(longest, rows.session, num_blocks)
    own_base = rows.groups.end + _starts(longest)[rows.session]
    base = rows.groups.base[rows.session]
    sharing = _sharing(
        True,
        block,
        num_blocks=num_blocks[order],
        shared_blocks=shared_blocks[order],
        shared_base=base[order],
        own_base=own_base[order],
    )
    return Trace(
        arrival_s=np.round(rows.nominal_s[order], MICROSECOND_DIGITS),
        input_tokens=rows.inputs[order],
        output_tokens=rows.outputs[order],
        previous=previous[order],
        think_s=rows.think_s[order],
        **sharing,
    )


def _sharing(wanted: bool, block: int, **columns: IntArray) -> dict[str, Any]:
    """The prefix fields of a Trace, or none of them."""
    if not wanted:
        return {}
    ids, offsets = build_ids(**columns)
    return {"prefix_ids": ids, "prefix_offsets": offsets, "prefix_block_tokens": block}


def _pick_prompts(prompts: PromptPool, n: int, seed: int) -> IntArray:
    if prompts.order == "cycle":
        return np.arange(n, dtype=np.int64) % prompts.distinct
    return _popular(prompts.order, prompts.distinct, n, stream(seed, "prompts"), "prompts order")


def _popular(text: str, choices: int, n: int, rng: np.random.Generator, what: str) -> IntArray:
    """int64[n] in [0, choices): ``uniform`` or ``zipf(s)``."""
    call = parse_call(text, what)
    if call.name == "uniform" and not call.args and not call.kwargs:
        return rng.integers(choices, size=n)
    if call.name != "zipf":
        raise call.error("use uniform or zipf(1.0)")
    exponent = number(call, "s", bind(call, ("s",))["s"])
    weights = np.exp(-exponent * np.log(np.arange(1, choices + 1, dtype=np.float64)))
    cumulative = np.cumsum(weights / weights.sum())
    return np.minimum(np.searchsorted(cumulative, rng.random(n), side="right"), choices - 1).astype(np.int64)


def with_adapters(trace: Trace, adapters: AdapterDraw, seed: int) -> Trace:
    """The trace with an adapter for every request, drawn by request or by session, or taken in turns."""
    n = len(trace)
    if adapters.assign == "turn":
        return replace(trace, adapter=turn_numbers(trace.previous, n) % adapters.count)
    drawn = _popular(adapters.popularity, adapters.count, n, stream(seed, "adapters"), "adapters popularity")
    return replace(trace, adapter=drawn[trace.session_roots()] if adapters.assign == "session" else drawn)


def _starts(counts: IntArray) -> IntArray:
    """Where each of several runs of the given lengths begins."""
    return np.cumsum(counts) - counts


def _within(values: Any, first: IntArray, counts: IntArray) -> Any:
    """Running sums that restart at every session."""
    total = np.cumsum(values)
    return total - np.repeat(total[first] - values[first], counts)
