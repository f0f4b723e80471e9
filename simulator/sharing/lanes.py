"""Requests between a step of prompts and a batch of tokens: what drivers with more than one lane over one KV cache share."""

from __future__ import annotations

from simulator.core import EngineCore
from simulator.gaps import Stragglers, TokenGaps
from simulator.lane import Lane
from simulator.physics.shape import StepShape
from simulator.recorder import Counters
from simulator.request import Request


def decode_shape(lane: Lane) -> StepShape:
    """A decode step of a lane as it is."""
    window = lane.context if lane.window is None else lane.window_context
    return StepShape(lane.num_seqs, lane.context, window, 0, 0, 0, 0, 0, lane.num_seqs)


def count_prompts(counters: Counters, shape: StepShape) -> None:
    """A step of prompts begins."""
    counters.mixed_steps += 1
    counters.prefill_tokens += shape.prefill_tokens
    counters.prefill_pairs += shape.prefill_pairs
    counters.prefill_context += shape.prefill_context
    counters.window_pairs += shape.window_pairs


def produced(
    core: EngineCore, gaps: TokenGaps, batch: list[tuple[Request, int]], now: int, sent: int
) -> tuple[list[Request], list[Request]]:
    """Prompts of a step that has ended and are complete, with a token: (those that go on, those that have all tokens).

    ``sent``: when the token reaches the client. Blocks of those that go on are kept until they join a batch.
    """
    going, done = [], []
    for request, tokens in batch:
        if not core.complete_prefill(request, tokens):
            continue
        if request.first_token_tick < 0:
            request.first_token_tick = sent
        else:
            gaps.add(1, 1, now - request.last_token_tick, 0)
        if request.generated >= request.output_tokens:
            done.append(request)
            continue
        request.last_token_tick = now
        hold(core, request)
        going.append(request)
    return going, done


def hold(core: EngineCore, request: Request) -> None:
    """Blocks of a sequence between two batches count as prompts'."""
    request.blocks = core.blocks_for(request.input_tokens + request.generated - 1 - request.shared)
    core.prefill_blocks += request.blocks


def take_in(core: EngineCore, joining: list[Request], stragglers: Stragglers, now: int) -> None:
    """Sequences join the batch of the core's lane, whose next step begins now."""
    for request in joining:
        core.note_peak()
        core.prefill_blocks -= request.blocks
        request.blocks = 0
        core.lane.join(request)
        request.joined_tick = request.last_token_tick
        if request.last_token_tick != now:
            stragglers.join(request.last_token_tick)
