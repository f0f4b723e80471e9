"""A paged KV cache: blocks of any place in memory, found through a table per sequence, as in vLLM.

On CUDA one variable-length kernel of PyTorch reads the pages through the table; elsewhere the pages of a sequence are
gathered first (right, but it copies what it reads: use slots there to measure).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from inspect import signature
from typing import Any

from simulator.serve_runner.attention import Tensor, attend_prompt
from simulator.serve_runner.batch import Piece, StepBatch
from simulator.serve_runner.shapes import Architecture


@dataclass(frozen=True, slots=True, kw_only=True)
class VarlenCall:
    """How this version of PyTorch wants its variable-length kernel called with block tables."""

    enable_gqa: bool
    """It has the argument."""
    key_starts: bool
    """It insists on offsets of the keys, although the block tables replace them."""


class PagedCache:
    """``num_blocks`` blocks of ``block_size`` tokens, and one more that padding rows may write to."""

    layout = "paged"

    def __init__(
        self,
        arch: Architecture,
        *,
        num_blocks: int,
        block_size: int,
        max_len: int,
        dtype: Any,
        device: Any,
        kernel: VarlenCall | None = None,
    ) -> None:
        import torch

        shape = (arch.num_layers, num_blocks + 1, block_size, arch.num_kv_heads, arch.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.block_size = block_size
        self.max_len = max_len
        self.device = device
        self.kernel = kernel
        """How to call the device's paged kernel; None: gather the pages."""
        self.scratch = num_blocks
        self._free = list(range(num_blocks - 1, -1, -1))
        self._tables: dict[int, list[int]] = {}

    @property
    def num_free(self) -> int:
        """Blocks that no sequence holds."""
        return len(self._free)

    def table_of(self, piece: Piece) -> list[int]:
        """Blocks of a sequence, grown to hold the piece. Running out is a fault of the scheduler."""
        table = self._tables.setdefault(piece.row, [])
        while len(table) * self.block_size < piece.end:
            assert self._free, "the scheduler gave out more blocks than there are"
            table.append(self._free.pop())
        return table

    def release(self, row: int) -> None:
        """Give back the blocks of a sequence."""
        self._free += reversed(self._tables.pop(row, []))

    def prepare(self, batch: StepBatch) -> KernelAttention | GatheredAttention:
        """Blocks and tables of a step."""
        tables = [self.table_of(piece) for piece in batch.pieces]
        if self.kernel is None:
            return GatheredAttention(self, batch, tables)
        return KernelAttention(self, batch, tables, self.kernel)

    def places(self, pieces: Sequence[Piece], tables: Sequence[list[int]]) -> list[int]:
        """Index of every token of the step in the cache seen as one row of tokens."""
        size = self.block_size
        return [
            table[position // size] * size + position % size
            for piece, table in zip(pieces, tables, strict=True)
            for position in range(piece.start, piece.end)
        ]

    def store(self, layer: int, places: Tensor, k: Tensor, v: Tensor) -> None:
        """Write the new keys and values of a layer."""
        self.keys[layer].view(-1, *k.shape[1:]).index_copy_(0, places, k)
        self.values[layer].view(-1, *v.shape[1:]).index_copy_(0, places, v)


class GatheredAttention:
    """Collects the pages of every sequence, then attends to it: the reference on any device."""

    def __init__(self, cache: PagedCache, batch: StepBatch, tables: list[list[int]]) -> None:
        import torch

        self._cache, self._pieces = cache, batch.pieces
        self._places = torch.tensor(cache.places(batch.pieces, tables), device=cache.device)
        self._tables = [torch.tensor(table, device=cache.device) for table in tables]

    def run(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store and attend; see StepAttention."""
        import torch

        self._cache.store(layer, self._places, k, v)
        out, at = torch.empty_like(q), 0
        for piece, table in zip(self._pieces, self._tables, strict=True):
            end = at + len(piece.tokens)
            keys, values = (
                pages[layer][table].flatten(0, 1)[: piece.end].transpose(0, 1)
                for pages in (self._cache.keys, self._cache.values)
            )
            out[at:end] = attend_prompt(q[at:end], keys, values, piece.start)
            at = end
        return out


class Varlen:
    """Arguments of the paged kernel for sequences that are computed together."""

    def __init__(
        self, call: VarlenCall, starts: Tensor, used: Tensor, tables: Tensor, *, longest_query: int, longest: int
    ) -> None:
        self.starts, self.used, self.tables = starts, used, tables
        self._call = call
        self._longest_query, self._longest = longest_query, longest

    @classmethod
    def of(cls, call: VarlenCall, cache: PagedCache, pieces: Sequence[Piece], tables: Sequence[list[int]]) -> Varlen:
        """Of the pieces of a step."""
        import torch

        widest = max(len(table) for table in tables)
        starts = [0]
        for piece in pieces:
            starts.append(starts[-1] + len(piece.tokens))

        def on_device(values: list[Any]) -> Tensor:
            return torch.tensor(values, dtype=torch.int32).to(cache.device, non_blocking=True)

        return cls(
            call,
            on_device(starts),
            on_device([piece.end for piece in pieces]),
            on_device([table + [cache.scratch] * (widest - len(table)) for table in tables]),
            longest_query=max(len(piece.tokens) for piece in pieces),
            longest=max(piece.end for piece in pieces),
        )

    def attend(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """The kernel; causal from the end of every sequence."""
        from torch.nn.attention.varlen import varlen_attn

        more: dict[str, Any] = {"enable_gqa": q.shape[1] != keys.shape[2]} if self._call.enable_gqa else {}
        return varlen_attn(
            q,
            keys,
            values,
            self.starts,
            self.starts if self._call.key_starts else None,
            self._longest_query,
            self._longest,
            window_size=(-1, 0),
            seqused_k=self.used,
            block_table=self.tables,
            **more,
        )


class KernelAttention:
    """Decoding sequences in one call of the paged kernel, prompts in another."""

    def __init__(self, cache: PagedCache, batch: StepBatch, tables: list[list[int]], call: VarlenCall) -> None:
        import torch

        self._cache = cache
        self._num_decode = num = len(batch.decode)
        self._places = torch.tensor(cache.places(batch.pieces, tables)).to(cache.device, non_blocking=True)
        self._decode = Varlen.of(call, cache, batch.decode, tables[:num]) if batch.decode else None
        self._prefill = Varlen.of(call, cache, batch.prefill, tables[num:]) if batch.prefill else None

    def run(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store and attend; see StepAttention."""
        import torch

        cache, num = self._cache, self._num_decode
        cache.store(layer, self._places, k, v)
        keys, values = cache.keys[layer], cache.values[layer]
        if self._prefill is None:
            assert self._decode is not None
            return self._decode.attend(q, keys, values)
        if self._decode is None:
            return self._prefill.attend(q, keys, values)
        decoded = self._decode.attend(q[:num], keys, values)
        return torch.cat((decoded, self._prefill.attend(q[num:], keys, values)))


def paged_kernel(arch: Architecture, device: Any, dtype: Any, block_size: int) -> VarlenCall | None:
    """How this PyTorch attends through block tables on this device, or None when it does not, or not rightly: a prompt and a
    decode row behind it are compared with attention on gathered pages."""
    import torch

    if device.type != "cuda" or dtype not in (torch.float16, torch.bfloat16):
        return None
    try:
        from torch.nn.attention.varlen import varlen_attn

        known = signature(varlen_attn).parameters
    except ImportError:
        return None
    if not {"seqused_k", "block_table", "window_size"} <= set(known):
        return None
    for key_starts in (False, True):
        call = VarlenCall(enable_gqa="enable_gqa" in known, key_starts=key_starts)
        try:
            if _agrees(arch, device, dtype, block_size, call):
                return call
        except (RuntimeError, TypeError, ValueError, AttributeError):
            continue
    return None


def _agrees(arch: Architecture, device: Any, dtype: Any, block_size: int, call: VarlenCall) -> bool:
    """Whether the kernel gives what attention on gathered pages gives, up to 16-bit rounding."""
    import torch

    first = Piece(row=0, start=0, tokens=(0,) * (block_size + 3), samples=True)
    steps = (
        StepBatch(decode=(), prefill=(first,)),
        StepBatch(decode=(Piece(row=0, start=first.end, tokens=(0,), samples=True),), prefill=()),
    )
    outputs: list[Tensor] = []
    for kernel in (call, None):
        generator = torch.Generator(device=device).manual_seed(0)
        cache = PagedCache(
            dataclasses.replace(arch, num_layers=1),
            num_blocks=4,
            block_size=block_size,
            max_len=4 * block_size,
            dtype=dtype,
            device=device,
            kernel=kernel,
        )
        for step in steps:
            tokens = len(step.pieces[0].tokens)
            q, k, v = (
                torch.randn(tokens, heads, arch.head_dim, generator=generator, device=device, dtype=dtype)
                for heads in (arch.num_heads, arch.num_kv_heads, arch.num_kv_heads)
            )
            outputs.append(cache.prepare(step).run(0, q, k, v).float())
    half = len(outputs) // 2
    return all(
        torch.allclose(one, other, atol=3e-2, rtol=3e-2)
        for one, other in zip(outputs[:half], outputs[half:], strict=True)
    )
