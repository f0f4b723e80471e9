"""The protocol between the network and its KV cache: what a cache must do for one step."""

from __future__ import annotations

from typing import Any, Protocol

from simulator.serve_runner.batch import StepBatch

Tensor = Any
"""A torch.Tensor; torch is imported only where it runs."""


class StepAttention(Protocol):
    """Attention of one step, prepared once and run for every layer."""

    def run(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store ``k`` and ``v`` [tokens, kv heads, width] and attend with ``q`` [tokens, heads, width]; the shape of q."""


class KvCache(Protocol):
    """Keys and values of the running sequences."""

    layout: str
    """``slots`` or ``paged``."""

    def prepare(self, batch: StepBatch) -> StepAttention:
        """Find room for the tokens of the step and lay out its attention."""

    def release(self, row: int) -> None:
        """Give back the room of a sequence; unknown rows are ignored."""


def causal_mask(start: int, tokens: int, device: Any) -> Tensor:
    """bool[tokens, start + tokens]: what each of ``tokens`` queries after ``start`` cached ones may see."""
    import torch

    rows = torch.arange(start, start + tokens, device=device)
    return rows[:, None] >= torch.arange(start + tokens, device=device)[None, :]


def attend_prompt(q: Tensor, k: Tensor, v: Tensor, start: int) -> Tensor:
    """One chunk's queries [tokens, heads, width] on the keys [kv heads, length, width] up to its end; the shape of q."""
    import torch.nn.functional as f

    tokens = q.shape[0]
    mask = causal_mask(start, tokens, q.device) if start and tokens > 1 else None
    out = f.scaled_dot_product_attention(
        q.transpose(0, 1)[None],
        k[None],
        v[None],
        attn_mask=mask,
        is_causal=mask is None and tokens > 1,
        enable_gqa=q.shape[1] != k.shape[0],
    )
    return out[0].transpose(0, 1)
