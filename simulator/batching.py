"""Batching policies: what an engine puts into its next step. Decisions only; no clock, no true output length.

A policy is asked at every step boundary at which something is waiting, under way or has changed. It calls the verbs of
:class:`~simulator.core.EngineCore` (make_room_for_decode, resume_swapped, extend, admit), which keep the books and refuse
what does not fit, and returns whether the decoding sequences run in this step. While it gives no prefill work and nothing
changes outside, the driver repeats the decision without asking (a *span*); a policy that would decide otherwise (ageing
priorities, deadlines) says ``steady = False``.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Protocol

from simulator.core import EngineCore


class BatchingPolicy(Protocol):
    """What the replica needs of a batching policy."""

    steady: bool
    """The decision stands until something changes."""

    def plan(self, core: EngineCore) -> bool:
        """Fill ``core.batch`` through the verbs; return True when decoding sequences take part in the step."""


class ChunkedPrefill:
    """vLLM v1 (and Sarathi): decode rows first, then prompts in chunks, within one token budget per step."""

    steady = True

    def __init__(self, long_prefill_token_threshold: int = 0) -> None:
        self.chunk = long_prefill_token_threshold or 1 << 62

    def plan(self, core: EngineCore) -> bool:
        """Decode rows cost one token each; prompts under way continue before new ones start, first come first served."""
        room = core.make_room_for_decode()
        lane = core.lane
        budget = core.max_num_batched_tokens - lane.num_seqs * core.queries
        for request in lane.prefilling.copy():
            if budget <= 0:
                return True
            tokens = min(request.prompt_left, budget, self.chunk)
            if request.admit_seq >= 0 and core.extend(request, tokens):
                budget -= tokens
        if room and not core.preempted_now and core.resume_swapped(budget):
            budget -= len(core.resumed) * core.queries
            for request in core.admissible():
                if budget <= 0 or core.num_running >= core.max_num_seqs:
                    break
                if not core.admit(request, min(budget, self.chunk)):
                    break
                budget -= core.batch[-1][1]
        return True


class PrefillFirst:
    """vLLM v0: a step is either whole prompts or one token of every running sequence; prompts go first."""

    steady = True

    def plan(self, core: EngineCore) -> bool:
        """Admit whole prompts while they fit the token budget (a longer prompt goes alone); otherwise decode."""
        if not core.swapped:
            budget = core.max_num_batched_tokens
            for request in core.admissible():
                if core.num_running >= core.max_num_seqs or (core.batch and request.prompt_left > budget):
                    break
                if not core.admit(request, request.prompt_left):
                    break
                budget -= core.batch[-1][1]
            if core.batch:
                return False
        if core.make_room_for_decode():
            core.resume_swapped(core.max_num_batched_tokens - core.num_decoding)
        return True


class InFlight:
    """TensorRT-LLM without chunked context: whole prompts join the decoding sequences while the step's token budget lasts."""

    steady = True

    def plan(self, core: EngineCore) -> bool:
        """A prompt that does not fit into what is left of the budget waits; one longer than the budget goes alone."""
        room = core.make_room_for_decode()
        budget = core.max_num_batched_tokens - core.decode_tokens
        if room and core.resume_swapped(budget):
            for request in core.admissible():
                if core.num_running >= core.max_num_seqs or (core.batch and request.prompt_left > budget):
                    break
                if request.prompt_left > budget and core.num_running:
                    break
                if not core.admit(request, request.prompt_left):
                    break
                budget -= core.batch[-1][1]
        return True


class PrefillPriority:
    """SGLang: prompts go before decoding, in chunks; with ``mixed`` the decoding sequences take part in those steps.

    Two limits: a step holds at most ``max_num_batched_tokens`` prompt tokens (--chunked-prefill-size; the last prompt is cut),
    and a further prompt starts only while fewer than ``max_prefill_tokens`` are in it (--max-prefill-tokens).
    """

    steady = True

    def __init__(self, mixed: bool = False) -> None:
        self.mixed = mixed

    def plan(self, core: EngineCore) -> bool:
        """Continue the prompt that was cut, then start others; decode when there are none."""
        room = not self.mixed or core.make_room_for_decode()
        rows = core.decode_tokens if self.mixed else 0
        chunk = core.max_num_batched_tokens - rows
        start = core.max_prefill_tokens - rows
        for request in list(core.lane.prefilling):
            tokens = min(request.prompt_left, chunk)
            if tokens > 0 and request.admit_seq >= 0 and core.extend(request, tokens):
                chunk -= tokens
                start -= tokens
        if room and not core.preempted_now and not core.swapped:
            for request in core.admissible():
                if chunk <= 0 or start <= 0 or core.num_running >= core.max_num_seqs:
                    break
                if not core.admit(request, chunk):
                    break
                chunk -= core.batch[-1][1]
                start -= core.batch[-1][1]
        if core.batch:
            return self.mixed
        if self.mixed or core.make_room_for_decode():
            core.resume_swapped(core.max_num_batched_tokens - core.num_decoding)
        return True


class Orca:
    """Orca (OSDI'22): iteration-level scheduling; whole prompts join the running batch, memory reserved in advance."""

    steady = True

    def plan(self, core: EngineCore) -> bool:
        """Every free place takes the next prompt, all of it in one step, together with the decoding sequences."""
        for request in core.admissible():
            if core.num_running >= core.max_num_seqs or not core.admit(request, request.prompt_left):
                break
        return True


class StaticBatch:
    """Request-level batching (FasterTransformer): a batch runs to its longest output before the next one starts."""

    steady = True

    def plan(self, core: EngineCore) -> bool:
        """Take what is waiting, up to the batch size, when nothing runs."""
        if core.num_running == 0:
            for request in core.admissible():
                if core.num_running >= core.max_num_seqs or not core.admit(request, request.prompt_left):
                    break
        return True


BATCHING: dict[str, Callable[[], BatchingPolicy]] = {
    "chunked": ChunkedPrefill,
    "prefill-first": PrefillFirst,
    "in-flight": InFlight,
    "prefill-priority": PrefillPriority,
    "prefill-priority-mixed": partial(PrefillPriority, mixed=True),
    "orca": Orca,
    "static": StaticBatch,
}
"""Names for engine profiles and YAML; a class of your own goes straight into ``simulate_deployment(batching=...)``."""

RESERVING = {"orca", "static"}
"""Policies that reserve max_model_len of KV memory for every request at admission."""
