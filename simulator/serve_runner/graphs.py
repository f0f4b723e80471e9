"""Decode steps as CUDA graphs: one recording per padded batch size, replayed with new inputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from simulator.serve_runner.attention import Tensor
from simulator.serve_runner.batch import Piece
from simulator.serve_runner.network import Network
from simulator.serve_runner.pages import PagedCache, Varlen

SMALL_SIZES = (1, 2, 4, 8)
SIZE_STEP = 16
"""Batch sizes that are recorded: these, then multiples; vLLM steps by 8 (and by 16 beyond 256), at twice the memory."""


def graph_sizes(max_num_seqs: int) -> list[int]:
    """Batch sizes to record; the last one holds the largest batch."""
    most = -(-max_num_seqs // SIZE_STEP) * SIZE_STEP
    return [n for n in SMALL_SIZES if n < max_num_seqs] + (
        list(range(SIZE_STEP, most + 1, SIZE_STEP)) if max_num_seqs > SMALL_SIZES[-1] else [max_num_seqs]
    )


class Padded:
    """A decode batch of fixed size with its own input tensors; unused rows write to the scratch block."""

    def __init__(self, network: Network, cache: PagedCache, size: int) -> None:
        import torch

        self.size, self._cache, self._network = size, cache, network
        blocks = -(-cache.max_len // cache.block_size)
        options: dict[str, Any] = {"device": cache.device}
        self.numbers = torch.zeros((3, size), dtype=torch.int64, **options)
        """Token, position and place in the cache of every row."""
        self.used = torch.ones(size, dtype=torch.int32, **options)
        self.tables = torch.full((size, blocks), cache.scratch, dtype=torch.int32, **options)
        starts = torch.arange(size + 1, dtype=torch.int32, **options)
        assert cache.kernel is not None
        self._varlen = Varlen(cache.kernel, starts, self.used, self.tables, longest_query=1, longest=cache.max_len)
        self.numbers[2] = cache.scratch * cache.block_size

    def run(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As StepAttention."""
        self._cache.store(layer, self.numbers[2], k, v)
        return self._varlen.attend(q, self._cache.keys[layer], self._cache.values[layer])

    def compute(self) -> Tensor:
        """The greedy token of every row."""
        return self._network.logits(self.numbers[0], self.numbers[1], self, None).argmax(dim=-1)

    def fill(self, pieces: Sequence[Piece]) -> None:
        """Put a batch into the input tensors."""
        import torch

        cache = self._cache
        idle = self.size - len(pieces)
        tables = [cache.table_of(piece) for piece in pieces]
        places = cache.places(pieces, tables) + [cache.scratch * cache.block_size] * idle
        rows = [[p.tokens[0] for p in pieces] + [0] * idle, [p.start for p in pieces] + [0] * idle, places]
        width = self.tables.shape[1]
        padded = [table + [cache.scratch] * (width - len(table)) for table in tables]
        self.numbers.copy_(torch.tensor(rows), non_blocking=True)
        self.used.copy_(torch.tensor([p.end for p in pieces] + [1] * idle, dtype=torch.int32), non_blocking=True)
        self.tables[: len(pieces)].copy_(torch.tensor(padded, dtype=torch.int32), non_blocking=True)
        self.tables[len(pieces) :] = cache.scratch


class DecodeGraphs:
    """Recordings for every padded size, largest first so that the smaller ones share its memory."""

    def __init__(self, network: Network, cache: PagedCache, max_num_seqs: int) -> None:
        self.sizes = graph_sizes(max_num_seqs)
        self._batches = {size: Padded(network, cache, size) for size in self.sizes}
        self._graphs: dict[int, tuple[Any, Tensor]] = {}

    def capture(self) -> None:
        """Record; raises RuntimeError when the device or the kernels cannot."""
        import torch

        pool = None
        with torch.inference_mode():
            for size in reversed(self.sizes):
                batch = self._batches[size]
                stream = torch.cuda.Stream()
                stream.wait_stream(torch.cuda.current_stream())
                with torch.cuda.stream(stream):
                    batch.compute()
                torch.cuda.current_stream().wait_stream(stream)
                graph = torch.cuda.CUDAGraph()
                with torch.cuda.graph(graph, pool=pool):
                    out = batch.compute()
                pool = pool or graph.pool()
                self._graphs[size] = (graph, out)

    def replay(self, pieces: Sequence[Piece]) -> Tensor:
        """Greedy tokens of a decode step."""
        size = next(n for n in self.sizes if n >= len(pieces))
        self._batches[size].fill(pieces)
        graph, out = self._graphs[size]
        graph.replay()
        return out[: len(pieces)]
