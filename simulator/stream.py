"""The way of tokens from the engine to the clients: detokenised and sent by one thread, which can fall behind."""

from __future__ import annotations


class TokenStream:
    """A first come, first served queue of tokens, each of which takes the same time.

    The engine never waits for it. Below its capacity it delays a token by the size of the batch it came in; above, by a
    backlog that grows until the load (a closed loop waits for its answers) follows.
    """

    __slots__ = ("_free", "_token_ticks")

    def __init__(self, token_ticks: int) -> None:
        self._token_ticks = token_ticks
        self._free = 0
        """When everything that was put in has been sent [ticks]."""

    def send(self, tokens: int, steps: int, first_tick: int, last_tick: int) -> int:
        """``tokens`` leave the engine at the end of each of ``steps`` steps; returns the tick when the last ones are sent.

        The first step ends at ``first_tick``, the last at ``last_tick``, and steps in between do not get shorter. Then
        Lindley's recursion F = max(F, end of step) + work has a closed form: the longest of three paths, through what was
        queued before, from the first step on, or from the last step on.
        """
        work = tokens * self._token_ticks
        if not work:
            return max(last_tick, self._free)
        total = steps * work
        self._free = max(self._free + total, first_tick + total, last_tick + work)
        return self._free
