"""Two instances of an engine that hold each other's KV (AcceLLM, arXiv:2411.05555): one core, an engine and a lane each.

KV of a prompt goes to the other instance while it is computed, that of every token as it is made. So either can go on with any
sequence, and roles change at the end of a step: while there are prompts, one instance computes them and the other decodes for
both; without, both decode, with as many sequences each. Every step is an event, as the instances pass sequences on.
"""

from __future__ import annotations

import simpy

from simulator.clock import Phase
from simulator.phases import PromptShares
from simulator.pipeline import PipelineReplica
from simulator.ports import KvPath
from simulator.recorder import ReplicaRecord
from simulator.replica import step_shape
from simulator.request import Request
from simulator.sharing.instance import INSTANCES, Instance, copy_ticks, exposed_ticks
from simulator.sharing.lanes import count_prompts, decode_shape, hold, produced, take_in
from simulator.sharing.phases import decode_cost
from simulator.sharing.prompt_lane import plan_prompts


class PairReplica(PipelineReplica):
    """Drives the core of a pair, whose blocks are those of one instance: both hold everything.

    As in a pipeline several batches are under way at once and every step is an event; here each has an instance of its own.
    """

    def pair(self, path: KvPath) -> None:
        """How KV gets from one instance to the other; call before the first event."""
        self._path = path
        self._number = 0
        self.record.prompts = PromptShares(self.costs)
        self.instances = [Instance(self.record), Instance(ReplicaRecord(prompts=PromptShares(self.costs)))]

    @property
    def records(self) -> list[ReplicaRecord]:
        """Of both instances."""
        return [instance.record for instance in self.instances]

    def close(self) -> None:
        """The run is over: the last step of either is its last sample."""
        for number in range(INSTANCES):
            self._use(number)
            super().close()
        self._use(0)

    def _use(self, number: int) -> Instance:
        """What follows is about this instance."""
        instance, self._number = self.instances[number], number
        self.core.lane, self.record = self.core.lanes[number], instance.record
        return instance

    def _done(self, request: Request, now: int) -> None:
        """The instance that finished it is the one that the table of requests names."""
        self.gave(request)
        request.last_token_tick = now
        self._on_finish(request, self._sent, INSTANCES * self.index + self._number)

    # -- events ---------------------------------------------------------------------------------------------------

    def _on_start(self, event: simpy.Event) -> None:
        """Idle instances take steps, the one with fewer sequences first: prompts are for it."""
        now = int(self.clock.now)
        self._start_at = -1
        self.core.now = self.core.admissible_until = now
        launched = True
        while launched:
            launched, before = False, self.core.num_preemptions
            idle = [number for number in range(INSTANCES) if not self.instances[number].busy]
            idle.sort(key=lambda n: self.core.lanes[n].num_seqs + len(self.instances[n].joining))
            for number in idle:
                launched = self._try(number, now) or launched
            if self.core.num_preemptions > before and not any(each.busy for each in self.instances):
                launched = True  # blocks that were given up let others begin

    def _try(self, number: int, now: int) -> bool:
        """A step of this instance, if it has anything to do: prompts before tokens."""
        core, instance = self.core, self._use(number)
        prompting = any(each.busy and each.prompts for each in self.instances)
        if not prompting and self._begin_prompts(number, now):
            return True
        take_in(core, instance.joining, instance.stragglers, now)
        instance.joining = []
        if not prompting:
            self._balance(number, now)
        core.begin_step()
        core.make_room_for_decode()
        self._note_gone(now)
        lane = core.lane
        if not lane.num_seqs:
            core.promised = 0
            return False
        core.pledge()
        core.settle_cache()
        shape = decode_shape(lane)
        ticks, joules = decode_cost(self.costs, shape)
        copied = copy_ticks(self._path, lane.num_seqs)
        self._fly(number, now, max(ticks, copied), joules + self.costs.wait_j * max(0, copied - ticks), False)
        return True

    def _fly(self, number: int, now: int, ticks: int, joules: float, prompts: bool) -> None:
        instance = self.instances[number]
        instance.busy, instance.prompts, instance.begin, instance.joules = True, prompts, now, joules
        instance.record.counters.busy_ticks += ticks
        counters = instance.record.counters
        counters.peak_running = max(counters.peak_running, self.core.num_running)
        rank = self.index * INSTANCES + number
        self.clock.at(now + ticks, Phase.FINISH, rank, lambda event: self._land(number))

    def _land(self, number: int) -> None:
        """A step has ended: tokens are out, finished requests leave."""
        now = int(self.clock.now)
        instance = self._use(number)
        instance.busy = False
        counters = instance.record.counters
        counters.steps += 1
        counters.joules += instance.joules
        if instance.prompts:
            self._land_prompts(number, now)
        else:
            self._land_tokens(instance, now)
        self.core.settle_cache()
        self._pop_finished(now)
        self._start_later(now)

    # -- tokens ---------------------------------------------------------------------------------------------------

    def _land_tokens(self, instance: Instance, now: int) -> None:
        core, lane, counters = self.core, self.core.lane, instance.record.counters
        core.redeem()
        producing = len(lane.heap)
        self._send(producing, 1, now, now)
        if not producing:
            return
        counters.decode_tokens += producing
        counters.decode_context += lane.context
        counters.decode_window += lane.window_context
        regular = producing - instance.stragglers.catch_up(instance.record.gaps, now)
        if regular:
            instance.record.gaps.add(regular, 1, now - instance.begin, 0)
        lane.advance(1)
        lane.last_decode_tick = now

    def _balance(self, number: int, now: int) -> None:
        """Without prompts: half of what this instance has more than the other goes over, of all lengths."""
        lane, there = self.core.lanes[number], 1 - number
        surplus = (lane.num_seqs - self.core.lanes[there].num_seqs - len(self.instances[there].joining)) // 2
        if surplus > 0:
            members = sorted((entry[2] for entry in lane.heap), key=lambda r: (-lane.length(r), r.admit_seq))
            self._pass_on(number, members[1::2][:surplus], now)

    def _pass_on(self, number: int, requests: list[Request], now: int) -> None:
        """Sequences of this instance, idle now, go on in the other one."""
        core, lane, instance = self.core, self.core.lanes[number], self.instances[number]
        for request in requests:
            request.last_token_tick = lane.last_token_tick(request)
            instance.stragglers.leave(request.last_token_tick, now)
            length = lane.remove(request)
            request.generated = length - request.input_tokens
            hold(core, request)
        other = self.instances[1 - number]
        other.joining += requests
        other.moved += len(requests)
        assert core.prefill_blocks >= 0

    def _note_gone(self, now: int) -> None:
        core = self.core
        for request, lane in core.preempted:
            instance = self.instances[core.lanes.index(lane)]
            instance.stragglers.leave(request.last_token_tick, instance.begin if instance.busy else now)
        self._count_moves()

    def _count_moves(self) -> None:
        """Of the pair, in the record of its first instance."""
        first = self.instances[0].record.counters
        first.preemptions = self.core.num_preemptions
        first.peak_running = max(first.peak_running, self.core.num_running)

    # -- prompts --------------------------------------------------------------------------------------------------

    def _begin_prompts(self, number: int, now: int) -> bool:
        """A step of prompts, if there are any that fit; the sequences of this instance then go on in the other one."""
        core = self.core
        lane, other = core.lanes[number], core.lanes[1 - number]
        if other.prefilling:  # what it has begun is here as well
            lane.prefilling = sorted(lane.prefilling + other.prefilling, key=lambda request: request.admit_seq)
            other.prefilling = []
        if not core.waiting and not lane.prefilling:
            return False
        core.begin_step()
        plan_prompts(core, True, "fcfs")
        self._note_gone(now)
        core.promised = 0
        if not core.batch:
            return False
        lane.flying = core.batch
        instance = self.instances[number]
        shape = step_shape(core, False, self.costs.window)
        joining, instance.joining = instance.joining, []
        self.instances[1 - number].joining += joining
        self._pass_on(number, [entry[2] for entry in sorted(lane.heap, key=lambda entry: entry[1])], now)
        core.settle_cache()
        ticks, joules = self.costs.step(shape)
        counters = instance.record.counters
        count_prompts(counters, shape)
        instance.record.prompts.add(0, 0, 0, ticks, joules)
        self._fly(number, now, ticks, joules, True)
        return True

    def _land_prompts(self, number: int, now: int) -> None:
        """Complete prompts decode in the other instance when there are more, once the rest of their KV is there."""
        core, lane, instance = self.core, self.core.lane, self.instances[number]
        batch, lane.flying = lane.flying, []
        self._send(0, 1, now, now, batch)
        ready, done = produced(core, instance.record.gaps, batch, now, self._sent)
        for request in done:
            self._leave(request, now)
        if not (core.waiting or lane.prefilling):
            instance.joining += ready
            return
        there = 1 - number
        self.instances[there].moved += len(ready)
        tick = now + exposed_ticks(self._path, sum(tokens for _, tokens in batch), len(ready), now - instance.begin)
        if tick == now:
            self.instances[there].joining += ready
        elif ready:
            core.in_transfer += len(ready)
            rank = self.index * INSTANCES + number
            self.clock.at(tick, Phase.FINISH, (1 << 30) + rank, lambda event: self._arrive(there, ready, tick))

    def _arrive(self, there: int, requests: list[Request], tick: int) -> None:
        self.core.in_transfer -= len(requests)
        self.instances[there].joining += requests
        self._start_later(tick)
