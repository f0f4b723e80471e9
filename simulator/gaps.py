"""Inter-token latencies as they arise: runs of equal or evenly growing gaps, weighted by the sequences that see them."""

from __future__ import annotations

from array import array

import numpy as np
import numpy.typing as npt

from simulator import clock

FOLD_RUNS = 1_000_000
FOLD_STEPS = 8_000_000
"""Runs, and steps in them, that are kept exactly; beyond either they are folded into a histogram with bins of 0.05 %
(percentiles need an entry per step: 50 bytes each while they are computed)."""
BIN_WIDTH = 5e-4
BINS_PER_OCTAVE = 1.0 / np.log2(1.0 + BIN_WIDTH)
SMALLEST_S = 1e-9


class TokenGaps:
    """All gaps between two output tokens of a request, of one replica.

    A decode span of k steps with n sequences is one run: n gaps each of ``first, first + slope, ...`` ticks.
    """

    def __init__(self) -> None:
        self._runs = array("d")
        self._hist: npt.NDArray[np.int64] | None = None
        self._steps = 0

    def add(self, seqs: int, steps: int, first: int, slope: int) -> None:
        """Record ``seqs`` gaps for each of ``steps`` steps of first + j * slope ticks."""
        self._runs.extend((seqs, steps, first, slope))
        self._steps += steps
        if len(self._runs) >= 4 * FOLD_RUNS or self._steps >= FOLD_STEPS:
            self._fold()

    def _expand(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """Gaps [s] and their counts, one entry per step."""
        runs = np.frombuffer(self._runs, dtype=np.float64).reshape(-1, 4)
        steps = runs[:, 1].astype(np.int64)
        run = np.repeat(np.arange(len(runs)), steps)
        step = np.arange(len(run)) - np.repeat(np.cumsum(steps) - steps, steps)
        gaps = (runs[run, 2] + step * runs[run, 3]) / clock.TICKS_PER_S
        return gaps, runs[run, 0].astype(np.int64)

    def _fold(self) -> None:
        gaps, counts = self._expand()
        bins = np.maximum(np.log2(np.maximum(gaps, SMALLEST_S) / SMALLEST_S) * BINS_PER_OCTAVE, 0).astype(np.int64)
        top = int(bins.max()) + 1
        if self._hist is None or len(self._hist) < top:
            grown = np.zeros(top, dtype=np.int64)
            if self._hist is not None:
                grown[: len(self._hist)] = self._hist
            self._hist = grown
        self._hist += np.bincount(bins, weights=counts, minlength=len(self._hist)).astype(np.int64)
        self._runs = array("d")
        self._steps = 0

    def weighted(self) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
        """(gaps [s], counts), unsorted; bin centres for what has been folded."""
        gaps, counts = self._expand() if self._runs else (np.zeros(0), np.zeros(0, dtype=np.int64))
        if self._hist is not None:
            filled = np.flatnonzero(self._hist)
            centres = SMALLEST_S * 2.0 ** ((filled + 0.5) / BINS_PER_OCTAVE)
            gaps = np.concatenate([gaps, centres])
            counts = np.concatenate([counts, self._hist[filled]])
        return gaps, counts

    @property
    def is_exact(self) -> bool:
        """False once runs have been folded into the histogram."""
        return self._hist is None


class Stragglers:
    """Decoding sequences whose last token is older than the last step of their batch (prefill-first stalls, swaps).

    The others have gaps as long as the step; these have longer ones.
    """

    __slots__ = ("groups",)

    def __init__(self) -> None:
        self.groups: dict[int, int] = {}
        """Tick of the last token -> sequences; empty most of the time."""

    def fall_behind(self, seqs: int, tick: int) -> None:
        """A step passed without decode; of ``seqs`` sequences those not here yet had their last token at ``tick``."""
        regular = seqs - sum(self.groups.values())
        if regular:
            self.groups[tick] = self.groups.get(tick, 0) + regular

    def join(self, tick: int) -> None:
        """A sequence whose last token came at ``tick`` returns to the batch."""
        self.groups[tick] = self.groups.get(tick, 0) + 1

    def leave(self, tick: int, regular_tick: int) -> None:
        """A sequence whose last token came at ``tick`` leaves; those of ``regular_tick`` are not counted here."""
        if tick != regular_tick and tick in self.groups:
            self.groups[tick] -= 1
            if not self.groups[tick]:
                del self.groups[tick]

    def catch_up(self, gaps: TokenGaps, tick: int) -> int:
        """All decode at ``tick``: record their gaps; returns how many they were."""
        for last, count in self.groups.items():
            gaps.add(count, 1, tick - last, 0)
        caught = sum(self.groups.values())
        self.groups = {}
        return caught
