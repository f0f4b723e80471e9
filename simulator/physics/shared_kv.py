"""KV of a base model that requests of several adapters share: bytes beside those of the base."""

from __future__ import annotations

from simulator.plan import ParallelPlan
from workloads.model import ModelSpec


def shared_kv_factor(model: ModelSpec, plan: ParallelPlan, kv_bytes: float) -> float:
    """Bytes of a shared cache over those of the base model's KV, whose elements have ``kv_bytes``.

    Each layer with a KV cache keeps the hidden state through the down projections of K and V beside it: 2 r elements of
    the adapter's format per token (LRAgent, BaseLRShared). Rebuilding K and V from them costs no time here: the paper's
    kernel does it inside attention.
    """
    lora = plan.techniques.lora
    if lora is None or not lora.shared_kv:
        return 1.0
    groups = [(g.attention.kv_elements_per_token, g.count) for g in model.layers]
    base = kv_bytes * sum(elements * count for elements, count in groups)
    beside = 2.0 * lora.rank * lora.element_bytes * sum(count for elements, count in groups if elements)
    return 1.0 + beside / base if base else 1.0
