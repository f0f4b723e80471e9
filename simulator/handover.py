"""Engine cores of two pools: one computes prompts and keeps their KV until it is sent, the other goes on with it.

Blocks are held on both sides while KV is on its way: the receiver sets them aside before a transfer begins, the sender
frees them when it has ended. A receiver that is full therefore keeps the sender's blocks, and that stops its prompts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from simulator.core import EngineCore
from simulator.request import Request


class SendingCore(EngineCore):
    """Of a prefill replica. Its requests end with their first token; their KV stays until :meth:`release_sent`."""

    def finish(self, request: Request) -> None:
        """The place is free, the blocks are not."""
        self._leave_running(request)
        request.blocks = self.blocks_for(request.input_tokens - request.shared)
        self.prefill_blocks += request.blocks
        self.in_transfer += 1

    def release_sent(self, request: Request) -> None:
        """The KV of a finished prompt is needed here no longer."""
        self.note_peak()
        self.in_transfer -= 1
        self.prefill_blocks -= request.blocks
        request.blocks = 0
        if self.prefix_cache is not None and request.prefix:
            self.prefix_cache.release(request, request.input_tokens)
            self.settle_cache()


class ReceivingCore(EngineCore):
    """Of a decode replica. Requests come with KV that is elsewhere: expected, then under way, then ready to decode."""

    on_receive: Callable[[Request], None]
    """Called when blocks are set aside: the transfer may begin. Set before the first event."""

    def __init__(self, *args: object) -> None:
        super().__init__(*args)  # type: ignore[arg-type]
        self.expected: deque[Request] = deque()
        self.ready: deque[Request] = deque()
        self.gone: deque[tuple[int, Request]] = deque()
        """(tick, request) of those that will not come."""

    def expect(self, request: Request) -> None:
        """A prompt is complete elsewhere; ``arrival_tick`` says when this engine heard of it."""
        self.expected.append(request)
        self.inbound += 1

    def deliver(self, request: Request, tick: int) -> None:
        """The KV of a request is here; it decodes from the next step on that the scheduler has not begun to prepare."""
        request.arrival_tick = tick
        self.in_transfer -= 1
        self.ready.append(request)

    def forget(self, request: Request, tick: int) -> None:
        """The KV of a request that is expected or under way will not come; the scheduler frees its place and blocks when it
        hears of that."""
        self.gone.append((tick, request))

    def _drop_gone(self) -> None:
        while self.gone and self.gone[0][0] <= self.admissible_until:
            request = self.gone.popleft()[1]
            self.inbound -= 1
            if request in self.expected:
                self.expected.remove(request)
                continue
            self.note_peak()
            self.in_transfer -= 1
            self.received -= 1
            self.prefill_blocks -= request.blocks
            request.blocks = 0
            self._leave_running(request)

    @property
    def unseen(self) -> bool:
        """As in any engine; what came from elsewhere counts."""
        until = self.admissible_until
        heads = (queue[0] for queue in (self.expected, self.ready) if queue)
        late = any(request.arrival_tick > until for request in heads) or (self.gone and self.gone[0][0] > until)
        return super().unseen or bool(late)

    def resume_swapped(self, budget: int) -> bool:
        """Also bring in requests whose KV is here, first, since they hold blocks; and set blocks aside for those that have
        yet to send theirs, last."""
        if self.gone:
            self._drop_gone()
        ready, until = self.ready, self.admissible_until
        while ready and ready[0].arrival_tick <= until:
            if len(self.resumed) >= budget:
                return False
            self._join(ready.popleft())
        if not super().resume_swapped(budget):
            return False
        if not self.waiting:
            self._receive()
        return True

    def _join(self, request: Request) -> None:
        self.note_peak()
        self.inbound -= 1
        self.received -= 1
        self.prefill_blocks -= request.blocks
        request.blocks = 0
        self.lane.join(request)
        self.promised = self.lane.blocks_for_next_step()
        request.joined_tick = request.last_token_tick
        self.resumed.append(request)

    def _receive(self) -> None:
        """First come first served, while there are places and blocks for the prompt and the first step after it."""
        expected, until = self.expected, self.admissible_until
        while expected and expected[0].arrival_tick <= until and self.num_running < self.max_num_seqs:
            request = expected[0]
            if self.limits.output_reserve and self.num_running and not self._claim_fits(request):
                return
            blocks = self.blocks_for(request.input_tokens + self.queries)
            need = blocks + (self.limits.watermark_blocks if self.num_running else 0)
            if need > self.free_blocks(need + self.promised) - self.promised:
                return
            expected.popleft()
            request.blocks = blocks
            self.prefill_blocks += blocks
            self.in_transfer += 1
            request.admit_seq = self.num_admitted
            self.num_admitted += 1
            self._join_running(request)
            self.received += 1
            self.on_receive(request)
