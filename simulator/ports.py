"""KV on its way between two pools: replicas' network ports shared by the transfers that use them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from math import ceil, isinf

import simpy

from simulator import clock
from simulator.clock import Clock, Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class KvPath:
    """What a hand-over of KV takes, as the event loop sees it."""

    token_bytes: float
    """KV of one token [B], all devices of the receiver together."""
    request_bytes: float = 0.0
    """What a request has beside it: constant states of linear-attention layers [B]."""
    send_bytes_per_s: float
    """Port of a prefill replica [B/s]."""
    receive_bytes_per_s: float
    """Port of a decode replica [B/s]."""
    latency_s: float = 0.0
    """From blocks set aside until the first byte moves [s]."""
    exposed_share: float = 1.0
    """Least share of a request's bytes that is sent after its prompt; 1: nothing is sent before."""


@dataclass(slots=True, eq=False)
class Flow:
    """One transfer: its ends, what is left of it [B], and when it will have ended if nothing changes [ticks]."""

    row: int
    sender: int
    receiver: int
    left_bytes: float
    done: Callable[[int], None]
    """Called with the tick of its end."""
    rate_bytes_per_s: float = 0.0
    due: int = 0


class Ports:
    """Every replica has one port. Transfers through a port share it equally, and go at the pace of their slower port.

    ``send`` and ``receive``: bandwidth of the ports [B/s]. A share that a transfer cannot use, because its other port is
    slower, is not given to others.
    """

    RANK = 3 << 38
    """Of link events within an instant; one per instant."""

    def __init__(self, clock: Clock, send: Sequence[float], receive: Sequence[float]) -> None:
        self._clock = clock
        self._send, self._receive = send, receive
        self._flows: list[Flow] = []
        self._at = 0
        self._event: simpy.Event | None = None

    def start(self, flow: Flow, tick: int) -> None:
        """Begin a transfer (EXTERNAL phase)."""
        self._advance(tick)
        self._flows.append(flow)
        self._share(tick)

    def cancel(self, rows: Collection[int], tick: int) -> dict[int, float]:
        """End transfers before their time (EXTERNAL phase): row -> bytes that were not sent."""
        self._advance(tick)
        left = {flow.row: flow.left_bytes for flow in self._flows if flow.row in rows}
        if left:
            self._flows = [flow for flow in self._flows if flow.row not in left]
            self._share(tick)
        return left

    def _advance(self, tick: int) -> None:
        elapsed_s = (tick - self._at) / clock.TICKS_PER_S
        self._at = tick
        if elapsed_s:
            for flow in self._flows:
                flow.left_bytes = max(0.0, flow.left_bytes - flow.rate_bytes_per_s * elapsed_s)

    def _share(self, tick: int) -> None:
        """Give every transfer its rate, and wait for the first that ends."""
        flows = self._flows
        sending = Counter(flow.sender for flow in flows)
        receiving = Counter(flow.receiver for flow in flows)
        for flow in flows:
            rate = min(
                self._send[flow.sender] / sending[flow.sender], self._receive[flow.receiver] / receiving[flow.receiver]
            )
            flow.rate_bytes_per_s = rate
            left_s = 0.0 if isinf(rate) else flow.left_bytes / rate
            flow.due = tick + ceil(left_s * clock.TICKS_PER_S)
        self._event = None
        if flows:
            due = min(flow.due for flow in flows)
            self._event = self._clock.at(due, Phase.EXTERNAL, self.RANK, self._on_end)

    def _on_end(self, event: simpy.Event) -> None:
        if event is not self._event:
            return  # a transfer that began since has changed the rates
        tick = int(self._clock.now)
        self._advance(tick)
        ended = sorted((flow for flow in self._flows if flow.due <= tick), key=lambda flow: flow.row)
        self._flows = [flow for flow in self._flows if flow.due > tick]
        self._share(tick)
        for flow in ended:
            flow.done(tick)
