"""Which experts a batch touches: how many are active and how much the busiest expert-parallel rank carries."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertRouting:
    """Where tokens go under a known placement of experts, measured on a routing trace; replaces uniform routing.

    Tuples are per tier of links that the expert-parallel ranks span, innermost first (Interconnect.tiers).
    """

    busiest_rank: float
    """Rows of the busiest rank over those of the mean rank, mean over layers."""
    copies: tuple[float, ...]
    """Groups of the tier that a token is sent to in a layer, its own included: n (1 - (1 - 1/n)^k) when uniform."""
    tail: tuple[float, ...]
    """Copies that the busiest group receives over those of the mean group: the exchange waits for it."""
    exchanges: int = 2
    """All-to-alls per layer: dispatch and combine, or 1 when tokens go on from expert to expert (ExFlow)."""


@lru_cache(maxsize=64)
def expert_probabilities(num_experts: int, experts_per_token: float, skew: float = 0.0) -> npt.NDArray[np.float64]:
    """Probability that a token selects each expert, float64[num_experts], summing to experts_per_token.

    Popularity falls as rank^-skew (Zipf); skew 0 is uniform routing, every entry k/E. Probabilities above one are cut
    and their excess spread over the other experts in proportion.
    """
    popularity = np.arange(1, num_experts + 1, dtype=np.float64) ** -skew
    chosen = np.zeros(num_experts, dtype=bool)
    while True:
        left = experts_per_token - int(chosen.sum())
        share = popularity * np.where(chosen, 0.0, 1.0)
        hit = np.where(chosen, 1.0, left * share / share.sum()) if left > 0 else chosen.astype(np.float64)
        over = hit > 1.0 + 1e-12
        if not over.any():
            hit.setflags(write=False)
            return hit
        chosen |= over


def expected_active_experts(tokens: float, num_experts: int, experts_per_token: float, skew: float = 0.0) -> float:
    """Expected number of distinct experts hit: sum of 1 - (1 - p_e)^T; E (1 - (1 - k/E)^T) when uniform.

    Tokens choose independently of each other; a token never chooses an expert twice.
    """
    if skew == 0.0:
        return float(num_experts * (1.0 - (1.0 - experts_per_token / num_experts) ** tokens))
    hit = expert_probabilities(num_experts, experts_per_token, skew)
    return float(np.sum(1.0 - (1.0 - hit) ** tokens))


def expected_maximum(mean: float, variance: float, ranks: int) -> float:
    """Upper estimate of the largest of ``ranks`` loads: mean + sqrt(2 ln(ranks) variance).

    The classical bound on the expected maximum of Gaussians (Boucheron, Lugosi, Massart, Concentration Inequalities,
    2013, section 2.5); exact for one rank.
    """
    return mean + math.sqrt(2.0 * math.log(ranks) * variance) if ranks > 1 else mean


def slowest_rank(
    tokens: float,
    num_experts: int,
    experts_per_token: float,
    ranks: int,
    skew: float = 0.0,
    busiest: float | None = None,
) -> tuple[float, float]:
    """(rows, active experts) of the busiest of ``ranks`` ranks that share the experts evenly, for ``tokens`` routed.

    Rows of a rank have the mean T k / n. Their variance has two sources: tokens choose independently, T sum p(1-p) / n,
    and with a skew the experts of a rank are a random sample of unequal ones (placement is not optimised),
    T^2 m s^2 (E-m)/(E-1) with m = E/n experts per rank and s^2 the variance of p over experts. Active experts of a rank
    vary likewise as sum h(1-h) / n with h the chance that an expert is hit. Both maxima are capped by what exists.

    ``busiest``: the placement is known and its busiest rank has that multiple of the mean; it replaces the second source by
    the variance at which the same estimate of the maximum gives this multiple for many tokens.
    """
    hit = expert_probabilities(num_experts, experts_per_token, skew)
    rows = tokens * experts_per_token
    active = expected_active_experts(tokens, num_experts, experts_per_token, skew)
    if ranks <= 1:
        return rows, active
    per_rank = num_experts / ranks
    if busiest is None:
        spread = float(np.var(hit)) * per_rank * (num_experts - per_rank) / max(1.0, num_experts - 1.0)
    else:
        spread = ((busiest - 1.0) * experts_per_token / ranks) ** 2 / (2.0 * math.log(ranks))
    choice = float(np.sum(hit * (1.0 - hit))) / ranks
    most_rows = expected_maximum(rows / ranks, tokens * choice + tokens * tokens * spread, ranks)
    touched = 1.0 - (1.0 - hit) ** tokens
    most_active = expected_maximum(active / ranks, float(np.sum(touched * (1.0 - touched))) / ranks, ranks)
    most_rows = min(most_rows, rows, tokens * per_rank)
    return most_rows, min(most_active, per_rank, active, max(most_rows, active / ranks))


def capacity(tokens: float, num_experts: int, experts_per_token: float, factor: float, skew: float = 0.0) -> float:
    """Slots of every expert for ``tokens`` tokens: factor k T / E (GShard, arXiv:2006.16668), at least one, at most T.

    ``factor`` 0: what the busiest expert needs, so that no token is dropped (Tutel's convention, from memory); estimated as the
    larger of the hottest expert's mean and ``expected_maximum`` of the experts. Whole slots are not rounded up to.
    """
    slots = factor * experts_per_token * tokens / num_experts
    if not factor:
        hit = expert_probabilities(num_experts, experts_per_token, skew)
        choice = tokens * float(np.mean(hit * (1.0 - hit)))
        slots = max(
            tokens * float(hit.max()), expected_maximum(tokens * experts_per_token / num_experts, choice, num_experts)
        )
    return max(1.0, min(slots, tokens))


def dropped_share(tokens: int, num_experts: int, experts_per_token: float, slots: float, skew: float = 0.0) -> float:
    """Share of the choices that find no slot: E[max(0, X_e - slots)] summed over experts, over T k; X_e is binomial.

    Uses E[min(X, c)] = sum over j < c of P(X > j); ``slots`` between whole numbers is interpolated.
    """
    hit = expert_probabilities(num_experts, experts_per_token, skew)
    values, counts = np.unique(hit, return_counts=True)
    whole = math.ceil(slots)
    kept = 0.0
    for p, experts in zip(values, counts, strict=True):
        tail = _binomial_tail(tokens, float(p), whole)
        kept += float(experts) * (float(tail[:-1].sum()) + (slots - (whole - 1)) * float(tail[-1]))
    return max(0.0, 1.0 - kept / (tokens * experts_per_token))


def _binomial_tail(tokens: int, p: float, slots: int) -> npt.NDArray[np.float64]:
    """P(X > j) for j = 0 ... slots - 1, float64[slots]."""
    if p >= 1.0:
        return (np.arange(slots) < tokens).astype(np.float64)
    j = np.arange(min(slots, tokens + 1), dtype=np.float64)
    log_binomial = np.concatenate([[0.0], np.cumsum(np.log((tokens - j[:-1]) / (j[:-1] + 1.0)))])
    mass = np.exp(log_binomial + j * math.log(p) + (tokens - j) * math.log1p(-p))
    tail = np.zeros(slots)
    tail[: len(j)] = np.maximum(0.0, 1.0 - np.cumsum(mass))
    return tail
