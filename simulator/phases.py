"""Whose time and energy a step with prompts is: that of the decoding sequences as if alone, the rest the prompts'."""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

from simulator.costs import StepCosts

Floats = npt.NDArray[np.float64]


class PromptShares:
    """Ticks and joules of one replica that its prompts caused: steps of prompts alone, and what prompts add to the decode
    steps they ride on.

    Steps are noted as they begin and worked out in blocks: it is bookkeeping that no event waits for. In a pipeline time is
    that of the first stage; of decoding alone it is taken to be an equal part of all ``stages``.
    """

    COLUMNS = 5
    BLOCK = 4096

    def __init__(self, costs: StepCosts | None = None, stages: int = 1) -> None:
        self._costs, self._stages = costs, stages
        self._rows = array("d")
        self._full = self.COLUMNS * self.BLOCK
        self._ticks = self._joules = 0.0

    def add(self, decode_seqs: int, context_tokens: int, window_tokens: int, ticks: int, joules: float) -> None:
        """A step with prompts, beside so many decoding sequences that read so many KV entries."""
        rows = self._rows
        rows.extend((decode_seqs, context_tokens, window_tokens, ticks, joules))
        if len(rows) >= self._full:
            self._work_out()

    def totals(self) -> tuple[float, float]:
        """(ticks, joules) so far."""
        if self._rows:
            self._work_out()
        return self._ticks, self._joules

    def _work_out(self) -> None:
        seqs, context, window, ticks, joules = np.frombuffer(self._rows).reshape(-1, self.COLUMNS).T.copy()
        self._rows = array("d")
        alone, alone_j = self._alone(seqs.astype(np.int64), context, window)
        self._ticks += float(np.maximum(0.0, ticks - alone / self._stages).sum())
        self._joules += float(np.maximum(0.0, joules - alone_j).sum())

    def _alone(self, seqs: npt.NDArray[np.int64], context: Floats, window: Floats) -> tuple[Floats, Floats]:
        """(ticks, joules) that the decoding sequences of each step would take without the prompts; 0 where none decodes."""
        assert self._costs is not None
        counts, where = np.unique(seqs, return_inverse=True)
        lines = np.array([self._costs.decode(int(n)) if n else (0,) * 8 for n in counts], dtype=np.float64)
        base, per_token, per_window, base_j, token_j, window_j, floor, wait_j = lines[where].T
        ticks = base + per_token * context + per_window * window
        waits = np.maximum(0.0, floor - ticks)
        return ticks + waits, base_j + token_j * context + window_j * window + wait_j * waits
