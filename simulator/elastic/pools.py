"""The event loop of prefill and decode pools whose replicas come and go.

What a failure costs depends on where a request is. Prompts in a failed prefill replica, and prompts whose KV it still had to
send, are computed again elsewhere. Requests that a decode replica had KV of are sent again from the beginning; those whose KV
is still with their prefill replica go to another decode replica.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import cast

from simulator import clock
from simulator.clock import Phase, to_ticks
from simulator.elastic.controller import Controller
from simulator.elastic.fleet import CONTROL, Fleet
from simulator.elastic.history import ElasticHistory
from simulator.elastic.policies import parse_policy
from simulator.elastic.run import Losses, check_setup, inherit
from simulator.elastic.settings import Elasticity
from simulator.handover import ReceivingCore, SendingCore
from simulator.ports import KvPath
from simulator.replica import Replica
from simulator.request import Request
from simulator.routing import RoutingPolicy
from simulator.run import Progress, ReplicaSetup
from simulator.run_disaggregated import DisaggregatedRecord, DisaggregatedSimulation, Handover
from workloads.trace import Trace


@dataclass(slots=True, kw_only=True)
class ElasticPoolsRecord(DisaggregatedRecord):
    """A run of two pools whose replicas came and went."""

    histories: tuple[ElasticHistory, ElasticHistory]
    """Of the prefill and of the decode pool; places count from 0 in each."""


class ElasticPools(DisaggregatedSimulation):
    """Builds and runs one event loop of two pools with a controller."""

    def __init__(
        self,
        trace: Trace,
        setups: tuple[ReplicaSetup, ReplicaSetup],
        counts: tuple[int, int],
        path: KvPath,
        routers: tuple[RoutingPolicy, RoutingPolicy],
        elasticity: Elasticity,
        *,
        seed: int = 0,
        exact_steps: bool = False,
        progress: Progress | None = None,
    ) -> None:
        elasticity.check_pools(*counts)
        for setup in setups:
            check_setup(setup, elasticity)
        super().__init__(trace, setups, counts, path, routers, exact_steps=exact_steps, progress=progress)
        self._setups, self._exact, self._elasticity = setups, exact_steps, elasticity
        self._heirs: dict[int, Request] = {}
        """Row -> the request as the decode pool has it, while its KV is expected or under way."""
        self._unplaced: dict[int, tuple[Request, int]] = {}
        """Row -> complete prompt and its prefill replica, while no decode replica serves."""
        self._losses = Losses(elasticity.mtbf_s)
        begin = to_ticks(float(trace.arrival_s.min()))
        for driver in self._everyone():
            driver.sole = False
        senders, receivers = counts
        self.prefill = Fleet(self.clock, self, self.replicas, elasticity, seed=seed)
        self.decode = Fleet(self.clock, self, self.receivers, elasticity, first=senders, seed=seed)
        self.prefill.begin(elasticity.initial_prefill(receivers, senders), begin)
        self.decode.begin(elasticity.initial(receivers), begin)
        self._control_by(elasticity, begin)

    def _control_by(self, elasticity: Elasticity, begin: int) -> None:
        self._decode_controller = self._prefill_controller = None
        if elasticity.policy is None:
            return
        self._decode_controller = Controller(self.decode, parse_policy(elasticity.policy)(), elasticity, begin)
        self.decode.autoscaled = self._decode_controller.count
        if elasticity.pd_ratio is not None or elasticity.prefill_policy is not None:
            policy = parse_policy(elasticity.prefill_policy or elasticity.policy)()
            self._prefill_controller = Controller(self.prefill, policy, replace(elasticity, min_replicas=1), begin)
            self.prefill.autoscaled = self._prefill_controller.count
        self.clock.at(begin + to_ticks(elasticity.interval_s), Phase.EXTERNAL, CONTROL, self._control)

    def _control(self, event: object) -> None:
        if self.over():
            return
        tick, elasticity = int(self.clock.now), self._elasticity
        decode, prefill = self._decode_controller, self._prefill_controller
        assert decode is not None
        decode.look(tick)
        if prefill is not None and elasticity.pd_ratio is not None:
            self.prefill.settle_drained()
            prefill.scale(elasticity.prefill_count(decode.count(), len(self.replicas)), tick)
        elif prefill is not None:
            prefill.look(tick)
        self.clock.at(tick + to_ticks(elasticity.interval_s), Phase.EXTERNAL, CONTROL, self._control)

    # -- what the fleets ask ------------------------------------------------------------------------------------------

    def over(self) -> bool:
        """All requests have finished."""
        return self._finished >= len(self.trace)

    def renew(self, fleet: Fleet, place: int) -> None:
        """A new server in the place of one that has served: empty memory, the same record."""
        index = fleet.first + place
        sends = fleet is self.prefill
        (fresh,) = self._pool(
            self._setups[0 if sends else 1],
            range(index, index + 1),
            self._done if sends else self._decoded,
            SendingCore if sends else ReceivingCore,
            self._exact,
        )
        if not sends:
            cast(ReceivingCore, fresh.core).on_receive = self._received(fresh)
        inherit(fresh, fleet.replicas[place])
        fleet.replicas[place] = fresh

    def ready(self, fleet: Fleet, tick: int) -> None:
        """What waited for a replica of the pool goes there."""
        rows = fleet.take_stranded()
        if fleet is self.prefill:
            if rows:
                self._deliver(rows, tick)
            return
        for row in rows:
            self._place(*self._unplaced.pop(row), tick)

    def again(self, rows: list[int], tick: int) -> None:
        """Lost requests are sent again, from the beginning."""
        self._deliver(rows, tick)

    def failed(self, fleet: Fleet, place: int, tick: int) -> list[int]:
        """Work of a replica is lost; what KV was to be sent from there, or to there, goes other ways."""
        replica = fleet.replicas[place]
        assert isinstance(replica, Replica)
        rows = {request.row for request in replica.halt(tick)}
        if fleet is self.prefill:
            rows |= self._lose_sender(place, tick)
        else:
            core = cast(ReceivingCore, replica.core)
            rows |= {request.row for request in core.ready}
            self._lose_receiver(place, tick)
        if rows:
            self._losses.count(self._finished)
        return sorted(rows)

    def _lose_sender(self, place: int, tick: int) -> set[int]:
        """Prompts whose KV was still there; decode replicas that expected it hear that it will not come."""
        rows = [row for row, move in sorted(self._moving.items()) if move.sender == place]
        self._unsend(rows, tick)
        for row in rows:
            move, heir = self._moving.pop(row), self._heirs.pop(row)
            replica = self.receivers[move.receiver]
            cast(ReceivingCore, replica.core).forget(heir, tick)
            replica.gave(heir)
            replica.stir()
            replica.notify(tick, False)
        homeless = {row for row, (_, sender) in self._unplaced.items() if sender == place}
        for row in homeless:
            del self._unplaced[row]
        self.decode.stranded = [row for row in self.decode.stranded if row not in homeless]
        return {*rows, *homeless}

    def _lose_receiver(self, place: int, tick: int) -> None:
        """KV that was to go there is with its prefill replica: it goes elsewhere, once this one is down.
        Prefill replicas that fail in the same instant did so before."""
        rows = [row for row, move in sorted(self._moving.items()) if move.receiver == place]
        self._unsend(rows, tick)
        moves = [self._moving.pop(row) for row in rows]
        for row in rows:
            del self._heirs[row]
        if moves:
            rank = CONTROL + (4 << 20) + self.decode.first + place
            self.clock.at(tick, Phase.EXTERNAL, rank, lambda event: self._place_all(moves, tick))

    def _place_all(self, moves: list[Handover], tick: int) -> None:
        for move in moves:
            self._place(move.sent, move.sender, tick)

    def _unsend(self, rows: list[int], tick: int) -> None:
        """Stop transfers: what was not sent does not count."""
        left = self._links.cancel(rows, tick)
        for row in rows:
            unsent = left.get(row, self._moving[row].exposed_bytes)
            self.transfers.nbytes[row] -= unsent
            self.transfers.exposed_bytes[row] -= unsent

    # -- requests -----------------------------------------------------------------------------------------------------

    def _deliver(self, rows: list[int], tick: int) -> None:
        """Requests reach the router."""
        self.prefill.deliver(rows, tick, self._router, self._request)

    def _hand_over(self, request: Request, sender: int) -> None:
        """A prompt is complete: its KV goes to a decode replica that serves, or stays until there is one."""
        tick = request.last_token_tick
        self.transfers.prompt_end_s[request.row] = tick / clock.TICKS_PER_S
        nbytes = self._path.token_bytes * request.input_tokens + self._path.request_bytes
        hidden = self._hidden_bytes(request, sender, nbytes) if self.decode.serving() else 0.0
        self._place(request, sender, tick, hidden)

    def _place(self, request: Request, sender: int, tick: int, hidden_bytes: float = 0.0) -> None:
        serving = self.decode.serving()
        if not serving:
            self._unplaced[request.row] = (request, sender)
            self.decode.stranded.append(request.row)
            return
        self.decode.arrived += 1
        heir = self._heir(request, tick)
        receiver = serving[self._decode_router.choose(heir, serving)].index - self.decode.first
        nbytes = self._path.token_bytes * request.input_tokens + self._path.request_bytes
        self._heirs[request.row] = heir
        self._expect(Handover(request, sender, receiver, nbytes - hidden_bytes), heir, tick, alone=False)

    def _send_kv(self, heir: Request, tick: int) -> None:
        if self._heirs.get(heir.row) is heir:
            super()._send_kv(heir, tick)

    def _arrived(self, heir: Request, tick: int) -> None:
        del self._heirs[heir.row]
        life = self.prefill.lives[self._moving[heir.row].sender]
        life.last_done = max(life.last_done, tick)
        super()._arrived(heir, tick)

    def _done(self, request: Request, tick: int, replica: int) -> None:
        life = self.prefill.lives[replica]
        life.last_done = max(life.last_done, request.last_token_tick)
        super()._done(request, tick, replica)

    def _decoded(self, request: Request, tick: int, replica: int) -> None:
        self.decode.lives[replica - self.decode.first].last_done = tick
        super()._decoded(request, tick, replica)

    def run(self) -> ElasticPoolsRecord:
        """Run until nothing is left to happen."""
        record = super().run()
        assert not (self.prefill.stranded or self.decode.stranded or self._unplaced), "requests that nobody served"
        assert not self._heirs, "KV that nobody waits for"
        for fleet in (self.prefill, self.decode):
            fleet.close()
        return ElasticPoolsRecord(
            table=record.table,
            replicas=record.replicas,
            end_s=record.end_s,
            transfers=record.transfers,
            num_prefill_replicas=record.num_prefill_replicas,
            histories=(self.prefill.history, self.decode.history),
        )
