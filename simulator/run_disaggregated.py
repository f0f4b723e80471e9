"""The event loop of two pools: prompts on one, KV over a shared link, further tokens on the other.

A request's first token comes from its prefill replica, as in Splitwise (ISCA 2024), DistServe (OSDI 2024) and Mooncake
(FAST 2025). vLLM's and Dynamo's proxies take it from the decode replica: their TTFT is later by transfer and one step.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from dataclasses import dataclass
from math import isinf
from typing import cast

from simulator import clock
from simulator.clock import Phase, to_ticks
from simulator.handover import ReceivingCore, SendingCore
from simulator.pipeline import PipelineReplica
from simulator.ports import Flow, KvPath, Ports
from simulator.replica import Replica
from simulator.request import Request
from simulator.routing import RoutingPolicy
from simulator.run import Progress, ReplicaSetup, RunRecord, Simulation
from workloads.trace import Trace

HANDOVER, TRANSFER = 1 << 38, 2 << 38
"""Ranks of external events: prompts that are complete, transfers that begin; plus the row."""


class TransferTable:
    """Columns by request; NaN and 0 where no KV was sent. Seconds since the start of the trace."""

    def __init__(self, num_requests: int) -> None:
        nan = array("d", [float("nan")])
        self.prefill_replica = array("i", [-1]) * num_requests
        self.prompt_end_s = nan * num_requests
        """The prompt is complete; from now on its KV waits for a place."""
        self.begin_s = nan * num_requests
        """Blocks are set aside: the transfer is asked for."""
        self.end_s = nan * num_requests
        self.nbytes = array("d", [0.0]) * num_requests
        """All bytes of the request that cross the link."""
        self.exposed_bytes = array("d", [0.0]) * num_requests
        """Those that cross it after the prompt is complete."""


@dataclass(slots=True, kw_only=True)
class DisaggregatedRecord(RunRecord):
    """``replicas``: those of the prefill pool first."""

    transfers: TransferTable
    num_prefill_replicas: int


@dataclass(slots=True, eq=False)
class Handover:
    """A request between its pools: what the sender holds of it, what the receiver has made of it."""

    sent: Request
    sender: int
    receiver: int
    exposed_bytes: float


class DisaggregatedSimulation(Simulation):
    """Builds and runs the event loop of two pools; ``self.replicas`` are those that take arrivals."""

    core_type = SendingCore

    def __init__(
        self,
        trace: Trace,
        setups: tuple[ReplicaSetup, ReplicaSetup],
        counts: tuple[int, int],
        path: KvPath,
        routers: tuple[RoutingPolicy, RoutingPolicy],
        *,
        exact_steps: bool = False,
        progress: Progress | None = None,
    ) -> None:
        senders, receivers = counts
        super().__init__(trace, setups[0], senders, routers[0], exact_steps=exact_steps, progress=progress)
        for replica in self.replicas:
            replica.sole = False
        indices = range(senders, senders + receivers)
        self.receivers = self._pool(setups[1], indices, self._decoded, ReceivingCore, exact_steps)
        for replica in self.receivers:
            cast(ReceivingCore, replica.core).on_receive = self._received(replica)
        self.transfers = TransferTable(len(trace))
        self._decode_router = routers[1]
        self._moving: dict[int, Handover] = {}
        self._path = path
        self._latency = max(1, to_ticks(path.latency_s))
        self._pace = min(path.send_bytes_per_s, path.receive_bytes_per_s)
        self._links = Ports(self.clock, [path.send_bytes_per_s] * senders, [path.receive_bytes_per_s] * receivers)
        self._sent_until = [0] * senders
        """Until when a sender's port is busy with KV of prompts under way [ticks]."""

    def _everyone(self) -> list[Replica | PipelineReplica]:
        return self.replicas + self.receivers

    def _full_output(self, row: int, inputs: int) -> int:
        return min(self._outputs[row], self.setup.limits.max_model_len - inputs)

    def _request(self, row: int, tick: int) -> Request | None:
        """The request as the prefill pool has it: it ends with its first token."""
        request = super()._request(row, tick)
        if request is not None:
            request.output_tokens = 1
        return request

    def _done(self, request: Request, tick: int, replica: int) -> None:
        """A prompt is complete. Nothing but its own replica may change now: the others may not have come so far."""
        row = request.row
        self.transfers.prefill_replica[row] = replica
        if self._full_output(row, request.input_tokens) == 1:
            cast(SendingCore, self.replicas[replica].core).release_sent(request)
            super()._done(request, tick, replica)
            return
        self.clock.at(
            request.last_token_tick, Phase.EXTERNAL, HANDOVER + row, lambda event: self._hand_over(request, replica)
        )

    def _hand_over(self, request: Request, sender: int) -> None:
        """A prompt is complete: its KV goes to a decode replica."""
        tick, row = request.last_token_tick, request.row
        heir = self._heir(request, tick)
        index = self._decode_router.choose(heir, self.receivers)
        nbytes = self._path.token_bytes * request.input_tokens + self._path.request_bytes
        self.transfers.prompt_end_s[row] = tick / clock.TICKS_PER_S
        self._expect(Handover(request, sender, index, nbytes - self._hidden_bytes(request, sender, nbytes)), heir, tick)

    def _heir(self, request: Request, tick: int) -> Request:
        """The request as the decode pool has it."""
        row = request.row
        heir = Request(row, tick, request.input_tokens, self._full_output(row, request.input_tokens))
        heir.prompt_left, heir.computed, heir.generated = 0, request.input_tokens, 1
        heir.scheduled_tick, heir.first_token_tick = request.scheduled_tick, request.first_token_tick
        heir.last_token_tick = request.last_token_tick
        heir.cached_tokens, heir.num_preemptions = request.cached_tokens, request.num_preemptions
        return heir

    def _expect(self, move: Handover, heir: Request, tick: int, alone: bool = True) -> None:
        """A decode replica hears of a request whose KV it will get; ``alone`` as for its :meth:`notify`."""
        row, transfers = heir.row, self.transfers
        self._moving[row] = move
        transfers.nbytes[row] += self._path.token_bytes * heir.input_tokens + self._path.request_bytes
        transfers.exposed_bytes[row] += move.exposed_bytes
        replica = self.receivers[move.receiver]
        cast(ReceivingCore, replica.core).expect(heir)
        replica.took(heir)
        replica.note_waiting()
        replica.stir()
        replica.notify(tick, alone)

    def _hidden_bytes(self, request: Request, sender: int, nbytes: float) -> float:
        """What layer-wise sending moved while the prompt was computed: all but the last layer at most, one request after
        the other through the sender's port. The receiver's port is taken to be free for it."""
        most = nbytes * (1.0 - self._path.exposed_share)
        if not most or isinf(self._pace):
            return most
        begin, end = max(request.scheduled_tick, self._sent_until[sender]), request.last_token_tick
        hidden = min(most, self._pace * max(0, end - begin) / clock.TICKS_PER_S)
        self._sent_until[sender] = begin + to_ticks(hidden / self._pace)
        return hidden

    def _received(self, replica: Replica | PipelineReplica) -> Callable[[Request], None]:
        def ask(heir: Request) -> None:
            """Blocks are set aside: begin the transfer."""
            begin = replica.core.now
            self.transfers.begin_s[heir.row] = begin / clock.TICKS_PER_S
            tick = begin + self._latency
            self.clock.at(tick, Phase.EXTERNAL, TRANSFER + heir.row, lambda event: self._send_kv(heir, tick))

        return ask

    def _send_kv(self, heir: Request, tick: int) -> None:
        move = self._moving[heir.row]
        self._links.start(
            Flow(heir.row, move.sender, move.receiver, move.exposed_bytes, lambda end: self._arrived(heir, end)), tick
        )

    def _arrived(self, heir: Request, tick: int) -> None:
        """The last byte is here: the sender's blocks are free, the request decodes."""
        move = self._moving.pop(heir.row)
        self.transfers.end_s[heir.row] = tick / clock.TICKS_PER_S
        sender, receiver = self.replicas[move.sender], self.receivers[move.receiver]
        cast(SendingCore, sender.core).release_sent(move.sent)
        cast(ReceivingCore, receiver.core).deliver(heir, tick)
        for replica in (sender, receiver):
            replica.stir()
            replica.notify(tick, False)

    def _decoded(self, request: Request, tick: int, replica: int) -> None:
        super()._done(request, tick, replica)

    def run(self) -> DisaggregatedRecord:
        """Run until nothing is left to happen."""
        record = super().run()
        assert not self._moving, "KV on its way left behind"
        return DisaggregatedRecord(
            table=record.table,
            replicas=record.replicas,
            end_s=record.end_s,
            transfers=self.transfers,
            num_prefill_replicas=len(self.replicas),
        )


def run_disaggregated(
    trace: Trace,
    setups: tuple[ReplicaSetup, ReplicaSetup],
    counts: tuple[int, int],
    path: KvPath,
    routers: tuple[RoutingPolicy, RoutingPolicy],
    *,
    exact_steps: bool = False,
    progress: Progress | None = None,
) -> DisaggregatedRecord:
    """Replay ``trace`` on two pools, prefill and decode: ``counts`` replicas as ``setups``, behind ``routers``."""
    return DisaggregatedSimulation(
        trace, setups, counts, path, routers, exact_steps=exact_steps, progress=progress
    ).run()
