"""Replicas that count their steps by tokens: for what depends on the size of every step, such as hits in a cache of experts."""

from __future__ import annotations

from simulator.pipeline import PipelineReplica
from simulator.replica import Replica


class StepCounter(Replica):
    """Notes each step as it ends; with drafts a sequence brings all tokens that are verified."""

    def _commit(self) -> None:
        lane = self.core.lane
        tokens = sum(new for _, new in self._batch)
        if self._decode:
            tokens += lane.num_seqs * int(getattr(lane, "queries", 1))
        sizes = self.record.step_sizes
        sizes[tokens] = sizes.get(tokens, 0) + self._steps
        super()._commit()


class CountingPipelineReplica(PipelineReplica):
    """The same of passes through a pipeline."""

    def _land(self, index: int) -> None:
        lane = self.core.lanes[index]
        tokens = sum(new for _, new in lane.flying)
        if self._flights[index].decode:
            tokens += lane.num_seqs
        sizes = self.record.step_sizes
        sizes[tokens] = sizes.get(tokens, 0) + 1
        super()._land(index)


_KINDS: dict[int, type[Replica]] = {}


def counting(kind: type[Replica]) -> type[Replica]:
    """A kind of replica that also counts its steps; the same class for the same kind."""
    if id(kind) not in _KINDS:
        _KINDS[id(kind)] = type(
            f"Counting{kind.__name__}", (StepCounter, kind) if kind is not Replica else (StepCounter,), {}
        )
    return _KINDS[id(kind)]
