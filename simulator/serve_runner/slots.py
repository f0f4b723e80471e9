"""A KV cache of equal slots, one per running sequence: keys of a sequence lie together, so plain attention kernels read them
in place. Blocks are counted by the scheduler as in a paged cache; only their place in memory is fixed."""

from __future__ import annotations

from heapq import heappop, heappush
from typing import Any

from simulator.serve_runner.attention import Tensor, attend_prompt
from simulator.serve_runner.batch import Piece, StepBatch
from simulator.serve_runner.shapes import Architecture


class SlotCache:
    """``slots`` sequences of at most ``max_len`` tokens."""

    layout = "slots"

    def __init__(self, arch: Architecture, *, slots: int, max_len: int, dtype: Any, device: Any) -> None:
        import torch

        shape = (arch.num_layers, slots, arch.num_kv_heads, max_len, arch.head_dim)
        self.keys = torch.zeros(shape, dtype=dtype, device=device)
        self.values = torch.zeros(shape, dtype=dtype, device=device)
        self.device = device
        self._free = list(range(slots))
        self._slot: dict[int, int] = {}

    def slot_of(self, row: int) -> int:
        """The slot of a sequence; the lowest free one when it has none, so that busy slots stay together."""
        slot = self._slot.get(row)
        if slot is None:
            slot = self._slot[row] = heappop(self._free)
        return slot

    def release(self, row: int) -> None:
        """Give back the slot of a sequence."""
        slot = self._slot.pop(row, None)
        if slot is not None:
            heappush(self._free, slot)

    def prepare(self, batch: StepBatch) -> SlotAttention:
        """Slots and masks of a step."""
        return SlotAttention(self, batch)


class SlotAttention:
    """Prompts one by one. Decoding sequences likewise on a CPU, each with exactly its own keys; elsewhere, where launches are
    dear, in one masked kernel over the slots up to the highest busy one."""

    together_on = frozenset({"cuda"})

    def __init__(self, cache: SlotCache, batch: StepBatch) -> None:
        import torch

        self._cache = cache
        slots = {piece.row: cache.slot_of(piece.row) for piece in batch.pieces}
        place = [(slots[p.row], position) for p in batch.pieces for position in range(p.start, p.end)]
        where = torch.tensor(place, dtype=torch.int64).to(cache.device, non_blocking=True)
        self._slots, self._positions = where[:, 0], where[:, 1]
        self._num_decode = len(batch.decode)
        self._prefill: list[tuple[Piece, int]] = [(piece, slots[piece.row]) for piece in batch.prefill]
        self._lengths = [(slots[p.row], p.end) for p in batch.decode]
        self._together = cache.device.type in self.together_on
        if batch.decode and self._together:
            self._prepare_decode([slots[p.row] for p in batch.decode], [p.end for p in batch.decode])

    def _prepare_decode(self, slots: list[int], lengths: list[int]) -> None:
        import torch

        self._high, self._longest = max(slots) + 1, max(lengths)
        self._in_order = slots == list(range(self._high))
        visible = torch.ones(self._high, dtype=torch.int64)  # an idle slot sees one key: no row without any
        visible[slots] = torch.tensor(lengths)
        seen = torch.arange(self._longest)[None, :] < visible[:, None]
        self._mask = seen[:, None, None, :].to(self._cache.device, non_blocking=True)
        self._decode_slots = self._slots[: self._num_decode]

    def run(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store and attend; see StepAttention."""
        import torch

        keys, values = self._cache.keys[layer], self._cache.values[layer]
        keys[self._slots, :, self._positions] = k
        values[self._slots, :, self._positions] = v
        out = torch.empty_like(q)
        at = self._num_decode
        if at:
            decode = self._decode if self._together else self._decode_each
            out[:at] = decode(q[:at], keys, values)
        for piece, slot in self._prefill:
            end = at + len(piece.tokens)
            out[at:end] = attend_prompt(
                q[at:end], keys[slot, :, : piece.end], values[slot, :, : piece.end], piece.start
            )
            at = end
        return out

    def _decode_each(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """One kernel per sequence; query heads that share a KV head are rows of one small matrix, so keys are read once."""
        import torch
        import torch.nn.functional as f

        num, heads, width = q.shape
        kv_heads = keys.shape[1]
        grouped = q.view(num, 1, kv_heads, heads // kv_heads, width)
        outs = [
            f.scaled_dot_product_attention(grouped[i], keys[slot, :, :end][None], values[slot, :, :end][None])
            for i, (slot, end) in enumerate(self._lengths)
        ]
        return torch.cat(outs).reshape(num, heads, width)

    def _decode(self, q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """All sequences at once, heads grouped in the same way."""
        import torch.nn.functional as f

        num, heads, width = q.shape
        kv_heads = keys.shape[1]
        grouped = q.view(num, kv_heads, heads // kv_heads, width)
        if not self._in_order:
            spread = grouped.new_zeros((self._high, *grouped.shape[1:]))
            spread[self._decode_slots] = grouped
            grouped = spread
        out = f.scaled_dot_product_attention(
            grouped,
            keys[: self._high, :, : self._longest],
            values[: self._high, :, : self._longest],
            attn_mask=self._mask,
        )
        return (out if self._in_order else out[self._decode_slots]).reshape(num, heads, width)
