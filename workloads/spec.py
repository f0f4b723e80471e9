"""A workload as YAML: either a synthetic one, key by key, or a trace file with what is to be done to it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields, replace
from importlib import resources
from pathlib import Path
from typing import Any

from hardware_profiles.errors import UserError, unknown_name
from workloads.labels import AdapterDraw
from workloads.lengths import parse_length
from workloads.options import ReadOptions
from workloads.pairs import pairs
from workloads.readers import read_trace
from workloads.synthetic import PromptPool, Sessions, SharedPrefix, generate, with_adapters
from workloads.token_changes import TOKEN_KEYS, TokenChanges, change_tokens
from workloads.trace import Trace

SYNTHETIC_KEYS: dict[str, str] = {
    "name": "name of the workload in reports; default: the file's name",
    "seed": "whole number; default 0",
    "num_requests": "how many requests (this or duration_s)",
    "duration_s": "how long requests, or sessions, keep arriving [s]",
    "rate_per_s": "mean requests per second",
    "arrival": "arrival process; default poisson",
    "input_len": "prompt tokens: a number or a distribution",
    "output_len": "output tokens: a number or a distribution",
    "prefix": "shared system prompts: groups, tokens, popularity, share",
    "prompts": "a pool of identical requests: distinct, order",
    "sessions": "multi-turn conversations: turns, think_s, max_context_tokens",
    "block_tokens": "tokens per prefix id; default 16",
    "adapters": "adapter of every request: count, popularity, assign (request, session, turn)",
    **TOKEN_KEYS,
}
TRACE_KEYS: dict[str, str] = {
    "name": "name of the workload in reports; default: the file's name",
    "trace": "trace file, relative to this YAML",
    "format": "its format; default: detected",
    "options": "how to read it: sort, sessions, spread_ties, drop_empty, block_tokens, columns, time_unit, ...",
    "slice_s": "[start, end): keep the requests that arrive in it [s]; done first",
    "sample": "keep this fraction of sessions (requests), at random; done second",
    "head": "keep the first so many requests; done third",
    "scale_rate": "run the clock this many times as fast; done last",
    "adapters": "adapter of every request: count, popularity, assign (request, session, turn)",
    "rate_per_s": "run the clock so that this is the mean rate (instead of scale_rate)",
    "seed": "seed of sample and of token changes; default 0",
    **TOKEN_KEYS,
}
PREFIX_KEYS = tuple(f.name for f in fields(SharedPrefix))
PROMPT_KEYS = tuple(f.name for f in fields(PromptPool))
SESSION_KEYS = tuple(f.name for f in fields(Sessions))
ADAPTER_KEYS = tuple(f.name for f in fields(AdapterDraw))
OPTION_KEYS = tuple(f.name for f in fields(ReadOptions))


def open_workload(path: str | Path, format: str | None = None, **options: Any) -> Trace:
    """A trace from whatever the user names: a workload YAML, a bundled sample (``chat_small``), or a trace file."""
    path = Path(path)
    bundled = sample_path(str(path))
    if not path.exists() and bundled is not None:
        # where the package is installed says nothing about the workload
        return replace(read_trace(bundled, format, **options), source=f"bundled sample {path}")
    if path.suffix in (".yaml", ".yml"):
        if format is not None or options:
            given = ", ".join(["format"] * (format is not None) + sorted(options))
            raise UserError(
                f"{path}: {given} cannot be given beside a workload YAML; write it under format and options"
            )
        return load_workload(path)
    return read_trace(path, format, **options)


def sample_path(name: str) -> Path | None:
    """File of a bundled sample, or None when there is none of that name."""
    path = Path(str(resources.files("workloads"))) / "samples" / f"{name}.csv"
    return path if "/" not in name and path.exists() else None


def load_workload(path: str | Path) -> Trace:
    """The trace that a workload YAML describes; relative files in it are looked up beside it."""
    import yaml

    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise UserError(f"{path}: cannot read: {error.strerror or error}") from error
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: is not a text file: {error}") from error
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise UserError(f"{path}: is not YAML: {' '.join(str(error).split())}") from error
    return workload_from_dict(data, where=str(path), folder=path.parent, default_name=path.stem)


def workload_from_dict(
    data: object, *, where: str = "workload", folder: Path | None = None, default_name: str = "workload"
) -> Trace:
    """The trace that the mapping describes; ``where`` opens every error message."""
    if not isinstance(data, Mapping) or not data:
        raise UserError(f"{where}: is not a mapping of keys; write at least num_requests, rate_per_s and two lengths")
    try:
        build = _replayed if "trace" in data else _synthetic
        keys = _Reader(data, "")
        trace = change_tokens(build(keys, folder), _token_changes(keys))
        adapters = keys.inner("adapters")
        if adapters is not None:
            trace = with_adapters(trace, _adapters(adapters), keys.integer("seed") or 0)
        name = keys.text("name")
    except UserError as error:
        message = str(error)
        raise UserError(message if message.startswith(where) else f"{where}: {message}") from error
    return replace(trace, name=name or default_name)


def _token_changes(keys: _Reader) -> TokenChanges:
    whole = ("extra_input", "max_input", "max_output")
    given: dict[str, Any] = {name: keys.integer(name) if name in whole else keys.number(name) for name in TOKEN_KEYS}
    return TokenChanges(**given, seed=keys.integer("seed") or 0)


def _synthetic(keys: _Reader, folder: Path | None) -> Trace:
    keys.only(SYNTHETIC_KEYS)
    for needed in ("input_len", "output_len"):
        if needed not in keys.data:
            raise UserError(f"{needed} is missing; give a number of tokens or a distribution")
    return generate(
        input_len=keys.data["input_len"],
        output_len=keys.data["output_len"],
        num_requests=keys.integer("num_requests"),
        duration_s=keys.number("duration_s"),
        rate_per_s=keys.number("rate_per_s"),
        arrival=keys.data.get("arrival", "poisson"),
        seed=keys.integer("seed") or 0,
        **_in_common(keys, folder),
        prefix_block_tokens=_or(keys.integer("block_tokens"), 16),
        folder=folder,
    )


def _in_common(keys: _Reader, folder: Path | None) -> dict[str, Any]:
    """Keywords of ``generate`` about what prompts have in common."""
    prefix, prompts, sessions = keys.inner("prefix"), keys.inner("prompts"), keys.inner("sessions")
    return {
        "prefix": None if prefix is None else _prefix(prefix, folder),
        "prompts": None if prompts is None else _prompts(prompts),
        "sessions": None if sessions is None else _sessions(sessions, folder),
    }


def prompts_in_common(given: Mapping[str, str | Mapping[str, Any] | None]) -> dict[str, Any]:
    """Keywords of ``generate`` from ``prefix``, ``prompts`` and ``sessions``, each as text (groups=8,tokens=512) or mapping."""
    chosen = {name: pairs(value, f"--{name}") for name, value in given.items() if value is not None}
    return _in_common(_Reader(chosen, ""), None)


def _prefix(keys: _Reader, folder: Path | None) -> SharedPrefix:
    keys.only(PREFIX_KEYS, needed="tokens")
    return SharedPrefix(
        tokens=parse_length(keys.data["tokens"], what="prefix.tokens", folder=folder),
        groups=_or(keys.integer("groups"), 1),
        popularity=keys.text("popularity") or "uniform",
        share=_or(keys.number("share"), 1.0),
    )


def _prompts(keys: _Reader) -> PromptPool:
    keys.only(PROMPT_KEYS, needed="distinct")
    return PromptPool(distinct=_or(keys.integer("distinct"), 0), order=keys.text("order") or "cycle")


def _sessions(keys: _Reader, folder: Path | None) -> Sessions:
    keys.only(SESSION_KEYS, needed="turns")
    return Sessions(
        turns=parse_length(keys.data["turns"], what="sessions.turns", folder=folder),
        think_s=parse_length(keys.data.get("think_s", 0), what="sessions.think_s", folder=folder),
        max_context_tokens=keys.integer("max_context_tokens"),
    )


def _adapters(keys: _Reader) -> AdapterDraw:
    keys.only(ADAPTER_KEYS, needed="count")
    return AdapterDraw(
        count=_or(keys.integer("count"), 0),
        popularity=keys.text("popularity") or "uniform",
        assign=keys.text("assign") or "request",
    )


def _replayed(keys: _Reader, folder: Path | None) -> Trace:
    keys.only(TRACE_KEYS)
    path = Path(keys.text("trace") or "")
    if sample_path(str(path)) is None or (folder is not None and (folder / path).exists()):
        path = path if folder is None else folder / path
    options = keys.inner("options") or _Reader({}, "options.")
    options.only(OPTION_KEYS)
    trace = open_workload(path, keys.text("format"), **options.read_options())
    window = keys.data.get("slice_s")
    if window is not None:
        if not isinstance(window, list) or len(window) != 2:
            raise UserError(f"slice_s is {window!r}; write [start, end] in seconds")
        window = (_number("slice_s", window[0]), _number("slice_s", window[1]))
    return cut(
        trace,
        slice_s=window,
        sample=keys.number("sample"),
        seed=keys.integer("seed") or 0,
        head=keys.integer("head"),
        scale_rate=keys.number("scale_rate"),
        rate_per_s=keys.number("rate_per_s"),
    )


def cut(
    trace: Trace,
    *,
    slice_s: tuple[float, float] | None = None,
    sample: float | None = None,
    seed: int = 0,
    head: int | None = None,
    scale_rate: float | None = None,
    rate_per_s: float | None = None,
) -> Trace:
    """Slice, sample, head and pace, in this order; what is None is left out."""
    if scale_rate is not None and rate_per_s is not None:
        raise UserError("scale_rate and rate_per_s exclude each other; drop one of them")
    if slice_s is not None:
        trace = trace.slice_time(*slice_s)
    if sample is not None:
        trace = trace.sample(sample, seed)
    if head is not None:
        trace = trace.head(head)
    if rate_per_s is not None:
        if trace.duration_s == 0:
            raise UserError(
                f"{trace.name}: all requests arrive at once, so there is no rate to scale; give an arrival process"
            )
        scale_rate = rate_per_s / trace.request_rate_per_s
    return trace if scale_rate is None else trace.scale_rate(scale_rate)


class _Reader:
    """Typed access to a mapping; ``path`` is what stands before a key in messages."""

    def __init__(self, data: Mapping[Any, Any], path: str) -> None:
        self.data = data
        self.path = path

    def only(self, known: Mapping[str, str] | tuple[str, ...], needed: str | None = None) -> None:
        for key in self.data:
            if key not in known and str(key).endswith(")"):
                raise UserError(
                    f"'{key}' in {self.path.rstrip('.') or 'the workload'} is the end of a value: within {{}} YAML splits at "
                    "commas; quote it, as in {tokens: 'uniform(200, 800)'}"
                )
            if key not in known:
                raise unknown_name("workload key", f"{self.path}{key}", [f"{self.path}{k}" for k in known])
        if needed is not None and needed not in self.data:
            raise UserError(f"{self.path}{needed} is missing")

    def inner(self, key: str) -> _Reader | None:
        value = self.data.get(key)
        if value is None:
            return None
        if not isinstance(value, Mapping):
            raise UserError(f"{self.path}{key} is {value!r}; it must be a mapping of keys")
        return _Reader(value, f"{self.path}{key}.")

    def number(self, key: str) -> float | None:
        value = self.data.get(key)
        return None if value is None else _number(self.path + key, value)

    def integer(self, key: str) -> int | None:
        value = self.number(key)
        if value is None:
            return None
        if value != int(value):
            raise UserError(f"{self.path}{key} is {value:g}; it must be a whole number")
        return int(value)

    def text(self, key: str) -> str | None:
        value = self.data.get(key)
        if value is not None and not isinstance(value, str):
            raise UserError(f"{self.path}{key} is {value!r}; it must be text (put it in quotes)")
        return value

    def flag(self, key: str) -> bool:
        value = self.data.get(key, False)
        if not isinstance(value, bool):
            raise UserError(f"{self.path}{key} is {value!r}; it must be true or false")
        return value

    def read_options(self) -> dict[str, Any]:
        """Values of ``ReadOptions`` fields, each checked for its kind."""
        kinds: dict[str, Any] = {"bool": self.flag, "int": self.integer, "float": self.number, "str": self.text}
        checked: dict[str, Any] = {}
        for option in fields(ReadOptions):
            if option.name not in self.data:
                continue
            kind = str(option.type).split(" ")[0]
            if option.name == "columns":
                inner = self.inner("columns")
                checked["columns"] = {} if inner is None else {k: inner.text(k) for k in inner.data}
            else:
                checked[option.name] = kinds[kind](option.name)
        return checked


def _or(value: Any, default: Any) -> Any:
    return default if value is None else value


def _number(key: str, value: object) -> float:
    """A number; text that looks like one is explained, because PyYAML reads 1e3 as text."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise UserError(f"{key} is {value!r}; it must be a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{key} is {value}; it must be finite")
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            raise UserError(f"{key} is '{value}'; it must be a number") from None
        raise UserError(
            f"{key} is the string '{value}'; YAML reads {number:g} or 1.0e+3 as a number, not 1e3 or quotes"
        )
    return float(value)
