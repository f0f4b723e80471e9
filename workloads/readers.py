"""Trace files: one function per format, a dict that names them, and detection from the first line.

To add a format, write ``read_x(path, options) -> Trace`` and add a line to ``READERS`` and one to ``detect_format``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from hardware_profiles.errors import UserError, unknown_name
from workloads.labels import read_labels
from workloads.lengths import Role
from workloads.options import ALIASES, PLAIN_BLOCK_TOKENS, TIME_UNITS, ReadOptions
from workloads.prefixes import build_ids
from workloads.rows import Rows, chain, constant, factorize, finish, ragged
from workloads.sharegpt import read_sharegpt
from workloads.tables import Table, first_line, json_lines, read_csv, read_jsonl, read_parquet
from workloads.trace import FloatArray, IntArray, Trace

MOONCAKE_BLOCK_TOKENS = 512
"""Tokens per hash id (Mooncake, FAST '25, trace release)."""
BAILIAN_BLOCK_TOKENS = 16
"""Tokens per hash id (alibaba-edu/qwen-bailian-usagetraces-anon, README)."""
MOST_PRIORITY = 1e9
"""Priorities are small numbers."""
EPOCH_S = 1e8
"""A first arrival later than this (three years) can only be a calendar clock, so it is moved to 0."""


def read_trace(path: str | Path, format: str | None = None, **options: Any) -> Trace:
    """Read a trace file; without ``format`` it is detected. Keywords are the fields of ``ReadOptions``.

    The account of rows read, dropped and kept is ``trace.report``.
    """
    path = Path(path)
    known = {f.name for f in fields(ReadOptions)}
    for name in options:
        if name not in known:
            raise unknown_name("trace option", name, known)
    parsed = ReadOptions(**options)
    name = format or detect_format(path)
    if name not in READERS:
        raise unknown_name("trace format", name, READERS)
    _refuse_unused(path, name, parsed)
    return READERS[name](path, parsed)


def _refuse_unused(path: Path, format: str, options: ReadOptions) -> None:
    """An option that the format has no use for would be ignored in silence: the file has its own columns and units."""
    default = ReadOptions()
    for option, formats in ONLY_OF.items():
        if format not in formats and getattr(options, option) != getattr(default, option):
            raise UserError(
                f"{path}: {option} has no effect on the {format} format, only on {', '.join(formats)}; leave it out, or "
                "name one of these as format"
            )


def detect_format(path: str | Path) -> str:
    """Name of the format, from the file's ending and first line."""
    path = Path(path)
    if path.suffix == ".parquet":
        return "parquet"
    line = first_line(path)
    if line.startswith("["):
        return "sharegpt"
    if line.startswith("{"):
        return _detect_json(path)
    columns = [cell.strip().strip('"') for cell in line.split(",")]
    if {"TIMESTAMP", "ContextTokens", "GeneratedTokens"} <= set(columns):
        return "azure"
    if {"Timestamp", "Request tokens", "Response tokens"} <= set(columns):
        return "burstgpt"
    if _find(columns, "input_tokens", {}) and _find(columns, "output_tokens", {}):
        return "csv"
    raise _undetected(path, columns)


def _detect_json(path: Path) -> str:
    line_number, item = next(json_lines(path))
    assert line_number
    if "conversations" in item or "messages" in item:
        return "sharegpt"
    if {"chat_id", "timestamp", "input_length"} <= item.keys():
        return "bailian"
    if {"timestamp", "input_length", "output_length"} <= item.keys() and isinstance(item.get("hash_ids", []), list):
        return "mooncake"
    if _find(item, "input_tokens", {}) and _find(item, "output_tokens", {}):
        return "jsonl"
    raise _undetected(path, list(item))


def _undetected(path: Path, columns: list[str]) -> UserError:
    shown = ", ".join(columns[:8])[:200]
    if len(columns) == 1 and any(mark in shown for mark in ";\t|"):
        return UserError(f"{path}: cells are not separated by commas ({shown}); write it with commas")
    return UserError(
        f"{path}: cannot tell the trace format from the columns ({shown}); name one of {', '.join(sorted(READERS))}, "
        "or rename columns to arrival_s, input_tokens, output_tokens"
    )


def read_lengths(path: Path, *, column: str | None = None, role: Role | None = None) -> FloatArray:
    """Token counts of one column, or of the input or output side of any trace file; file order."""
    if column is None and path.suffix not in (".jsonl", ".json", ".parquet") and "," not in first_line(path):
        column = first_line(path)
    if column is not None:
        table = read_parquet(path) if path.suffix == ".parquet" else read_csv(path)
        if column not in table.columns:
            raise UserError(f"{path}: {unknown_name('column', column, table.columns)}")
        values = table.numbers(column)
        if len(values) == 0:
            raise UserError(f"{path}: has a header but no rows")
        bad = np.flatnonzero(values < 0)
        if len(bad):
            raise table.error(int(bad[0]), column, f"{values[bad[0]]:g}", "it must be at least 0")
        return values
    if role is None:
        raise UserError(f"{path}: has several columns; write empirical({path.name}, column=NAME)")
    trace = read_trace(path, arrival="at-once", drop_empty=True)
    return (trace.input_tokens if role == "input" else trace.output_tokens).astype(np.float64)


def read_azure(path: Path, options: ReadOptions) -> Trace:
    """Azure LLM inference traces 2023 and 2024 (dates with 7, 6 or no fractional digits)."""
    columns = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
    table = _need(read_csv(path), columns)
    time_s, _ = table.times("TIMESTAMP", 1.0)
    rows = Rows(
        table=table,
        format="azure",
        time_column="TIMESTAMP",
        time_s=time_s,
        input_column="ContextTokens",
        output_column="GeneratedTokens",
    )
    return finish(rows, options)


def read_burstgpt(path: Path, options: ReadOptions) -> Trace:
    """BurstGPT v1 to v3, by column name; rows without response tokens are failures and are dropped.

    ``sessions``: rows with a ``Session ID`` wait for the session's row before; think time is the gap between arrivals
    less the earlier row's ``Elapsed time``, at least 0.
    """
    needed = ("Timestamp", "Request tokens", "Response tokens")
    table = _need(read_csv(path), needed)
    time_s = table.numbers("Timestamp")
    links, think_s, notes = None, None, []
    if "Session ID" in table.columns:
        names = table.texts("Session ID")
        links = chain(names)
        notes.append(f"{len(set(names) - {''})} sessions in the file")
    if options.sessions:
        if links is None or "Elapsed time" not in table.columns:
            raise UserError(f"{path}: has no 'Session ID' and 'Elapsed time'; sessions needs BurstGPT v3")
        finished = time_s + table.optional_numbers("Elapsed time", 0.0)
        think_s = np.where(links >= 0, np.maximum(time_s - finished[links], 0.0), 0.0)
    rows = Rows(
        table=table,
        format="burstgpt",
        time_column="Timestamp",
        time_s=time_s,
        input_column="Request tokens",
        output_column="Response tokens",
        links=links if options.sessions else None,
        think_s=think_s,
        failures="no response (failure)",
        notes=tuple(notes),
    )
    return finish(rows, options)


def read_mooncake(path: Path, options: ReadOptions) -> Trace:
    """Mooncake JSONL: timestamp [ms], input_length, output_length, hash_ids of 512 tokens each."""
    return _read_hashed(path, options, "mooncake", unit_s=1e-3, block_tokens=MOONCAKE_BLOCK_TOKENS)


def read_bailian(path: Path, options: ReadOptions) -> Trace:
    """Qwen-Bailian JSONL: Mooncake's fields with seconds and 16-token hash ids. Chat links are not followed."""
    if options.sessions:
        raise UserError(f"{path}: bailian traces have no think times; leave out sessions")
    return _read_hashed(path, options, "bailian", unit_s=1.0, block_tokens=BAILIAN_BLOCK_TOKENS)


def _read_hashed(path: Path, options: ReadOptions, format: str, *, unit_s: float, block_tokens: int) -> Trace:
    needed = ("timestamp", "input_length", "output_length")
    table = _need(read_jsonl(path), needed)
    block = options.block_tokens or block_tokens
    ids, offsets, links, think_s = None, None, None, None
    if "hash_ids" in table.columns:
        ids, offsets = ragged(table, "hash_ids")
        _check_hashes(table, np.diff(offsets), block)
    if options.sessions:
        if not {"session_id", "delay"} <= table.columns.keys():
            raise UserError(f"{path}: has no session_id and delay; leave out sessions")
        links = chain(table.texts("session_id"))
        think_s = np.where(links >= 0, table.optional_numbers("delay", 0.0) * 1e-3, 0.0)
    rows = Rows(
        table=table,
        format=format,
        time_column="timestamp",
        time_s=table.numbers("timestamp") * unit_s,
        input_column="input_length",
        output_column="output_length",
        ids=ids,
        offsets=offsets,
        block_tokens=block if ids is not None else 0,
        links=links,
        think_s=think_s,
    )
    return finish(rows, options)


def _check_hashes(table: Table, counts: IntArray, block: int) -> None:
    needed = -(-table.numbers("input_length") // block)
    bad = np.flatnonzero((counts > 0) & (counts != needed))
    if len(bad):
        row = int(bad[0])
        raise UserError(
            f"{table.place(row)}: {counts[row]} hash_ids for input_length {table.columns['input_length'].iloc[row]:g}; "
            f"{block}-token blocks need {needed[row]:g}: set block_tokens to the trace's block size"
        )


def read_plain_csv(path: Path, options: ReadOptions) -> Trace:
    """CSV with our columns or their aliases (docs/workloads.md)."""
    return _read_plain(read_csv(path), "csv", options)


def read_plain_jsonl(path: Path, options: ReadOptions) -> Trace:
    """JSON lines with our columns or their aliases."""
    return _read_plain(read_jsonl(path), "jsonl", options)


def read_plain_parquet(path: Path, options: ReadOptions) -> Trace:
    """Parquet with our columns or their aliases."""
    return _read_plain(read_parquet(path), "parquet", options)


def _read_plain(table: Table, format: str, options: ReadOptions) -> Trace:
    def find(name: str) -> str | None:
        return _find(table.columns, name, options.columns)

    for name, column in options.columns.items():
        _need(table, (column,), f"{name} is to be read from it")
    needed = {name: find(name) for name in ("input_tokens", "output_tokens")}
    for name, found in needed.items():
        if found is None:
            _need(table, (name,), f"accepted names: {', '.join((name, *ALIASES[name]))}")
    if table.num_rows == 0:
        raise UserError(f"{table.path}: has a header but no rows")
    time_column = find("arrival_s")
    if time_column is None and "timestamp" in table.columns and options.arrival is None:
        if options.time_unit is None and not table.holds_dates("timestamp"):
            raise UserError(
                f"{table.path}: the column timestamp does not say its unit; give time_unit=s or ms, "
                "or name the format (mooncake: ms, bailian: s)"
            )
        time_column = "timestamp"
    time_s, dates = (None, False) if time_column is None else table.times(time_column, _unit_s(time_column, options))
    ours = time_column == "arrival_s" and not dates and options.time_unit is None
    ids, offsets, block = _plain_prefixes(table, find("prefix_ids"), options)
    links, think_s = _plain_links(table, find("session_id"), options)
    labels, model_names = read_labels(table)
    rows = Rows(
        table=table,
        format=format,
        time_column=time_column,
        time_s=time_s,
        rebase=not ours or bool(time_s is not None and time_s.min() > EPOCH_S),
        input_column=needed["input_tokens"] or "",
        output_column=needed["output_tokens"] or "",
        ids=ids,
        offsets=offsets,
        block_tokens=block,
        links=links,
        think_s=think_s,
        about=_plain_about(table, find("priority"), find("client")) | labels,
        model_names=model_names,
        concurrency=constant(table, "concurrency"),
    )
    return finish(rows, options)


def _unit_s(column: str, options: ReadOptions) -> float:
    if options.time_unit is not None:
        return TIME_UNITS[options.time_unit]
    return next((unit for suffix, unit in TIME_UNITS.items() if column.endswith(f"_{suffix}")), 1.0)


def _plain_prefixes(
    table: Table, ids_column: str | None, options: ReadOptions
) -> tuple[IntArray | None, IntArray | None, int]:
    block = options.block_tokens or constant(table, "prefix_block_tokens") or PLAIN_BLOCK_TOKENS
    if ids_column is not None:
        ids, offsets = ragged(table, ids_column)
        return ids, offsets, block
    if "prefix_id" not in table.columns:
        return None, None, 0
    _need(table, ("prefix_tokens",), "prefix_id needs it")
    tokens = table.optional_numbers("prefix_tokens", 0.0)
    names = table.texts("prefix_id")
    for row in np.flatnonzero(tokens < 0):
        raise table.error(int(row), "prefix_tokens", f"{tokens[row]:g}", "it must be at least 0")
    group, group_names = factorize(names)
    blocks = np.where(group >= 0, tokens // block, 0).astype(np.int64)
    longest = np.zeros(len(group_names) + 1, dtype=np.int64)
    np.maximum.at(longest, group, blocks)
    base = (np.cumsum(longest) - longest)[group]
    ids, offsets = build_ids(num_blocks=blocks, shared_blocks=np.zeros_like(blocks), shared_base=base, own_base=base)
    return ids, offsets, block


def _plain_links(
    table: Table, session_column: str | None, options: ReadOptions
) -> tuple[IntArray | None, FloatArray | None]:
    if "think_s" not in table.columns:
        if options.sessions:
            raise UserError(f"{table.path}: sessions need a column think_s; add it or leave out sessions")
        return None, None
    if "previous" in table.columns:
        links = table.numbers("previous").astype(np.int64)
        row = np.arange(table.num_rows)
        for bad in np.flatnonzero((links < -1) | (links >= row)):
            raise table.error(int(bad), "previous", links[bad], "it must be an earlier row (from 0), or -1")
    elif session_column is not None:
        links = chain(table.texts(session_column))
    else:
        raise UserError(f"{table.path}: think_s needs a column session_id (or previous)")
    think_s = table.optional_numbers("think_s", 0.0)
    for bad in np.flatnonzero(think_s < 0):
        raise table.error(int(bad), "think_s", f"{think_s[bad]:g}", "it must be at least 0")
    return links, np.where(links >= 0, think_s, 0.0)


def _plain_about(table: Table, priority: str | None, client: str | None) -> dict[str, IntArray]:
    """Priorities (whole numbers, lower first) and clients (any names)."""
    about: dict[str, IntArray] = {}
    if priority is not None:
        values = table.numbers(priority)
        for row in np.flatnonzero((values != np.rint(values)) | (np.abs(values) > MOST_PRIORITY)):
            raise table.error(int(row), priority, f"{values[row]:g}", "it must be a whole number, lower ones first")
        about["priority"] = values.astype(np.int64)
    if client is not None:
        numbered = table.columns[client].dtype.kind in "iu" and table.columns[client].min() >= 0
        about["client"] = (
            table.columns[client].to_numpy(dtype=np.int64) if numbered else factorize(table.texts(client))[0] + 1
        )
    return about


def _find(columns: Iterable[str], name: str, renamed: Mapping[str, str]) -> str | None:
    """The file's column for one of our names: as told, by our own name, or by an alias."""
    if name in renamed:
        return renamed[name]
    present = list(columns)
    return next((c for c in (name, *ALIASES.get(name, ())) if c in present), None)


def _need(table: Table, columns: Iterable[str], why: str = "the format has it") -> Table:
    for column in columns:
        if column not in table.columns:
            found = ", ".join(table.columns)[:200] or "none"
            raise UserError(f"{table.path}: no column '{column}' ({why}); columns: {found}")
    return table


PLAIN = ("csv", "jsonl", "parquet")
ONLY_OF: dict[str, tuple[str, ...]] = {
    "columns": PLAIN,
    "time_unit": PLAIN,
    "block_tokens": ("mooncake", "bailian", "sharegpt", *PLAIN),
    "sessions": ("burstgpt", "mooncake", "bailian", "sharegpt", *PLAIN),
    "think_s": ("sharegpt",),
    "characters_per_token": ("sharegpt",),
}
"""Options that not every format can follow, and the formats that do."""

READERS: dict[str, Callable[[Path, ReadOptions], Trace]] = {
    "azure": read_azure,
    "burstgpt": read_burstgpt,
    "mooncake": read_mooncake,
    "bailian": read_bailian,
    "sharegpt": read_sharegpt,
    "csv": read_plain_csv,
    "jsonl": read_plain_jsonl,
    "parquet": read_plain_parquet,
}
