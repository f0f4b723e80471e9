"""From the rows of a trace file to a Trace: the checks and steps that all formats share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from hardware_profiles.errors import UserError
from workloads.arrivals import Horizon, arrival_times, parse_arrival
from workloads.lengths import MAX_TOKENS
from workloads.options import ReadOptions
from workloads.streams import stream
from workloads.tables import Table
from workloads.trace import FloatArray, IntArray, ReadReport, Trace, take_ragged


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Rows:
    """What a format found, before the checks that all formats share; parallel arrays of file rows."""

    table: Table
    format: str
    input_column: str
    output_column: str
    time_column: str | None = None
    time_s: FloatArray | None = None
    """None: a file of lengths."""
    rebase: bool = True
    """Move the first arrival to 0 (clocks whose origin means nothing)."""
    ids: IntArray | None = None
    offsets: IntArray | None = None
    block_tokens: int = 0
    links: IntArray | None = None
    """Row of the turn before, or -1."""
    think_s: FloatArray | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    """Further columns of requests (workloads.trace.OF_REQUESTS)."""
    model_names: tuple[str, ...] = ()
    """Of the column ``model``."""
    concurrency: int | None = None
    failures: str | None = None
    """Reason under which rows without output tokens are dropped; None: they are errors."""
    notes: tuple[str, ...] = ()


def finish(rows: Rows, options: ReadOptions) -> Trace:
    """Checks and steps all formats share: token counts, drops, order, clock, ties, links."""
    table = rows.table
    if table.num_rows == 0:
        raise UserError(f"{table.path}: has a header but no rows")
    inputs, outputs, kept, dropped = _tokens(rows, options)
    notes = list(rows.notes)
    if options.arrival is not None:
        if rows.links is not None:
            raise UserError(f"{table.path}: sessions keep their recorded times; leave out arrival or sessions")
        process = parse_arrival(options.arrival)
        rng = stream(options.seed, "arrivals")
        arrival_s = arrival_times(process, rng, options.rate_per_s, Horizon(num=len(kept)))
        concurrency = process.concurrency
        notes.append(f"arrivals drawn: {process.text}")
    elif rows.time_s is None:
        raise UserError(
            f"{table.path}: has lengths but no arrival column; give an arrival process "
            "(arrival=poisson and rate_per_s=5; --trace-arrival poisson --trace-rate 5, in apex-sim traces without "
            "trace-), or add a column arrival_s"
        )
    else:
        arrival_s, concurrency = rows.time_s[kept], rows.concurrency
        order = _order(rows, kept, arrival_s, options)
        kept, arrival_s = kept[order], arrival_s[order]
        if rows.rebase and arrival_s[0] != 0:
            notes.append(f"clock moved so that the first arrival, {arrival_s[0]:.12g} s, is 0")
            arrival_s = arrival_s - arrival_s[0]
        elif arrival_s[0] < 0:
            raise table.error(int(kept[0]), rows.time_column or "", f"{arrival_s[0]:g}", "it must be at least 0")
        if options.spread_ties:
            arrival_s = spread_ties(arrival_s)
    sharing: dict[str, Any] = {}
    if rows.ids is not None and rows.offsets is not None:
        ids, offsets = take_ragged(rows.ids, rows.offsets, kept)
        sharing = {"prefix_ids": ids, "prefix_offsets": offsets, "prefix_block_tokens": rows.block_tokens}
    report = ReadReport(
        format=rows.format,
        rows_read=table.num_rows,
        emitted=len(kept),
        dropped=dropped,
        notes=tuple(notes),
    )
    return Trace(
        arrival_s=arrival_s,
        input_tokens=inputs[kept],
        output_tokens=outputs[kept],
        concurrency=concurrency,
        name=table.path.stem,
        source=str(table.path),
        report=report,
        model_names=rows.model_names,
        **sharing,
        **{name: values[kept] for name, values in rows.about.items()},
        **_links(rows, kept),
    )


def _tokens(rows: Rows, options: ReadOptions) -> tuple[IntArray, IntArray, IntArray, dict[str, int]]:
    """Token counts of all rows, the rows to keep, and how many were dropped for which reason."""
    table = rows.table
    counts: dict[str, FloatArray] = {}
    for column in (rows.input_column, rows.output_column):
        values = counts[column] = table.numbers(column)
        bad = np.flatnonzero((values < 0) | (values > MAX_TOKENS) | (values != np.rint(values)))
        if len(bad):
            raise table.error(int(bad[0]), column, f"{values[bad[0]]:.12g}", "it must be a whole number of tokens")
    inputs, outputs = counts[rows.input_column], counts[rows.output_column]
    kept = np.ones(table.num_rows, dtype=np.bool_)
    dropped: dict[str, int] = {}
    for column, values, reason in (
        (rows.output_column, outputs, rows.failures or ("zero output tokens" if options.drop_empty else None)),
        (rows.input_column, inputs, "zero input tokens" if options.drop_empty else None),
    ):
        empty = kept & (values == 0)
        if not empty.any():
            continue
        if reason is None:
            row = int(np.argmax(empty))
            raise table.error(row, column, "0", "a request has at least 1 token: remove the row or set drop_empty")
        dropped[reason] = int(np.count_nonzero(empty))
        kept &= ~empty
    if not kept.any():
        raise UserError(f"{table.path}: all {table.num_rows} rows were dropped ({', '.join(dropped)})")
    return inputs.astype(np.int64), outputs.astype(np.int64), np.flatnonzero(kept), dropped


def _order(rows: Rows, kept: IntArray, arrival_s: FloatArray, options: ReadOptions) -> IntArray:
    falls = np.flatnonzero(np.diff(arrival_s) < 0)
    if len(falls) == 0:
        return np.arange(len(kept), dtype=np.int64)
    if options.sort:
        return np.argsort(arrival_s, kind="stable")
    row = int(kept[falls[0] + 1])
    assert rows.time_column is not None
    value = rows.table.columns[rows.time_column].iloc[row]
    rule = "it is earlier than the row before: set sort (--trace-sort; --sort of apex-sim traces)"
    raise rows.table.error(row, rows.time_column, value, rule)


def _links(rows: Rows, kept: IntArray) -> dict[str, Any]:
    """``previous`` and ``think_s`` of the kept rows; a turn whose earlier turn was dropped waits for the one before."""
    if rows.links is None or rows.think_s is None:
        return {}
    links = rows.links.copy()
    present = np.zeros(len(links) + 1, dtype=np.bool_)
    present[kept] = True
    while (lost := (links >= 0) & ~present[links]).any():
        links[lost] = links[links[lost]]
    new_row = np.full(len(links) + 1, -1, dtype=np.int64)
    new_row[kept] = np.arange(len(kept))
    previous = new_row[links[kept]]
    if (previous >= np.arange(len(kept))).any():
        raise UserError(
            f"{rows.table.path}: turns of a session are out of order in time; sort the file by session and time"
        )
    return {"previous": previous, "think_s": np.where(previous >= 0, rows.think_s[kept], 0.0)}


def spread_ties(arrival_s: FloatArray) -> FloatArray:
    """Spread the m requests of one timestamp evenly up to the next timestamp (the last: by the median step).

    Order and coarse rate stay; it undoes clocks quantised far above the time between requests, without randomness.
    """
    stamps, first, counts = np.unique(arrival_s, return_index=True, return_counts=True)
    steps = np.diff(stamps)
    steps = np.append(steps, np.median(steps) if len(steps) else 0.0)
    rank = np.arange(len(arrival_s)) - np.repeat(first, counts)
    return np.asarray(arrival_s + rank * np.repeat(steps / counts, counts), dtype=np.float64)


def constant(table: Table, column: str) -> int | None:
    """A column that holds one whole number throughout, or None when there is no such column."""
    if column not in table.columns:
        return None
    values = table.numbers(column)
    for row in np.flatnonzero((values != values[0]) | (values < 1) | (values % 1 != 0)):
        raise table.error(int(row), column, f"{values[row]:g}", "it must be the same whole number in all rows")
    return int(values[0])


def factorize(names: list[str]) -> tuple[IntArray, list[str]]:
    """Codes (-1 for the empty name) and names in order of first appearance."""
    import pandas as pd

    codes, distinct = pd.factorize(pd.Series(names, dtype=object).replace("", None))
    return np.asarray(codes, dtype=np.int64), [str(name) for name in distinct]


def chain(names: list[str]) -> IntArray:
    """int64[n]: the row before with the same name, or -1 (also for rows without a name)."""
    codes, _ = factorize(names)
    order = np.argsort(codes, kind="stable")
    same = (codes[order][1:] == codes[order][:-1]) & (codes[order][1:] >= 0)
    links = np.full(len(codes), -1, dtype=np.int64)
    links[order[1:][same]] = order[:-1][same]
    return links


def ragged(table: Table, column: str) -> tuple[IntArray, IntArray]:
    """Lists of whole numbers per row: JSON lists, or text separated by spaces."""
    cells = [_id_list(cell) for cell in table.columns[column].tolist()]
    offsets = np.concatenate(([0], np.cumsum([len(cell) for cell in cells], dtype=np.int64)))
    try:
        flat = np.fromiter((int(i) for cell in cells for i in cell), dtype=np.int64, count=int(offsets[-1]))
    except (ValueError, TypeError, OverflowError):
        row = next(i for i, cell in enumerate(cells) if not all(_is_whole(x) for x in cell))
        raise table.error(row, column, str(cells[row])[:60], "it must be a list of whole numbers") from None
    return flat, offsets


def _id_list(cell: Any) -> Any:
    if cell is None or isinstance(cell, float):
        return [] if cell is None or np.isnan(cell) else [cell]
    if isinstance(cell, str):
        return cell.split()
    return [cell] if isinstance(cell, int | np.integer) else cell


def _is_whole(value: Any) -> bool:
    try:
        return -(2**63) <= int(value) < 2**63
    except (ValueError, TypeError):
        return False
