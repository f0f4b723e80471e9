"""A trace: who arrives when, with how many tokens in and out, sharing which prefixes, as parallel arrays."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hardware_profiles.errors import UserError
from workloads.streams import stream

IntArray = npt.NDArray[np.int64]
FloatArray = npt.NDArray[np.float64]
OF_REQUESTS = ("priority", "client", "adapter", "model")
"""Columns that say more about a request: where there are any, one value per request."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadReport:
    """What became of the rows of a file: ``rows_read == emitted + sum(dropped.values())``, always."""

    format: str
    rows_read: int
    emitted: int
    dropped: Mapping[str, int] = field(default_factory=dict)
    """Rows left out, by reason."""
    notes: tuple[str, ...] = ()
    """Whatever a careful reader would want to know: columns ignored, estimates made, clocks rebased."""

    def __post_init__(self) -> None:
        assert self.rows_read == self.emitted + sum(self.dropped.values()), "rows went missing"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Trace:
    """Requests in arrival order; row i of every array is request i.

    Three ways to arrive: open loop (``arrival_s`` alone); closed loop (``concurrency`` set: the first ``concurrency``
    requests arrive at their ``arrival_s``, every later one as soon as any earlier one finishes); sessions
    (``previous`` set: a row with previous[i] >= 0 arrives ``think_s[i]`` after request previous[i] finishes, and its
    ``arrival_s`` only orders the table).

    Checked at birth; arrays are kept as read-only views. There is at least one request.
    """

    arrival_s: FloatArray
    """float64[n], non-decreasing, first at or after 0 [s]."""
    input_tokens: IntArray
    """int64[n], >= 1: prompt tokens (for a later turn of a session: with the whole history)."""
    output_tokens: IntArray
    """int64[n], >= 1."""
    prefix_ids: IntArray | None = None
    """Identities of successive ``prefix_block_tokens``-token pieces of every request's token stream, all requests
    concatenated. Equal ids at equal positions mean equal tokens up to there (Mooncake's hash_ids). The ids may go on
    beyond the prompt into the output (sessions: so that the next turn finds them); the piece that holds the end of the
    stream may be partial. They may also stop early: what lies behind the last id is shared with nobody."""
    prefix_offsets: IntArray | None = None
    """int64[n + 1]: request i owns prefix_ids[prefix_offsets[i]:prefix_offsets[i + 1]]."""
    prefix_block_tokens: int = 0
    """Tokens per prefix id; 0 when the trace has no prefix identities."""
    previous: IntArray | None = None
    """int64[n]: row of the request this one waits for (an earlier row), or -1."""
    think_s: FloatArray | None = None
    """float64[n]: pause between the end of ``previous`` and this arrival [s]; 0 where previous is -1."""
    priority: IntArray | None = None
    """int64[n]: lower values are served first (vLLM's ``priority``); None: all alike."""
    client: IntArray | None = None
    """int64[n]: a number for whoever sent it; None: not known."""
    adapter: IntArray | None = None
    """int64[n]: low-rank adapter that a request asks for, -1: none; None: no request names one."""
    model: IntArray | None = None
    """int64[n]: index into ``model_names`` of the model that a request asks for."""
    model_names: tuple[str, ...] = ()
    concurrency: int | None = None
    name: str = "trace"
    source: str = ""
    """File or generator, with its parameters."""
    report: ReadReport | None = None
    """The account of the file this trace was read from; None for generated ones. Slices keep it."""

    def __post_init__(self) -> None:
        for column, dtype in _DTYPES.items():
            values = getattr(self, column)
            if values is not None:
                object.__setattr__(self, column, _column(self.name, column, values, dtype))
        self._check_rows()
        self._check_prefixes()
        self._check_sessions()
        self._check_labels()
        if self.concurrency is not None:
            if self.concurrency < 1:
                raise UserError(f"{self.name}: concurrency is {self.concurrency}; a closed loop needs at least 1")
            if self.previous is not None:
                raise UserError(f"{self.name}: sessions and a closed loop exclude each other; drop one of them")

    def __len__(self) -> int:
        return len(self.arrival_s)

    def __repr__(self) -> str:
        from workloads.trace_words import trace_line

        return f"<Trace {trace_line(self)}>"

    @property
    def duration_s(self) -> float:
        """From the first arrival to the last [s]; 0 when all arrive at once."""
        return float(self.arrival_s[-1] - self.arrival_s[0])

    @property
    def request_rate_per_s(self) -> float:
        """Reciprocal of the mean gap between arrivals [1/s]; infinite when all arrive at once."""
        return (len(self) - 1) / self.duration_s if self.duration_s > 0 else math.inf

    def slice_time(self, start_s: float, end_s: float) -> Trace:
        """Requests that arrive in [start_s, end_s), on a clock that starts at ``start_s``.

        A later turn whose earlier turns lie before the window starts a session at its own ``arrival_s``, with the
        history its ``input_tokens`` already has.
        """
        if self.concurrency is not None:
            raise UserError(f"{self.name}: a closed loop has no arrival times to slice by; use head(n)")
        first, last = np.searchsorted(self.arrival_s, [start_s, end_s])
        if first == last:
            raise UserError(
                f"{self.name}: no request arrives in [{start_s:g} s, {end_s:g} s); "
                f"the trace runs from {self.arrival_s[0]:g} s to {self.arrival_s[-1]:g} s"
            )
        rows = np.arange(first, last, dtype=np.int64)
        part = self._take(rows, f"[{start_s:g} s, {end_s:g} s)")
        return replace(part, arrival_s=part.arrival_s - start_s)

    def head(self, n: int) -> Trace:
        """The first ``n`` requests (all of them when there are fewer)."""
        if n < 1:
            raise UserError(f"{self.name}: head is {n}; it needs at least 1 request")
        return self if n >= len(self) else self._take(np.arange(n, dtype=np.int64), f"first {n}")

    def sample(self, fraction: float, seed: int = 0) -> Trace:
        """Keep each session (each request where there are none) with probability ``fraction``.

        Independent thinning: a Poisson trace stays Poisson at ``fraction`` of the rate, and with one seed a smaller
        sample is part of a larger one. Turns of a session stay or go together.
        """
        if not 0 < fraction <= 1:
            raise UserError(f"{self.name}: sample fraction is {fraction:g}; use a number above 0 and up to 1")
        drawn = stream(seed, "sample").random(len(self)) < fraction
        rows = np.flatnonzero(drawn[self.session_roots()])
        if len(rows) == 0:
            raise UserError(
                f"{self.name}: a sample of {fraction:g} keeps none of {len(self)} requests; use a larger fraction"
            )
        return self._take(rows, f"sample {fraction:g}, seed {seed}")

    def scale_rate(self, factor: float) -> Trace:
        """The same requests on a clock ``factor`` times as fast: 2 is twice the rate. Think times stay as they are."""
        if not (math.isfinite(factor) and factor > 0):
            raise UserError(f"{self.name}: rate factor is {factor:g}; use a positive number")
        if self.concurrency is not None:
            raise UserError(f"{self.name}: a closed loop has no rate to scale; set its concurrency instead")
        return replace(self, arrival_s=self.arrival_s / factor, source=f"{self.source}; rate x {factor:g}")

    def session_roots(self) -> IntArray:
        """int64[n]: row of the first turn of each request's session; the row itself where there are no sessions."""
        rows = np.arange(len(self), dtype=np.int64)
        if self.previous is None:
            return rows
        roots = np.where(self.previous >= 0, self.previous, rows)
        while True:
            further = roots[roots]
            if np.array_equal(further, roots):
                return roots
            roots = further

    def prefix_of(self, row: int) -> IntArray:
        """Prefix identities of one request (empty when the trace has none)."""
        if self.prefix_ids is None or self.prefix_offsets is None:
            return np.empty(0, dtype=np.int64)
        return self.prefix_ids[self.prefix_offsets[row] : self.prefix_offsets[row + 1]]

    def to_frame(self) -> Any:
        """pandas.DataFrame with the columns that ``read_trace`` reads back (docs/workloads.md)."""
        import pandas as pd

        columns: dict[str, Any] = {c: getattr(self, c) for c in ("arrival_s", "input_tokens", "output_tokens")}
        if self.previous is not None:
            columns |= {"previous": self.previous, "think_s": self.think_s}
        columns |= {c: values for c in OF_REQUESTS if (values := getattr(self, c)) is not None}
        if self.model is not None:
            columns["model"] = [self.model_names[i] for i in self.model.tolist()]
        if self.prefix_ids is not None:
            columns["prefix_ids"] = [self.prefix_of(i).tolist() for i in range(len(self))]
            columns["prefix_block_tokens"] = self.prefix_block_tokens
        if self.concurrency is not None:
            columns["concurrency"] = self.concurrency
        return pd.DataFrame(columns)

    def save(self, path: str | Path) -> None:
        """Write .csv, .jsonl or .parquet; ``read_trace`` gives the same arrays back, bit for bit."""
        path = Path(path)
        writers = {".csv": _write_csv, ".jsonl": _write_jsonl, ".parquet": _write_parquet}
        if path.suffix not in writers:
            raise UserError(f"{path}: cannot write '{path.suffix}' files; use {', '.join(sorted(writers))}")
        try:
            writers[path.suffix](self.to_frame(), path)
        except OSError as error:
            raise UserError(f"{path}: cannot write: {error.strerror or error}") from error

    def _take(self, rows: IntArray, how: str) -> Trace:
        """Rows in ascending order; a request whose ``previous`` is not among them starts a session."""
        changes: dict[str, Any] = {c: getattr(self, c)[rows] for c in ("arrival_s", "input_tokens", "output_tokens")}
        if self.prefix_ids is not None and self.prefix_offsets is not None:
            ids, offsets = take_ragged(self.prefix_ids, self.prefix_offsets, rows)
            changes |= {"prefix_ids": ids, "prefix_offsets": offsets}
        changes |= {c: values[rows] for c in OF_REQUESTS if (values := getattr(self, c)) is not None}
        if self.previous is not None and self.think_s is not None:
            new_row = np.full(len(self) + 1, -1, dtype=np.int64)  # the last entry serves previous == -1
            new_row[rows] = np.arange(len(rows))
            previous = new_row[self.previous[rows]]
            changes |= {"previous": previous, "think_s": np.where(previous >= 0, self.think_s[rows], 0.0)}
        return replace(self, **changes, source=f"{self.source}; {how}")

    def _check_rows(self) -> None:
        if len(self) == 0:
            raise UserError(f"{self.name}: no requests; a trace needs at least one")
        for column in ("input_tokens", "output_tokens", "previous", "think_s", *OF_REQUESTS):
            values = getattr(self, column)
            if values is not None and len(values) != len(self):
                raise UserError(f"{self.name}: {column} has {len(values)} rows, arrival_s has {len(self)}")
        _require(self, "arrival_s", np.isfinite(self.arrival_s) & (self.arrival_s >= 0), "be finite and at least 0")
        _require(self, "arrival_s", np.diff(self.arrival_s, prepend=0.0) >= 0, "not decrease; sort the rows")
        _require(self, "input_tokens", self.input_tokens >= 1, "be at least 1")
        _require(self, "output_tokens", self.output_tokens >= 1, "be at least 1")

    def _check_prefixes(self) -> None:
        given = (self.prefix_ids is not None, self.prefix_offsets is not None, self.prefix_block_tokens != 0)
        if not any(given):
            return
        if not all(given) or self.prefix_block_tokens < 1:
            raise UserError(f"{self.name}: prefix_ids, prefix_offsets and prefix_block_tokens (>= 1) go together")
        assert self.prefix_ids is not None and self.prefix_offsets is not None
        counts = np.diff(self.prefix_offsets)
        whole = len(counts) == len(self) and self.prefix_offsets[0] == 0
        if not (whole and counts.min() >= 0 and self.prefix_offsets[-1] == len(self.prefix_ids)):
            raise UserError(f"{self.name}: prefix_offsets must run from 0 to {len(self.prefix_ids)} in n + 1 steps")
        room = -(-(self.input_tokens + self.output_tokens) // self.prefix_block_tokens)
        _require(
            self, "prefix_ids", counts <= room, f"fit the tokens; is prefix_block_tokens {self.prefix_block_tokens}?"
        )

    def _check_labels(self) -> None:
        if self.adapter is not None:
            _require(self, "adapter", self.adapter >= -1, "be at least 0, or -1 for none")
        if self.model is not None:
            known = (self.model >= 0) & (self.model < len(self.model_names))
            _require(self, "model", known, f"be below {len(self.model_names)}, the number of model_names")

    def _check_sessions(self) -> None:
        if (self.previous is None) != (self.think_s is None):
            raise UserError(f"{self.name}: previous and think_s go together")
        if self.previous is None or self.think_s is None:
            return
        earlier = (self.previous >= -1) & (self.previous < np.arange(len(self)))
        _require(self, "previous", earlier, "be an earlier row, or -1")
        _require(self, "think_s", np.isfinite(self.think_s) & (self.think_s >= 0), "be finite and at least 0")
        _require(self, "think_s", (self.previous >= 0) | (self.think_s == 0), "be 0 where previous is -1")


_DTYPES: dict[str, npt.DTypeLike] = {
    "arrival_s": np.float64,
    "input_tokens": np.int64,
    "output_tokens": np.int64,
    "prefix_ids": np.int64,
    "prefix_offsets": np.int64,
    "previous": np.int64,
    "think_s": np.float64,
    "priority": np.int64,
    "client": np.int64,
    "adapter": np.int64,
    "model": np.int64,
}


def take_ragged(values: IntArray, offsets: IntArray, rows: IntArray) -> tuple[IntArray, IntArray]:
    """Values and offsets of the given rows of a ragged array."""
    counts = np.diff(offsets)[rows]
    new_offsets = np.concatenate(([0], np.cumsum(counts, dtype=np.int64)))
    shift = np.repeat(offsets[rows] - new_offsets[:-1], counts)
    return values[np.arange(new_offsets[-1], dtype=np.int64) + shift], new_offsets


def _column(name: str, column: str, values: Any, dtype: npt.DTypeLike) -> npt.NDArray[Any]:
    array = np.asarray(values)
    if array.ndim != 1:
        raise UserError(f"{name}: {column} has {array.ndim} dimensions; it needs 1")
    if dtype is np.int64 and array.dtype.kind == "f" and not np.array_equal(array, np.rint(array)):
        raise UserError(f"{name}: {column} has fractions; tokens and rows are whole numbers")
    view = array.astype(dtype, copy=False).view()
    view.flags.writeable = False
    return view


def _require(trace: Trace, column: str, ok: npt.NDArray[np.bool_], rule: str) -> None:
    if not ok.all():
        row = int(np.argmin(ok))
        values = getattr(trace, column)
        shown = f" is {values[row]!s}" if len(values) == len(trace) else ""
        raise UserError(f"{trace.name}: {column} of row {row}{shown}; it must {rule}")


def _write_csv(frame: Any, path: Path) -> None:
    if "prefix_ids" in frame:
        frame["prefix_ids"] = [" ".join(map(str, ids)) for ids in frame["prefix_ids"]]
    frame.to_csv(path, index=False, lineterminator="\n")


def _write_jsonl(frame: Any, path: Path) -> None:
    import json

    columns = {name: frame[name].tolist() for name in frame}
    with path.open("w", encoding="utf-8", newline="\n") as file:
        for row in zip(*columns.values(), strict=True):
            file.write(json.dumps(dict(zip(columns, row, strict=True))) + "\n")


def _write_parquet(frame: Any, path: Path) -> None:
    try:
        frame.to_parquet(path, index=False)
    except ImportError as error:
        raise UserError(
            "writing Parquet needs pyarrow; pip install 'apex-sim[parquet]', or name a .csv or .jsonl file"
        ) from error
