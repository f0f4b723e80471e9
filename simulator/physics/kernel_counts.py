"""Kernels of blocks that are not attention followed by an MLP, counted from the layers' definitions."""

from __future__ import annotations

from workloads.model import LayerGroup

LLAMA_BETWEEN = 5.0
"""Of a Llama block: two norms, rotary embedding, KV write, activation."""


def _products(group: LayerGroup) -> int:
    """Matrix products; experts and their router count as an MLP."""
    return len(group.attention.matrices) + (2 if group.mlp.matrices else 0)


def _between(group: LayerGroup) -> float:
    """Kernels between products: a norm per part, and inside a state-space layer the convolution and the gate (with a norm in
    Mamba 2); rotary embedding and KV write of attention; the activation of an MLP."""
    return (3.0 if group.attention.kind != "none" else 0.0) + (2.0 if group.mlp.matrices else 0.0)


def block_kernels(group: LayerGroup) -> float | None:
    """Kernels that the host launches for a block, attention or scan included; None where it is attention and an MLP."""
    spec = group.attention
    if spec.ssm is None and spec.kind != "none" and group.mlp.matrices:
        return None
    return _products(group) + _between(group) + (1.0 if spec.kind != "none" else 0.0)


def between_products(group: LayerGroup) -> float:
    """Kernels between products, relative to a block of Llama."""
    return _between(group) / LLAMA_BETWEEN
