"""Any batching policy in an order of service: it finds the queue sorted, and room made for whom others must give way."""

from __future__ import annotations

from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from simulator.batching import BatchingPolicy
from simulator.core import EngineCore
from simulator.handover import ReceivingCore
from simulator.replica import FOREVER
from simulator.request import Request
from simulator.scheduling.orders import Key, Order

if TYPE_CHECKING:
    Queue = deque[Request]
else:
    Queue = deque


class OrderedQueue(Queue):
    """Requests in order of service, wherever they are put in."""

    def __init__(self, requests: Iterable[Request], key: Callable[[Request], Key]) -> None:
        super().__init__(sorted(requests, key=key))
        self.key = key
        self.fresh: list[Request] = []
        """Those that were put in since :meth:`take_unseen`."""

    def append(self, request: Request) -> None:
        """Put in its place."""
        super().insert(bisect_right(self, self.key(request), key=self.key), request)
        self.fresh.append(request)

    def appendleft(self, request: Request) -> None:
        """Put in its place."""
        self.append(request)

    def insert(self, index: int, request: Request) -> None:
        """Put in its place, whatever the index."""
        self.append(request)

    def sort(self) -> None:
        """Keys have changed."""
        requests = sorted(self, key=self.key)
        self.clear()
        self.extend(requests)

    def take_unseen(self, until: int) -> list[Request]:
        """Remove and return those that the scheduler does not know of yet."""
        if not self.fresh:
            return []
        unseen = [request for request in self.fresh if request.arrival_tick > until and request in self]
        for request in unseen:
            self.remove(request)
        self.fresh = []
        return unseen

    def take_behind(self, request: Request) -> list[Request]:
        """Remove and return those that come after ``request``."""
        place = bisect_right(self, self.key(request), key=self.key)
        return [self.pop() for _ in range(len(self) - place)]


class Ordered:
    """A batching policy whose requests are served in an order of their own.

    Waiting and swapped requests make one queue. The policy sees those of both that come before the first it could not
    serve; who waits behind a request stays behind it, as in the engine's own queue.
    """

    def __init__(self, policy: BatchingPolicy, order: Order) -> None:
        self._policy, self._order = policy, order
        self.steady = policy.steady
        self._extra = 0
        """Steps of prompts alone so far: lanes count those with decode rows."""

    def plan(self, core: EngineCore) -> bool:
        """What the policy decides on the queue in order."""
        waiting, swapped = self._queues(core)
        order = self._order
        step = self._extra + sum(lane.it for lane in core.lanes)
        unseen = waiting.take_unseen(core.admissible_until)
        if order.look(core, step):
            for queue in (waiting, swapped, getattr(core, "expected", None)):
                if isinstance(queue, OrderedQueue):
                    queue.sort()
        if order.preempts:
            self._make_way(core)
        pushed, core.preempted_now = core.preempted_now, False
        hidden_waiting, hidden_swapped = _hide(waiting, swapped)
        decode = self._policy.plan(core)
        core.preempted_now = core.preempted_now or pushed
        for request in hidden_swapped:
            swapped.append(request)
        for request in hidden_waiting:
            waiting.append(request)
        order.begun(core)
        for request in unseen:
            waiting.append(request)
        if core.batch and not (decode and core.lane.num_seqs):
            self._extra += 1
        core.decision_steps = self._steps(core, step)
        self.steady = self._policy.steady and not unseen
        return decode

    def _queues(self, core: EngineCore) -> tuple[OrderedQueue, OrderedQueue]:
        """The engine's queues, in order from the first decision on."""
        order = self._order
        if core.line is None:
            core.line = order.key if order.gives_way else _by_admission
            core.waiting = OrderedQueue(core.waiting, order.key)
            core.waiting.fresh = list(core.waiting)
            core.swapped = OrderedQueue(core.swapped, order.key)
            if isinstance(core, ReceivingCore):
                core.expected = OrderedQueue(core.expected, order.key)
        assert isinstance(core.waiting, OrderedQueue) and isinstance(core.swapped, OrderedQueue)
        return core.waiting, core.swapped

    def _steps(self, core: EngineCore, step: int) -> int:
        """Steps for which the decision stands. Full places keep everybody waiting, whatever the order, unless some give way;
        and a request for which there is room but that its engine does not start may have none later."""
        order = self._order
        if not order.preempts:
            return order.steps_left(step) if core.num_running < core.max_num_seqs else FOREVER
        head = self._head(core)
        return order.steps_left(step) if head is None or not _fits(core, head) else 1

    def _head(self, core: EngineCore) -> Request | None:
        """The first of all that do not run."""
        heads = [queue[0] for queue in (core.waiting, core.swapped) if queue]
        return min(heads, key=self._order.key, default=None)

    def _make_way(self, core: EngineCore) -> None:
        """Preempt requests of lower classes until the first in the queue has a place and blocks."""
        rank = self._order.rank
        while core.num_running > 1:
            head = self._head(core)
            if head is None or _fits(core, head):
                return
            last = core.last_in_line()
            if last is None or rank(last[0]) <= rank(head) or not core.preempt_newest():
                return


def _by_admission(request: Request) -> Key:
    return (request.admit_seq,)


def _fits(core: EngineCore, request: Request) -> bool:
    """A place and blocks are free for a waiting or swapped request beside the next token of all that run."""
    if core.num_running >= core.max_num_seqs:
        return False
    core.settle_cache()
    before, core.promised = core.promised, core.lane.blocks_for_next_step()
    if request.swapped_tokens:
        need = core.blocks_for(request.swapped_tokens + 1)
        fits = need <= core.free_blocks(need + core.promised) - core.promised
    else:
        skipped = tokens = idle = 0
        if core.prefix_cache is not None and request.prefix:
            _, skipped, tokens, idle = core.prefix_cache.match(request)
        fits = core.has_room(request, skipped, tokens, idle)
    core.promised = before
    return fits


def _hide(waiting: OrderedQueue, swapped: OrderedQueue) -> tuple[list[Request], list[Request]]:
    """Take out swapped requests behind the first that waits, and those that wait behind the first of these."""
    if not (waiting and swapped):
        return [], []
    hidden_swapped = swapped.take_behind(waiting[0])
    hidden_waiting = waiting.take_behind(min(hidden_swapped, key=waiting.key)) if hidden_swapped else []
    return hidden_waiting, hidden_swapped
