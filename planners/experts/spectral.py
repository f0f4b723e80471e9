"""An upper bound of what stays inside groups, over all layers at once: the largest eigenvalue of the chain of layers.

Groups are ranks, or nodes. x_g is the indicator (with copies: the shares) of group g in a layer, y_g in the next one, R the
transitions between them. All groups together hold every expert once, so with x~ = x - 1/G

    kept = sum_g x_g R y_g = total / G + sum_g x~_g R y~_g.

Put all layers below each other: z_g, and M with R/2 beside its diagonal. For any diagonal A > 0 and t at least the largest
eigenvalue of A^-1 M A^-1, sum_g z~_g M z~_g <= t sum_g |A z~_g|^2 <= t (1 - 1/G) tr A^2: the bound of Donath and Hoffman
(IBM J. Res. Dev. 17, 1973) for partitions, here of bipartite graphs in a row. Layers are taken together because an expert has
one place for what comes and what goes; layer by layer the bound is weaker by up to the square root of 2.

Two directions are known and taken out: without copies each group holds E/G experts, x~_g 1 = 0, so that multiples of 1 in
rows and columns of R count nothing; and under a limit of balance the load x~_g P is small, so that P Q / total may be taken
off R for a term that the limit bounds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from simulator.experts.routing import Demand, Floats

Singles = npt.NDArray[np.float32]

VECTORS = 16
ROUNDS, FIRST_STEPS, STEPS, STEPS_PER_BASIS = 20, 40, 8, 4
"""Changes of A, and steps of subspace iteration before the first and before each further one."""
RATE, COOLING = 0.15, 0.93
"""Exponent with which A follows the mass of the leading eigenvectors, and its decay per change."""
LARGEST = 2.0e7
"""Layers times experts squared up to which the bound is sought: 3.8 million for DeepSeek-V3, 12.6 for 48 layers of 512."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chain:
    """``flows[l]``: what is left of the transitions; ``known``: tokens kept for certain or at most, whatever the eigenvalue."""

    flows: Floats
    groups: int
    known: float
    equal_numbers: bool


def chain_of(demand: Demand, groups: int, *, excess: Floats | None, equal_numbers: bool) -> Chain:
    """``excess[l]``: tokens by which a group's load may exceed the mean group's; None: no limit is used.

    Loads a_g <= mean + d that sum to G mean have sum (a_g - mean)^2 <= G (G-1) d^2; two layers together <= G (G-1) d d'.
    """
    flows, known = demand.transitions, float(demand.transitions.sum()) / groups
    if excess is not None:
        totals = np.maximum(flows.sum(axis=(1, 2)), 1e-9)
        expected = demand.loads[:-1, :, None] * demand.loads[1:, None, :] / totals[:, None, None]
        flows = flows - expected
        known += float((groups * (groups - 1) * excess[:-1] * excess[1:] / totals).sum())
    return Chain(flows=flows, groups=groups, known=known, equal_numbers=equal_numbers)


def _scaled(chain: Chain, scale: Floats) -> Floats:
    """A^-1 M A^-1 beside the diagonal, float64[L-1, E, E], less the direction of equal numbers."""
    blocks: Floats = chain.flows / scale[:-1, :, None] / scale[1:, None, :] / 2.0
    if chain.equal_numbers:
        one = 1.0 / scale
        one /= np.linalg.norm(one, axis=1, keepdims=True)
        left, right = one[:-1], one[1:]
        blocks -= left[:, :, None] * np.einsum("le,lef->lf", left, blocks)[:, None, :]
        blocks -= np.einsum("lef,lf->le", blocks, right)[:, :, None] * right[:, None, :]
    return blocks


def _times(blocks: Singles, x: Singles) -> Singles:
    """The symmetric chain times float64[L, E, n]."""
    y = np.zeros_like(x)
    y[:-1] = blocks @ x[1:]
    y[1:] += blocks.transpose(0, 2, 1) @ x[:-1]
    return y


def _leading(blocks: Floats, x: Floats, steps: int) -> tuple[Floats, Floats]:
    """(Ritz values ascending, vectors float64[L, E, n]) from subspace iteration; the spectrum is symmetric, hence the shift.

    In single precision: what is found here is a guess, tested later.
    """
    shape, shift, single = x.shape, 0.0, blocks.astype(np.float32)
    block = np.asarray(x, dtype=np.float32)
    for step in range(steps):
        if step % STEPS_PER_BASIS == 0 or step == steps - 1:
            q = np.linalg.qr(block.reshape(-1, shape[2]))[0]
            y = _times(single, q.reshape(shape)).reshape(-1, shape[2])
            values, turn = np.linalg.eigh((q.T @ y + y.T @ q) / 2)
            shift = max(shift, float(values[-1]))
            block = np.asarray(y + shift * q, dtype=np.float32).reshape(shape)
        else:
            block = np.asarray(_times(single, block) + shift * block, dtype=np.float32)
    return values.astype(np.float64), (q @ turn).reshape(shape).astype(np.float64)


def _is_above(blocks: Floats, value: float) -> bool:
    """Whether ``value`` exceeds every eigenvalue of the chain: value I - chain has a Cholesky factor, block by block."""
    size = blocks.shape[1]
    start = value * (1.0 - 1e-9) * np.eye(size)
    rest = start
    try:
        for block in blocks:
            factor = np.linalg.cholesky(rest)
            across = np.linalg.solve(factor, block)
            rest = start - across.T @ across
        np.linalg.cholesky(rest)
    except np.linalg.LinAlgError:
        return False
    return True


def _proven(blocks: Floats, guess: float) -> float:
    """An upper bound of the largest eigenvalue: the first of a rising row of values that passes the test."""
    value, step = max(guess, 1e-9), 2e-4
    while not _is_above(blocks, value):
        value *= 1.0 + step
        step *= 2.0
    return value


def chain_kept(chain: Chain, loads: Floats) -> float:
    """No placement keeps more transitions inside its groups [tokens]; holds for every A, and a good one is sought."""
    layers, experts = loads.shape
    total = float(chain.flows.sum())
    vectors = min(VECTORS, layers * experts)
    scale = (loads + 0.02 * loads.mean(axis=1, keepdims=True) + 1e-9) ** 0.85
    scale /= np.sqrt((scale**2).mean(axis=1, keepdims=True))
    x = np.random.default_rng(0).standard_normal((layers, experts, vectors))
    best, chosen = np.inf, scale
    for step in range(ROUNDS):
        values, x = _leading(_scaled(chain, scale), x, FIRST_STEPS if step == 0 else STEPS)
        value = float(values[-1] * (scale**2).sum())
        if value < best:
            best, chosen = value, scale
        if value <= 1e-9 * max(1.0, abs(total)):
            break
        heat = np.clip((values - values[0]) / max(1e-12, float(values[-1] - values[0])), 0.0, 1.0) ** 2
        mass = (x**2) @ (heat / max(1e-12, heat.sum())) * scale.size
        ratio = np.clip(mass / (scale**2 / (scale**2).mean()), 0.1, 10.0)
        scale = scale * ratio ** (RATE * COOLING**step / 2)
        scale /= np.sqrt((scale**2).mean())
    blocks = _scaled(chain, chosen)
    top = _proven(blocks, _leading(blocks, x, STEPS)[0][-1])
    return chain.known + top * (1.0 - 1.0 / chain.groups) * float((chosen**2).sum())


def kept_by_eigenvalues(demand: Demand, groups: int, most: Floats | None, *, copies: bool = False) -> float:
    """The most that any placement keeps inside ``groups`` groups; ``most[l]``: the tokens a group may have, None: any number.

    Without copies and without a limit, equal numbers of experts are what is known of a group. Where nothing is known, or the
    work is too much, all transitions.
    """
    total = float(demand.transitions.sum())
    limited = most is not None and bool(np.isfinite(most).all())
    too_large = demand.num_layers * demand.num_experts**2 > LARGEST
    if demand.num_layers < 2 or groups < 2 or too_large or (copies and not limited):
        return total
    excess = np.maximum(0.0, most - demand.loads.sum(axis=1) / groups) if most is not None and limited else None
    chain = chain_of(demand, groups, excess=excess, equal_numbers=not copies)
    return min(total, chain_kept(chain, demand.loads))
