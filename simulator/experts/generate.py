"""Routing to plan with when no trace was recorded: skewed popularity per layer, affinity between layers, seeded."""

from __future__ import annotations

import numpy as np

from hardware_profiles.errors import UserError
from simulator.experts.routing import Floats, Ints, Routing

AFFINITY = 1.0
"""Default strength of the affinity: with 1.0 +- 0.15, generated top-1 routing of Mixtral crosses GPUs as often under its best
placement as ExFlow (arXiv 2401.08383) reports for the real model: 56 % of the hops on 4 GPUs, 71 % on 8."""
SINKHORN_STEPS = 60


def zipf_exponent(num_experts: int, skew: float) -> float:
    """Exponent of rank^-s whose hottest expert has ``skew`` times the mean load; bisection."""
    low, high = 0.0, 20.0
    rank = np.arange(1, num_experts + 1, dtype=np.float64)
    for _ in range(60):
        middle = (low + high) / 2
        popularity = rank**-middle
        if popularity[0] / popularity.mean() < skew:
            low = middle
        else:
            high = middle
    return high


def layer_law(first: Floats, second: Floats, affinity: float, rng: np.random.Generator) -> Floats:
    """P(expert of the next layer | expert of this one), float64[E, E], with ``second`` as marginal when ``first`` is the law.

    Sinkhorn scaling of exp(affinity N(0, 1)) to both marginals: popularity stays as it is, affinity alone varies.
    """
    kernel = np.exp(affinity * rng.standard_normal((len(first), len(second))))
    for _ in range(SINKHORN_STEPS):
        kernel *= (first / kernel.sum(axis=1))[:, None]
        kernel *= second / kernel.sum(axis=0)
    law: Floats = kernel / kernel.sum(axis=1, keepdims=True)
    return law


def check_parameters(num_experts: int, top_k: int, tokens: int, skew: float, affinity: float, drifted: int = 0) -> None:
    """UserError for parameters that no routing has."""
    if tokens < 2:
        raise UserError(f"--tokens is {tokens}; it must be at least 2")
    if not 1 <= skew < num_experts / top_k + 1e-9:
        raise UserError(
            f"--skew is {skew:g} (hottest expert over mean); it must be at least 1 and at most {num_experts / top_k:g}"
        )
    if not 0 <= drifted < tokens:
        raise UserError(f"{drifted} of {tokens} tokens are to drift; it must be fewer than all, and not negative")
    if not 0 <= affinity <= 20:
        raise UserError(f"--affinity is {affinity:g}; it must be at least 0 (none) and at most 20")


def generate_routing(
    *,
    num_experts: int,
    num_layers: int,
    top_k: int,
    tokens: int,
    skew: float,
    affinity: float,
    seed: int,
    drifted: int = 0,
) -> Routing:
    """A trace of ``tokens`` tokens.

    ``skew``: hottest expert over the mean in what tokens are drawn from (top-k without replacement flattens it).
    ``drifted``: of the last tokens, for which every layer's popularity is dealt to the experts anew.
    Top-k by Gumbel keys (Kool et al., arXiv 1903.06059) on the mean log law of the experts chosen one layer before.
    """
    check_parameters(num_experts, top_k, tokens, skew, affinity, drifted)
    ranked = np.arange(1, num_experts + 1, dtype=np.float64) ** -zipf_exponent(num_experts, skew)
    ranked /= ranked.sum()
    parts = [_draw(ranked, num_layers, top_k, tokens - drifted, affinity, seed, late=False)]
    name = f"generated (skew {skew:g}, affinity {affinity:g}, seed {seed})"
    if drifted:
        parts.append(_draw(ranked, num_layers, top_k, drifted, affinity, seed, late=True))
        name = name[:-1] + f", popularity of the last {drifted:,} tokens redrawn)"
    return Routing(name=name, experts=np.concatenate(parts), num_experts=num_experts)


def _draw(ranked: Floats, num_layers: int, top_k: int, tokens: int, affinity: float, seed: int, *, late: bool) -> Ints:
    """int64[tokens, layers, k]; ``late``: other popularity, the affinities of the same kernels."""
    num_experts = len(ranked)
    chosen = np.empty((tokens, num_layers, top_k), dtype=np.int64)
    before: Floats | None = None
    for layer in range(num_layers):
        rng = np.random.default_rng([seed, layer])
        popularity = rng.permutation(ranked)
        later = np.random.default_rng([seed, layer, 1])
        if late:
            popularity = later.permutation(ranked)
        if before is None:
            scores = np.broadcast_to(np.log(popularity), (tokens, num_experts))
        else:
            law = np.log(layer_law(before, popularity, affinity, rng))
            scores = law[chosen[:, layer - 1]].mean(axis=1)
        keys = scores + (later if late else rng).gumbel(size=(tokens, num_experts))
        best = np.argpartition(-keys, top_k - 1, axis=1)[:, :top_k] if top_k < num_experts else None
        chosen[:, layer] = np.sort(best, axis=1) if best is not None else np.arange(num_experts)
        before = popularity
    return chosen
