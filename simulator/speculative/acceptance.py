"""How many drafted tokens a step accepts, drawn per request, so that no batch, order or mode of the run changes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Ints = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]

KEY_BITS = 64


def expected_tokens(rates: Sequence[float]) -> float:
    """Mean tokens of a step: 1 + a1 + a1 a2 + ...; with equal rates (1 - a^(g+1)) / (1 - a) (Leviathan et al., arXiv
    2211.17192, eq. 1)."""
    mean = product = 1.0
    for rate in rates:
        product *= rate
        mean += product
    return mean


def rate_of_mean(mean_tokens: float, depth: int) -> float:
    """The rate that gives ``mean_tokens`` tokens per step with ``depth`` drafts in a row, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(60):
        middle = (low + high) / 2
        if expected_tokens([middle] * depth) < mean_tokens:
            low = middle
        else:
            high = middle
    return (low + high) / 2


@dataclass(frozen=True, slots=True)
class Draws:
    """Accepted drafts of every step of every request.

    The draft of a request's output token number p is good if a uniform number that belongs to (seed, request, p) is below the
    rate of its place in the draft. A step keeps the good drafts up to the first bad one, and adds a token of the model's own.
    """

    rates: tuple[float, ...]
    """Probability that the draft at each place is accepted, given that those before it were."""
    seed: int = 0

    def steps(self, row: int, generated: int, output_tokens: int) -> tuple[Ints, Ints]:
        """(tokens, accepted drafts) per step of request ``row``, from its output token number ``generated`` to its last.

        The tokens of the last step end with the output; accepted drafts count whether the output needs them or not.
        """
        rates, places = self.rates, len(self.rates)
        numbers = self.uniform(row, output_tokens + places)
        if rates.count(rates[0]) == places:
            return _equal_rates(numbers[generated:] < rates[0], places, output_tokens - generated)
        uniform: list[float] = numbers.tolist()
        tokens, accepted = [], []
        at = generated
        while at < output_tokens:
            good = 0
            while good < places and uniform[at + good] < rates[good]:
                good += 1
            accepted.append(good)
            tokens.append(min(good + 1, output_tokens - at))
            at += good + 1
        return np.array(tokens, dtype=np.int64), np.array(accepted, dtype=np.int64)

    def uniform(self, row: int, count: int) -> Floats:
        """The first ``count`` uniform numbers of a request, from a counter-based generator under the key (seed, row)."""
        key = np.array([self.seed % (1 << KEY_BITS), row], dtype=np.uint64)
        return np.random.Generator(np.random.Philox(key=key)).random(count)


def _equal_rates(good: npt.NDArray[np.bool_], places: int, left: int) -> tuple[Ints, Ints]:
    """As :meth:`Draws.steps` for ``left`` tokens, when a draft is as good at every place.

    A stretch of tokens ends with a bad draft. Steps cut it into pieces of places + 1 tokens and a last one of what is left,
    which ends with the model's own token, be the draft there bad or not looked at.
    """
    most = places + 1
    ends = np.append(np.flatnonzero(~good) + 1, len(good))
    stretches = np.diff(ends, prepend=0)
    stretches = stretches[stretches > 0]
    last = np.cumsum(-(-stretches // most)) - 1
    pieces = np.full(int(last[-1]) + 1, most, dtype=np.int64)
    pieces[last] = (stretches - 1) % most + 1
    starts = np.cumsum(pieces) - pieces
    within = starts < left
    pieces, starts = pieces[within], starts[within]
    return np.minimum(pieces, left - starts), pieces - 1
