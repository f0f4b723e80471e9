"""A decoder with random weights: RMSNorm, rotary embedding, grouped-query attention, gated MLP or routed experts.

Written as one call per operation, as an engine without kernel fusion would run it: matrix products in the layout of the model
description (query, key and value fused; gate and up fused), everything between them element by element.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from simulator.serve_runner.attention import StepAttention, Tensor
from simulator.serve_runner.shapes import Architecture

ROPE_BASE = 10_000.0
"""Su et al., RoFormer, arXiv 2104.09864; its value does not change the time."""
WEIGHT_SCALE = 0.02
"""Standard deviation of the random weights, as GPT-2 was initialised."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Layer:
    """Weights of one block; the feed-forward part has ``gate_up`` and ``down``, or experts, or both (shared experts)."""

    norm1: Tensor
    qkv: Tensor
    out: Tensor
    norm2: Tensor
    gate_up: Tensor | None
    down: Tensor | None
    router: Tensor | None = None
    experts_gate_up: Tensor | None = None
    """[experts, 2 x width, hidden]."""
    experts_down: Tensor | None = None
    """[experts, hidden, width]."""


class Network:
    """Weights of a model on a device, and its forward pass."""

    def __init__(self, arch: Architecture, *, max_len: int, dtype: Any, device: Any, seed: int = 0) -> None:
        import torch

        self.arch = arch
        self._generator = torch.Generator(device=device).manual_seed(seed)
        self._options = {"dtype": dtype, "device": device}
        self.embedding = self._random(arch.vocab, arch.hidden)
        self.layers = [self._layer() for _ in range(arch.num_layers)]
        self.norm = torch.ones(arch.hidden, **self._options)
        self.lm_head = self.embedding if arch.tied else self._random(arch.vocab, arch.hidden)
        self.cos, self.sin = _rotary_tables(arch.head_dim, max_len, dtype, device)
        self.grouped = grouped_product(device, dtype) if arch.num_experts else None

    def _random(self, *shape: int) -> Tensor:
        import torch

        return torch.empty(*shape, **self._options).normal_(0.0, WEIGHT_SCALE, generator=self._generator)

    def _layer(self) -> Layer:
        import torch

        arch = self.arch
        width = arch.head_dim * (arch.num_heads + 2 * arch.num_kv_heads)
        dense = arch.shared_intermediate if arch.num_experts else arch.intermediate
        experts: dict[str, Tensor] = {}
        if arch.num_experts:
            experts["router"] = self._random(arch.num_experts, arch.hidden)
            experts["experts_gate_up"] = self._random(arch.num_experts, 2 * arch.intermediate, arch.hidden)
            experts["experts_down"] = self._random(arch.num_experts, arch.hidden, arch.intermediate)
        return Layer(
            norm1=torch.ones(arch.hidden, **self._options),
            qkv=self._random(width, arch.hidden),
            out=self._random(arch.hidden, arch.num_heads * arch.head_dim),
            norm2=torch.ones(arch.hidden, **self._options),
            gate_up=self._random(2 * dense, arch.hidden) if dense else None,
            down=self._random(arch.hidden, dense) if dense else None,
            **experts,
        )

    def logits(self, tokens: Tensor, positions: Tensor, attention: StepAttention, rows: Tensor | None) -> Tensor:
        """Logits of the token rows in ``rows`` (None: of all); ``tokens`` and ``positions`` are int64[n]."""
        import torch.nn.functional as f

        arch = self.arch
        cos, sin = self.cos[positions], self.sin[positions]
        x = f.embedding(tokens, self.embedding)
        for index, layer in enumerate(self.layers):
            h = f.rms_norm(x, (arch.hidden,), layer.norm1)
            x = x + self._attention(index, layer, h, cos, sin, attention)
            h = f.rms_norm(x, (arch.hidden,), layer.norm2)
            x = x + self._feed_forward(layer, h)
        if rows is not None:
            x = x[rows]
        return f.linear(f.rms_norm(x, (arch.hidden,), self.norm), self.lm_head)

    def _attention(self, index: int, layer: Layer, h: Tensor, cos: Tensor, sin: Tensor, step: StepAttention) -> Tensor:
        import torch
        import torch.nn.functional as f

        arch = self.arch
        qkv = f.linear(h, layer.qkv).view(len(h), -1, arch.head_dim)
        turned, v = qkv.split((arch.num_heads + arch.num_kv_heads, arch.num_kv_heads), dim=1)
        rotated = torch.addcmul(turned * cos, torch.roll(turned, arch.head_dim // 2, dims=-1), sin)
        q, k = rotated.split((arch.num_heads, arch.num_kv_heads), dim=1)
        out = step.run(index, q, k, v)
        return f.linear(out.reshape(len(h), -1), layer.out)

    def _feed_forward(self, layer: Layer, h: Tensor) -> Tensor:
        out = None
        if layer.gate_up is not None and layer.down is not None:
            out = _gated(h, layer.gate_up, layer.down)
        if layer.router is not None:
            routed = self._experts(layer, h)
            out = routed if out is None else out + routed
        return out

    def _experts(self, layer: Layer, h: Tensor) -> Tensor:
        """Rows sorted by expert, one product per expert (or one grouped product), then summed per token."""
        import torch
        import torch.nn.functional as f

        each = self.arch.experts_per_token
        share, chosen = f.linear(h, layer.router).float().softmax(-1).topk(each, dim=-1)
        share = (share / share.sum(-1, keepdim=True)).to(h.dtype)
        expert, order = chosen.flatten().sort()
        rows = h[order // each]
        ends = torch.searchsorted(expert, torch.arange(self.arch.num_experts, device=h.device), right=True)
        if self.grouped is not None:
            offsets = ends.to(torch.int32)
            out = self.grouped(rows, layer.experts_gate_up.transpose(1, 2), offsets)  # type: ignore[union-attr]
            gate, up = out.chunk(2, dim=-1)
            out = self.grouped(f.silu(gate) * up, layer.experts_down.transpose(1, 2), offsets)  # type: ignore[union-attr]
        else:
            out = torch.empty_like(rows)
            begin = 0
            for index, end in enumerate(ends.tolist()):
                if end > begin:
                    out[begin:end] = _gated(rows[begin:end], layer.experts_gate_up[index], layer.experts_down[index])  # type: ignore[index]
                begin = end
        weighted = out * share.flatten()[order, None]
        return torch.zeros_like(h).index_add_(0, order // each, weighted)


def _gated(h: Tensor, gate_up: Tensor, down: Tensor) -> Tensor:
    import torch.nn.functional as f

    gate, up = f.linear(h, gate_up).chunk(2, dim=-1)
    return f.linear(f.silu(gate) * up, down)


def _rotary_tables(width: int, max_len: int, dtype: Any, device: Any) -> tuple[Tensor, Tensor]:
    """Cosine and sine [max_len, 1, width]; the first half of the sine is negated, so that rotating the halves is a roll."""
    import torch

    half = torch.arange(0, width, 2, device=device, dtype=torch.float32)
    angle = torch.arange(max_len, device=device, dtype=torch.float32)[:, None] * ROPE_BASE ** (-half / width)
    cos, sin = angle.cos(), angle.sin()
    return torch.cat((cos, cos), -1)[:, None].to(dtype), torch.cat((-sin, sin), -1)[:, None].to(dtype)


def grouped_product(device: Any, dtype: Any) -> Any:
    """PyTorch's grouped matrix product where it exists and runs (rows, weights [groups, in, out], end of every group), else
    None: experts then run one after another."""
    import torch
    import torch.nn.functional as f

    if device.type != "cuda" or dtype is not torch.bfloat16:
        return None
    call = getattr(f, "grouped_mm", None) or getattr(torch, "_grouped_mm", None)
    if call is None:
        return None
    try:
        weights = torch.zeros(2, 64, 64, dtype=dtype, device=device).transpose(1, 2)
        call(torch.zeros(8, 64, dtype=dtype, device=device), weights, offs=torch.tensor([3, 8], device=device).int())
    except (RuntimeError, TypeError, ValueError):
        return None
    return lambda rows, weights, offsets: call(rows, weights, offs=offsets)
