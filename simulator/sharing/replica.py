"""A replica whose devices run prompts and tokens at the same time, each on a share: two lanes over one KV cache.

While only tokens are produced they go in spans, as in any replica. While both run, every step is an event: one that begins or
ends changes the pace of the other one, and what is left of that goes on at the new pace, in whole ticks.
"""

from __future__ import annotations

import simpy

from simulator.clock import Phase
from simulator.replica import Replica, step_shape
from simulator.request import Request
from simulator.sharing.counters import SplitCounters
from simulator.sharing.lanes import count_prompts, decode_shape, produced, take_in
from simulator.sharing.phases import PhaseCosts, SplitPhysics, Work, other
from simulator.sharing.prompt_lane import plan_prompts
from simulator.sharing.share_policy import SharePolicy

PROMPT_RANK = 1 << 20
"""Rank of the end of a step of prompts, behind all ends of decode steps of an instant."""


class SplitReplica(Replica):
    """Drives one engine core with a step of prompts and a decode step in flight at once."""

    def divide(self, physics: SplitPhysics) -> None:
        """How the devices are divided; call before the first event."""
        self._phases = PhaseCosts(physics, self.costs)
        self._shares = SharePolicy(self._phases)
        self._order = physics.split.order
        self._prompt: Work | None = None
        self._token: Work | None = None
        """The decode step in flight, unless it is a span of tokens alone."""
        self._joining: list[Request] = []
        """Prompts that are complete and decode from the next step on; their blocks count as prompts'."""
        self._at = 0
        self._start_at = -1
        self._prompt_end: simpy.Event | None = None
        self.record.split = SplitCounters()

    # -- the outside world ----------------------------------------------------------------------------------------

    def settle(self, tick: int) -> None:
        """Ends of steps are events of their own."""

    def settle_ahead(self, tick: int) -> None:
        """Bring the cache to where it is at ``tick``; blocks of a decode step beside prompts are pledged already."""
        if self._token is None and self._prompt is None:
            super().settle_ahead(tick)
        else:
            self.core.settle_ahead(None)

    def notify(self, tick: int, alone: bool) -> None:
        """Requests were enqueued at ``tick``; prompts need not wait for the end of a decode step."""
        if self._prompt is None:
            self._start_later(tick)

    # -- events ---------------------------------------------------------------------------------------------------

    def _start_later(self, tick: int) -> None:
        if self._start_at != tick:
            self._start_at = tick
            self.clock.at(tick, Phase.START, self.index, self._on_start)

    def _on_start(self, event: simpy.Event) -> None:
        """Whatever is idle and has work begins; paces follow."""
        now = int(self.clock.now)
        self._start_at = -1
        self._settle_span(now)
        self._advance(now)
        core = self.core
        core.now = core.admissible_until = now
        preemptions, ready, room = core.num_preemptions, False, True
        if not self._steps:
            ready, room = self._prepare_tokens(now)
        if self._prompt is None:
            room = self._begin_prompts(now, room) and room
        if ready:
            self._begin_tokens(now, self._max_span if room else 1)
        self._set_paces(now)
        if core.num_preemptions > preemptions and not self._steps and self._prompt is None:
            self._start_later(now)  # blocks that were given up let others begin

    def _on_end(self, event: simpy.Event) -> None:
        """A decode step, or a span of them, has ended."""
        if event is not self._wake:
            return
        self._wake = None
        now = int(self.clock.now)
        if self._token is not None:
            self._advance(now)
            self._joules, self._line_j = self._token.joules, None
            self._token = None
            self.core.redeem()
        self._commit()
        self._start_later(now)

    def _on_prompt_end(self, event: simpy.Event) -> None:
        if event is not self._prompt_end:
            return
        now = int(self.clock.now)
        self._advance(now)
        work, self._prompt, self._prompt_end = self._prompt, None, None
        assert work is not None
        lane, counters = self.core.lane, self.record.counters
        counters.steps += 1
        counters.joules += work.joules
        self._prompts.add(0, 0, 0, 0, work.joules)
        batch, lane.flying = lane.flying, []
        self._send(0, 1, now, now, batch)
        going, done = produced(self.core, self.record.gaps, batch, now, self._sent)
        self._joining += going
        for request in done:
            self._leave(request, now)
        self.core.settle_cache()
        self._ended = max(self._ended, now)
        if now >= self.record.timeline.next_tick:
            self._sample()
        self._start_later(now)

    # -- tokens ---------------------------------------------------------------------------------------------------

    def _settle_span(self, now: int) -> None:
        """Prompts may begin in the middle of a span: end it with the step under way, which from now on is single."""
        if not self._steps or self._token is not None:
            return
        done, first, slope = self._done_by(now), self._first, self._slope
        if done:
            begin = self._begin
            self._steps = done
            self._end = begin + done * first + slope * (done * (done - 1) // 2)
            self._commit()
            self._begin, self._first = self._end, first + slope * done
        self._steps, self._slope = 1, 0
        self._end = self._begin + self._first
        lane = self.core.lane
        work = self._phases.start(decode_shape(lane), False)
        work.begin = self._begin
        self._phases.set_pace(work, 1.0, self._first)
        work.left = self._end - now
        line = self._line_j
        assert line is not None
        joules = line[0] + line[1] * lane.context + (line[2] * lane.window_context if lane.window is not None else 0.0)
        work.joules = joules * (now - self._begin) / self._first
        self._token, self._at, self._wake = work, now, None
        self.core.pledge()

    def _prepare_tokens(self, now: int) -> tuple[bool, bool]:
        """Sequences join, blocks are set aside: (something decodes, nobody was preempted)."""
        core, lane = self.core, self.core.lane
        take_in(core, self._joining, self._stragglers, now)
        self._joining = []
        core.begin_step()
        room = core.make_room_for_decode()
        self._note_leaves(now)
        if not lane.num_seqs:
            return False, room
        core.pledge()
        return True, room

    def _begin_tokens(self, now: int, horizon: int) -> None:
        """A span of decode steps, or one of them beside prompts."""
        core, lane = self.core, self.core.lane
        if not lane.num_seqs:
            core.redeem()
            return
        self._begin, self._decode, self._batch = now, True, []
        if self._prompt is None:
            core.redeem()
            core.begin_step()
            self._decode_span(horizon)
            self._wake_at_end()
            return
        self._steps, self._slope = 1, 0
        self._token = self._phases.start(decode_shape(lane), False)
        self._token.begin = now

    def _note_leaves(self, regular: int) -> None:
        """Sequences that were preempted; ``regular``: when the others had their last token."""
        for request, _ in self.core.preempted:
            self._stragglers.leave(request.last_token_tick, regular)
        self._count_moves()

    # -- prompts --------------------------------------------------------------------------------------------------

    def _begin_prompts(self, now: int, room: bool) -> bool:
        """Start a step of prompts if there are any; False when somebody was preempted for them."""
        core, lane = self.core, self.core.lane
        if not core.waiting and not lane.prefilling:
            return True
        core.begin_step()
        plan_prompts(core, room, self._order)
        self._note_leaves(self._begin if self._token is not None else now)
        core.promised = 0
        kept = not core.preempted_now
        if not core.batch:
            return kept
        lane.flying = core.batch
        core.settle_cache()
        shape = step_shape(core, False, self.costs.window)
        self._prompt = self._phases.start(shape, True)
        self._prompt.begin = now
        counters = self.record.counters
        count_prompts(counters, shape)
        counters.peak_running = max(counters.peak_running, core.num_running - core.received)
        return kept

    # -- paces ----------------------------------------------------------------------------------------------------

    def _advance(self, now: int) -> None:
        """Time passes at the paces in force."""
        ticks, self._at = now - self._at, now
        works = [work for work in (self._prompt, self._token) if work is not None]
        if not ticks or not works:
            return
        self._phases.spend(works, ticks)
        for work in works:
            work.left = max(0, work.left - ticks)
        split, counters = self.record.split, self.record.counters
        assert split is not None
        if self._prompt is None:
            return
        if self._token is None:
            split.prompt_ticks += ticks
            counters.busy_ticks += ticks
            self._prompts.add(0, 0, 0, ticks, 0.0)
        else:
            split.both_ticks += ticks
            split.share_ticks += ticks * self._shares.share
            self._prompts.add(0, 0, 0, ticks // 2, 0.0)

    def _set_paces(self, now: int) -> None:
        """Every step in flight gets the pace that goes with what runs beside it, and ends accordingly."""
        prompt, token, phases = self._prompt, self._token, self._phases
        self._at = now
        if prompt is not None and token is not None:
            core = self.core
            usage = core.used_blocks() / core.limits.num_blocks
            share = self._shares.choose(prompt, token, usage)
            assert self.record.split is not None
            self.record.split.changes = self._shares.changes
            slow, slower = phases.beside(prompt, token, share)
            phases.set_pace(prompt, share, slow)
            phases.set_pace(token, other(share), slower)
        else:
            for work in (prompt, token):
                if work is not None:
                    phases.set_pace(work, 1.0, phases.alone(work, 1.0)[0])
        if prompt is not None:
            end = now + prompt.left
            self._prompt_end = self.clock.at(end, Phase.FINISH, PROMPT_RANK + self.index, self._on_prompt_end)
        if token is not None:
            self._end = now + token.left
            self._first = self._end - self._begin
            self._wake_at_end()
