"""Paths of cached KV from host memory and disk to the devices: how long a load takes, and who waits for whom."""

from __future__ import annotations

from dataclasses import dataclass, field

from simulator.clock import to_ticks


@dataclass(frozen=True, slots=True, kw_only=True)
class CopyTimes:
    """Copies of KV blocks over the host link of a device.

    ``group`` blocks go in one copy per layer and tensor (K and V; MLA: one); a copy takes the larger of its submission and
    its bytes, so that small copies leave the link idle (FastSwitch's dispatch-bound swapping, arXiv 2411.18424):
    copies x sum over groups of max(dispatch, bytes of the group / bandwidth).
    """

    copies: int
    """Per group: layers of a device x tensors per layer."""
    block_s: float
    """One block over the link at its bandwidth, all layers [s]."""
    dispatch_s: float
    """Submission of one copy [s]."""
    group: int | None = None
    """Blocks per copy; None: all blocks of a load, contiguous in host memory."""

    def seconds(self, blocks: int) -> float:
        """Link time of a load [s]."""
        if not blocks:
            return 0.0
        size = min(self.group or blocks, blocks)
        full, rest = divmod(blocks, size)
        return full * self._group_s(size) + (self._group_s(rest) if rest else 0.0)

    def token_s(self, block_size: int) -> float:
        """A token of a long move, in groups that are full [s]."""
        size = self.group or 1
        full_s = self._group_s(size) if self.group else self.block_s
        return full_s / (size * block_size)

    def _group_s(self, blocks: int) -> float:
        return max(self.copies * self.dispatch_s, blocks * self.block_s)


@dataclass(frozen=True, slots=True, kw_only=True)
class LinkTimes:
    """What a block costs on the paths of one replica."""

    host: CopyTimes
    dram_block_s: float = 0.0
    """One block of all devices out of the host's DRAM [s]; 0: never short."""
    disk_block_s: float = 0.0
    """One block of all devices read from the disk of the node [s]."""
    disk_latency_s: float = 0.0
    """Before the first byte of a load comes from disk [s]."""
    replicas_per_node: int = 1
    """They share DRAM and disk; host links belong to devices."""


@dataclass(slots=True)
class Queue:
    """A path that serves loads one after another."""

    free: int = 0
    """When it has served all it was given [ticks]."""

    def serve(self, now: int, seconds: float) -> int:
        """When a load given at ``now`` is through [ticks]."""
        self.free = max(now, self.free) + to_ticks(seconds)
        return self.free


@dataclass(slots=True)
class NodePaths:
    """What the replicas of a node share."""

    dram: Queue = field(default_factory=Queue)
    disk: Queue = field(default_factory=Queue)


class ReplicaPaths:
    """The way up to one replica. Stages of a load overlap; each path serves loads in the order in which they begin.

    Moves down use the other direction of the links and delay nobody.
    """

    def __init__(self, times: LinkTimes, node: NodePaths) -> None:
        self._times = times
        self._node = node
        self._host = Queue()

    def load(self, now: int, blocks: list[int]) -> tuple[int, list[float]]:
        """(when so many blocks from each tier are on the devices [ticks], link time of each tier [s])."""
        times, node = self._times, self._node
        total = sum(blocks)
        host_s = times.host.seconds(total)
        ends = [self._host.serve(now, host_s), now + 1]
        if times.dram_block_s:
            ends.append(node.dram.serve(now, total * times.dram_block_s))
        disk_s = 0.0
        if len(blocks) > 1 and blocks[1]:
            disk_s = times.disk_latency_s + blocks[1] * times.disk_block_s
            ends.append(node.disk.serve(now, disk_s))
        return max(ends), [host_s, disk_s][: len(blocks)]
