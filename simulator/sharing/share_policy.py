"""Which share of a device prompts get while tokens are produced beside them: fixed, or by the load of both phases."""

from __future__ import annotations

from simulator.sharing.phases import GRID, PhaseCosts, Work

SHARES = tuple(round(step / GRID, 2) for step in range(2, GRID - 1))
"""From 10 to 90 %: what a proactive policy chooses among."""


class SharePolicy:
    """Keeps the share in force."""

    def __init__(self, costs: PhaseCosts) -> None:
        self._costs = costs
        split = costs.physics.split
        self._split = split
        self.share = 0.5 if split.share is None else split.share
        self.changes = 0

    def choose(self, prompts: Work, tokens: Work, kv_usage: float) -> float:
        """The share of prompts from now on; ``kv_usage``: share of the KV blocks that are held.

        Proactive, after Nexus: while KV blocks are plenty, prompts get as much as tokens can spare; when they are short, tokens
        do, as finished requests give blocks back.
        """
        if self._split.share is not None:
            return self.share
        wanted = self._for_prompts(prompts, tokens) if kv_usage < self._split.kv else self._for_tokens(prompts, tokens)
        if abs(wanted - self.share) >= self._split.hysteresis - 1e-9:
            self.share = wanted
            self.changes += 1
        return self.share

    def _for_prompts(self, prompts: Work, tokens: Work) -> float:
        """The largest share that leaves tokens within their slack; the smallest there is when none does."""
        most = self._split.slack * self._costs.alone(tokens, 1.0)[0]
        low, high = 0, len(SHARES) - 1
        while low < high:
            middle = (low + high + 1) // 2
            if self._costs.beside(prompts, tokens, SHARES[middle])[1] <= most:
                low = middle
            else:
                high = middle - 1
        return SHARES[low]

    def _for_tokens(self, prompts: Work, tokens: Work) -> float:
        """The smallest share that leaves prompts within their slack; the largest there is when none does."""
        most = self._split.slack * self._costs.alone(prompts, 1.0)[0]
        low, high = 0, len(SHARES) - 1
        while low < high:
            middle = (low + high) // 2
            if self._costs.beside(prompts, tokens, SHARES[middle])[0] <= most:
                high = middle
            else:
                low = middle + 1
        return SHARES[low]
