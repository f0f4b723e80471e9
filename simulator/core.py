"""One engine's queues and KV blocks, and the verbs a batching policy uses on them. No clock, no physics.

A policy decides with what a real scheduler knows; the core keeps the books: blocks are allocated and freed in one place,
and their sum is conserved.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from math import ceil

from hardware_profiles.errors import UserError
from simulator.kv_loads import Loads
from simulator.lane import Lane
from simulator.prefix_cache import PrefixCache
from simulator.request import Request


@dataclass(frozen=True, slots=True, kw_only=True)
class CoreLimits:
    """What one replica may hold: the engine's settings as the scheduler sees them."""

    num_blocks: int
    block_size: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    reserve_full_prompt: bool = True
    swap: bool = False
    """Preempt by moving KV blocks to host memory rather than by dropping them."""
    host_blocks: int = 0
    """Blocks that fit in host memory."""
    watermark_blocks: int = 0
    """Blocks kept free when a prompt joins running requests (to an idle engine every legal prompt is admitted)."""
    fixed_reservation: int | None = None
    """Tokens reserved for every request at admission (Orca, static batching); None: blocks on demand."""
    max_prefill_tokens: int | None = None
    """A further prompt joins a step only while fewer prompt tokens are in it; None: max_num_batched_tokens alone limits."""
    output_reserve: float = 0.0
    """Share of a request's output for which blocks must be left at admission (TensorRT-LLM: all, so nobody is preempted)."""
    hold_finished: bool = False
    """Finished sequences stay in the batch until all are done (static batching)."""


class EngineCore:
    """Waiting, running and swapped requests of one replica with their KV blocks."""

    def __init__(self, limits: CoreLimits, lanes: int, window: int | None, prefix_cache: PrefixCache | None) -> None:
        self.limits = limits
        self.max_num_seqs = limits.max_num_seqs
        self.max_num_batched_tokens = limits.max_num_batched_tokens
        self.lanes = [Lane(limits.block_size, window, limits.hold_finished) for _ in range(lanes)]
        self.max_prefill_tokens = limits.max_prefill_tokens or limits.max_num_batched_tokens
        self._only_lane = self.lanes[0] if lanes == 1 else None
        self._num_blocks = limits.num_blocks
        self._block_size = limits.block_size
        self.lane = self.lanes[0]
        """The batch being scheduled now."""
        self.prefix_cache = prefix_cache
        self.has_idle = prefix_cache is not None
        """Something is kept in KV blocks until they are needed."""
        self.loads: Loads | None = None
        """Requests that wait for cached KV from memory below the device's, where there is such."""
        self.waiting: deque[Request] = deque()
        self.swapped: deque[Request] = deque()
        self.admissible_until = 0
        """Requests that arrived later than this tick are not visible to the scheduler yet."""
        self.prefill_blocks = 0
        """Private blocks of requests whose prompt is being computed."""
        self.reserved_blocks = 0
        self.claimed_blocks = 0
        """Blocks that running requests will need with the reserved share of their outputs (``output_reserve``)."""
        self.host_blocks_used = 0
        self.swap_tokens = 0
        """Tokens whose KV entries moved between device and host since the last step; the driver turns them into time."""
        self.swapped_tokens_total = 0
        self.line: Callable[[Request], tuple[float, ...]] | None = None
        """Order of service (see :mod:`simulator.scheduling`); the last in it is preempted first. None: first come first
        served, and the request admitted last is preempted first."""
        self.decision_steps = 1 << 62
        """Steps for which the order of service stands if nothing else changes."""
        self.queries = 1
        """Tokens of a decoding sequence in a step: more than one with drafts to verify."""
        self.num_running = 0
        self.num_preemptions = 0
        self.preempted: list[tuple[Request, Lane]] = []
        """Decoding sequences that lost their place, and in which batch, while this step was being scheduled."""
        self.preempted_now = False
        """Somebody (decoding or not) lost their place while this step was being scheduled."""
        self.resumed: list[Request] = []
        """Sequences that came back from host memory while this step was being scheduled."""
        self.num_admitted = 0
        self.promised = 0
        """Blocks set aside for the decode rows of the step being scheduled."""
        self.pledged = 0
        """Blocks set aside for the decode rows of batches in flight (pipelines)."""
        self.batch: list[tuple[Request, int]] = []
        """Prefill work of the step being scheduled: (request, new tokens)."""
        self.held: list[Request] = []
        """Static batching: finished requests that still occupy their place."""
        self.peak_blocks = 0
        self.inbound = 0
        """Requests whose prompt was computed elsewhere and that do not run here yet; see :mod:`simulator.handover`."""
        self.in_transfer = 0
        """Requests whose blocks are held until their KV has been sent or received."""
        self.received = 0
        """Requests that hold a place, and no decoding yet: their KV is on its way here, or has just come. They wait."""
        self.now = 0
        reservation = limits.fixed_reservation
        self.reservation_blocks = None if reservation is None else self.blocks_for(reservation)

    # -- what a policy may ask ------------------------------------------------------------------------------------

    @property
    def num_decoding(self) -> int:
        """Sequences that would produce a token in this step."""
        return self.lane.num_seqs

    @property
    def decode_tokens(self) -> int:
        """What the decoding sequences take of the step's token budget."""
        return self.lane.num_seqs * self.queries

    @property
    def prefilling(self) -> list[Request]:
        """Requests of this batch whose prompt is under way, oldest first."""
        return self.lane.prefilling

    def admissible(self) -> Iterator[Request]:
        """Waiting requests the scheduler has seen, first come first; admit the one at hand before asking for the next."""
        waiting, loads = self.waiting, self.loads
        while waiting and waiting[0].arrival_tick <= self.admissible_until:
            if loads is None or not loads.begin(waiting[0]):
                yield waiting[0]

    def visible(self) -> list[Request]:
        """All waiting requests the scheduler has seen, in queue order; for policies that do not serve first come first
        served (``steady = False``: they must look again when somebody joins the end of the queue)."""
        seen = [request for request in self.waiting if request.arrival_tick <= self.admissible_until]
        if self.loads is not None:
            seen = [request for request in seen if not self.loads.begin(request)]
            self.loads.match = None
        return seen

    @property
    def unseen(self) -> bool:
        """Somebody came too late for the scheduler to see now: it must look again at the next step."""
        return bool(self.waiting) and self.waiting[0].arrival_tick > self.admissible_until

    # -- verbs ----------------------------------------------------------------------------------------------------

    def make_room_for_decode(self) -> bool:
        """Set blocks aside for one token of every decoding sequence, preempting the newest requests if there are none.

        Returns False when somebody had to be preempted (vLLM then admits nobody in the same step).
        """
        lane = self.lane
        if self.reservation_blocks is not None or not lane.num_seqs:
            return True
        need = lane.blocks_for_next_step()
        while need > self.free_blocks(at_least=need):
            if not self.preempt_newest() and not (self.loads is not None and self.loads.cancel_newest()):
                raise AssertionError("a single sequence does not fit into the KV cache")
            need = lane.blocks_for_next_step()
        self.promised = need
        return not self.preempted_now

    def admit(self, request: Request, tokens: int) -> bool:
        """Start a waiting request with up to ``tokens`` new tokens; False when blocks are short."""
        tokens = min(tokens, request.prompt_left)
        if self.reservation_blocks is not None:
            if self.reservation_blocks > self.limits.num_blocks - self.reserved_blocks:
                return False
            self.reserved_blocks += self.reservation_blocks
            self._start(request)
            self.batch.append((request, tokens))
            return True
        if self.limits.output_reserve and self.num_running and not self._claim_fits(request):
            return False
        cache = self.prefix_cache
        segments = skipped = shared = idle = 0
        if cache is not None and request.prefix:
            match = None if self.loads is None else self.loads.match
            if match is None:
                self.settle_cache()
                match = cache.match(request)
            segments, skipped, shared, idle = match
            tokens = min(tokens, request.prompt_left - skipped)
        ahead = request.prompt_left if self.limits.reserve_full_prompt else skipped + tokens
        need = -(-(ahead - shared) // self._block_size) + idle
        if self.num_running:
            need += self.limits.watermark_blocks
        if need > self.free_blocks(at_least=need + self.promised) - self.promised:
            return False
        if segments and cache is not None:
            cache.hold_first(request, segments)
            request.shared = shared
            request.computed = skipped
            request.prompt_left -= skipped
            if request.scheduled_tick < 0:
                request.cached_tokens = skipped
        self._start(request)
        self._grow(request, tokens)
        self.batch.append((request, tokens))
        return True

    def has_room(self, request: Request, skipped: int, tokens: int, blocks: int) -> bool:
        """Whether a waiting request could start now with its prefix of ``tokens`` on the device: ``skipped`` of them need no
        computing, and ``blocks`` of their blocks are idle or elsewhere."""
        limits = self.limits
        if limits.output_reserve and self.num_running and not self._claim_fits(request):
            return False
        ahead = request.prompt_left
        if not limits.reserve_full_prompt:
            ahead = min(ahead, skipped + self.max_num_batched_tokens)
        need = self.blocks_for(ahead - tokens) + blocks
        if self.num_running:
            need += limits.watermark_blocks
        return need <= self.free_blocks(at_least=need + self.promised) - self.promised

    def extend(self, request: Request, tokens: int) -> bool:
        """Give a request under way ``tokens`` more prompt tokens, preempting newer requests if blocks are short.

        Returns False when the request itself was the newest and lost its place.
        """
        if self.reservation_blocks is None:
            need = self._growth(request, tokens)
            while need > self.free_blocks(at_least=need + self.promised) - self.promised:
                if not self.preempt_newest(spare=self.batch):
                    return False
                if request.admit_seq < 0:
                    return False
                need = self._growth(request, tokens)
                self.promised = min(self.promised, self.lane.blocks_for_next_step())
            self._grow(request, tokens)
        self.batch.append((request, tokens))
        return True

    def resume_swapped(self, budget: int) -> bool:
        """Bring back at most ``budget`` swapped requests, oldest first, as far as blocks and places allow.

        True when none is left outside. Each takes part in this step, with one token.
        """
        while self.swapped:
            if len(self.resumed) >= budget:
                return False
            request = self.swapped[0]
            need = self.blocks_for(request.swapped_tokens + 1)
            if self.num_running >= self.max_num_seqs or need > self.free_blocks(need + self.promised) - self.promised:
                return False
            self.swapped.popleft()
            tokens, request.swapped_tokens = request.swapped_tokens, 0
            self.host_blocks_used -= self.blocks_for(tokens)
            self._move(tokens)
            request.admit_seq = self.num_admitted
            self.num_admitted += 1
            self._join_running(request)
            self.lane.join(request)
            self.promised = self.lane.blocks_for_next_step()
            request.joined_tick = request.last_token_tick
            self.resumed.append(request)
            self.settle_cache()
        return True

    # -- bookkeeping used by the drivers --------------------------------------------------------------------------

    def use_lane(self, lane: Lane, queries: int) -> None:
        """Before the first event: another kind of batch, of ``queries`` tokens per decoding sequence."""
        self.lane = self._only_lane = lane
        self.lanes = [lane]
        self.queries = queries

    def begin_step(self) -> None:
        """Forget what the last step promised; a policy is about to be asked."""
        self.batch = []
        self.promised = 0
        if self.loads is not None:
            self.loads.one_may_begin = False
        self.preempted_now = False
        self.preempted = []
        self.resumed = []

    def blocks_for(self, tokens: int) -> int:
        """KV blocks of ``tokens`` tokens."""
        return -(-tokens // self.limits.block_size) if tokens > 0 else 0

    def used_blocks(self) -> int:
        """Blocks held by running requests, exactly."""
        if self.reservation_blocks is not None:
            return self.reserved_blocks
        shared = self.prefix_cache.held_blocks if self.prefix_cache is not None else 0
        lane = self._only_lane
        private = lane.blocks() if lane is not None else sum(lane.blocks() for lane in self.lanes)
        return self.prefill_blocks + self.pledged + shared + private

    def free_blocks(self, at_least: int) -> int:
        """Free blocks: a lower bound when that is ``at_least`` already, exact otherwise."""
        if self.reservation_blocks is not None:
            return self.limits.num_blocks - self.reserved_blocks
        fixed = self._num_blocks - self.prefill_blocks - self.pledged
        if self.prefix_cache is not None:
            fixed -= self.prefix_cache.held_blocks
        lane = self._only_lane
        if lane is None:
            bound = fixed - self._lanes_bound()
        else:  # Lane.blocks_bound, written out: this is asked several times per step
            size = lane.block_size
            bound = fixed - (lane.private + lane.num_seqs * (size - 1)) // size
        if bound >= at_least:
            return bound
        for lane in self.lanes:
            fixed -= lane.blocks()
        return fixed

    def unclaimed_blocks(self, at_least: int) -> int:
        """Free blocks that keep no idle prefix; as exact as :meth:`free_blocks`."""
        idle = self.prefix_cache.evictable_blocks if self.prefix_cache is not None else 0
        return self.free_blocks(at_least + idle) - idle

    @property
    def eviction_may_admit(self) -> bool:
        """The head of the queue may fit once its prefix is evicted: a first chunk alone can need fewer blocks than a
        long cached prefix and the chunk behind it."""
        if self.loads is not None and self.loads.one_may_begin:
            return True
        return bool(self.prefix_cache is not None and self.waiting and not self.limits.reserve_full_prompt)

    def note_peak(self) -> None:
        """Update the highest number of blocks in use; exact, but computed only when it may have risen."""
        if self.reservation_blocks is not None:
            bound = self.reserved_blocks
        else:
            bound = self.prefill_blocks + self.pledged + self._lanes_bound()
            if self.prefix_cache is not None:
                bound += self.prefix_cache.held_blocks
        if bound > self.peak_blocks:
            self.peak_blocks = max(self.peak_blocks, self.used_blocks())

    def note_lost(self, under_way: bool, prompts: bool) -> None:
        """The server fails; blocks for the tokens of a step under way, ``prompts`` in it or not, are in use already."""
        growth = 0
        if under_way and self.reservation_blocks is None:
            growth = self.promised if prompts else self.lane.blocks_for_next_step()
        self.peak_blocks = max(self.peak_blocks, self.used_blocks() + growth)

    def _lanes_bound(self) -> int:
        """At least the private blocks of the decoding sequences."""
        lane = self._only_lane
        if lane is not None:  # Lane.blocks_bound, written out
            size = lane.block_size
            return (lane.private + lane.num_seqs * (size - 1)) // size
        return sum(lane.blocks_bound() for lane in self.lanes)

    def complete_prefill(self, request: Request, tokens: int) -> bool:
        """Account for ``tokens`` computed prompt tokens; True when the prompt is complete (a token was produced)."""
        request.computed += tokens
        request.prompt_left -= tokens
        if request.prompt_left:
            return False
        if request.generated + 1 >= request.output_tokens:
            self.note_peak()
        self.lane.prefilling.remove(request)
        if self.reservation_blocks is None:
            self.prefill_blocks -= request.blocks
            request.blocks = 0
        request.generated += 1
        return True

    def finish(self, request: Request) -> None:
        """Give back the place and the blocks of a request that is done and no longer in the lane's sums."""
        if self.limits.hold_finished:
            self.held.append(request)
            return
        self._free(request)

    def release_held(self) -> list[Request]:
        """Static batching: the whole batch is done; free it and return its requests."""
        held, self.held = self.held, []
        for request in held:
            self._free(request)
        return held

    def _claim(self, request: Request) -> int:
        """Blocks of a request's prompt and the reserved share of its output."""
        output = ceil(self.limits.output_reserve * request.output_tokens)
        return self.blocks_for(request.input_tokens + output + self.queries - 1)

    def _claim_fits(self, request: Request) -> bool:
        return self.claimed_blocks + self._claim(request) <= self._num_blocks

    def _free(self, request: Request) -> None:
        self._leave_running(request)
        if self.reservation_blocks is not None:
            self.reserved_blocks -= self.reservation_blocks
        if self.prefix_cache is not None and request.prefix:
            self.prefix_cache.release(request, request.input_tokens + request.output_tokens - 1)
            self.settle_cache()

    def _start(self, request: Request) -> None:
        if request is self.waiting[0]:
            self.waiting.popleft()
        else:
            self.waiting.remove(request)
        request.admit_seq = self.num_admitted
        self.num_admitted += 1
        self._join_running(request)
        if request.scheduled_tick < 0:
            request.scheduled_tick = self.now
        self.lane.prefilling.append(request)

    def _join_running(self, request: Request) -> None:
        self.num_running += 1
        if self.limits.output_reserve:
            self.claimed_blocks += self._claim(request)

    def _leave_running(self, request: Request) -> None:
        self.num_running -= 1
        if self.limits.output_reserve:
            self.claimed_blocks -= self._claim(request)

    def _growth(self, request: Request, tokens: int) -> int:
        """New blocks that ``tokens`` more prompt tokens need (before identities are given to complete segments)."""
        return self.blocks_for(request.computed + tokens - request.shared) - request.blocks

    def _grow(self, request: Request, tokens: int) -> None:
        cache = self.prefix_cache
        if cache is not None and request.prefix:
            request.shared += cache.register(request, request.computed + tokens)
        blocks = -(-(request.computed + tokens - request.shared) // self._block_size)
        self.prefill_blocks += blocks - request.blocks
        request.blocks = blocks
        if self.has_idle:
            self.settle_cache()

    def settle_cache(self) -> None:
        """Evict idle prefixes whose blocks are in use by now. Called wherever usage may have peaked since the last call:
        the blocks of a decode span only grow, so its end decides."""
        cache, lane = self.prefix_cache, self._only_lane
        if cache is None:
            return
        if lane is None or self.reservation_blocks is not None:
            used = self.used_blocks()
        else:  # used_blocks(), written out: this is asked at every step and for every request
            used = self.prefill_blocks + self.pledged + cache.held_blocks + lane.blocks()
        free = self.limits.num_blocks - used - self.promised
        if cache.evictable_blocks > free:
            cache.shrink(free)

    def settle_ahead(self, steps: int | None) -> None:
        """Evict what ``steps`` decode steps, the one in flight included, certainly need; None: a step with prompts, whose
        decode rows have what was promised. Whoever looks at the cache then sees the same however far the driver jumped."""
        if self.prefix_cache is None:
            return
        lane = self.lane
        growth = self.promised if steps is None else lane.blocks_after(steps) - lane.blocks()
        used = self.used_blocks() + growth
        self.prefix_cache.shrink(self.limits.num_blocks - used)
        if self.loads is not None:
            self.peak_blocks = max(self.peak_blocks, used)

    def preempt_newest(self, spare: list[tuple[Request, int]] | None = None) -> bool:
        """Preempt the request admitted last, never one that already has work in this step.

        In a pipeline its batch may be in flight; what that pass computes for it is lost, as in vLLM.
        """
        last = self.last_in_line(spare)
        if last is None or self.num_running == 1:
            return False
        self.note_peak()
        victim, lane = last
        self.preempted_now = True
        self.num_preemptions += 1
        victim.num_preemptions += 1
        if victim.prompt_left:
            self._drop_prefill(victim, lane)
        else:
            self._drop_decode(victim, lane)
        return True

    def last_in_line(self, spare: list[tuple[Request, int]] | None = None) -> tuple[Request, Lane] | None:
        """Who would be preempted, and the batch it is in; ``spare``: work of this step."""
        busy = {id(request) for request, _ in spare} if spare else set()
        candidates = [(r, lane) for lane in self.lanes for r in lane.prefilling if id(r) not in busy]
        for lane in self.lanes:
            newest = lane.newest() if self.line is None else lane.last(self.line)
            if newest is not None:
                candidates.append((newest, lane))
        line = self.line or (lambda request: (request.admit_seq,))
        return max(candidates, key=lambda entry: line(entry[0]), default=None)

    def pledge(self) -> None:
        """The batch just scheduled takes off: its decode rows keep the blocks set aside for them until it lands."""
        lane = self.lane
        if self.reservation_blocks is None:
            lane.pledged = lane.blocks_for_next_step()
            self.pledged += lane.pledged
        self.promised = 0

    def redeem(self) -> None:
        """The batch has landed; its blocks are in the lane's sums from now on."""
        self.pledged -= self.lane.pledged
        self.lane.pledged = 0

    def _drop_prefill(self, victim: Request, lane: Lane) -> None:
        lane.prefilling.remove(victim)
        lane.flying = [entry for entry in lane.flying if entry[0] is not victim]
        self.prefill_blocks -= victim.blocks
        self._requeue(victim, victim.input_tokens + victim.generated)

    def _drop_decode(self, victim: Request, lane: Lane) -> None:
        length = lane.length(victim)
        victim.generated = length - victim.input_tokens
        victim.last_token_tick = lane.last_token_tick(victim)
        if lane.pledged and lane.needs_block(victim):
            lane.pledged -= 1
            self.pledged -= 1
        lane.remove(victim)
        self.preempted.append((victim, lane))
        blocks = self.blocks_for(length - 1)
        limits = self.limits
        if limits.swap and not victim.shared and self.host_blocks_used + blocks <= limits.host_blocks:
            self.host_blocks_used += blocks
            victim.swapped_tokens = length - 1
            self._move(length - 1)
            victim.admit_seq = -1
            self._leave_running(victim)
            self.swapped.append(victim)
            return
        self._requeue(victim, length)

    def _requeue(self, victim: Request, length: int) -> None:
        if self.prefix_cache is not None and victim.prefix:
            self.prefix_cache.release(victim)
        victim.blocks = 0
        victim.shared = 0
        victim.computed = 0
        victim.prompt_left = length
        victim.loaded = False
        victim.load_number = 0
        victim.admit_seq = -1
        self._leave_running(victim)
        self.waiting.appendleft(victim)

    def _move(self, tokens: int) -> None:
        self.swap_tokens += tokens
        self.swapped_tokens_total += tokens


def check_fits(limits: CoreLimits) -> None:
    """Refuse limits under which a legal request could never run."""
    if limits.num_blocks * limits.block_size < limits.max_model_len:
        raise UserError(
            f"max_model_len {limits.max_model_len} needs {-(-limits.max_model_len // limits.block_size)} KV blocks; "
            f"{limits.num_blocks} fit. Use --max-model-len {limits.num_blocks * limits.block_size} or less"
        )
