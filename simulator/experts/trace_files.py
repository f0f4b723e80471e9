"""Routing traces as files: npz and Parquet."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from hardware_profiles.errors import UserError
from simulator.experts.routing import Ints, Routing

ARRAY = "experts"
COLUMNS = ("token", "layer")
MOST_EXPERTS = 32_767
"""Largest number of an expert that a file may hold: what --save-routing writes has 16 bits."""


def read_routing(path: str | Path, num_experts: int) -> Routing:
    """A trace of expert choices.

    npz: an array ``experts`` of shape tokens x layers x top-k (top-1: tokens x layers). Parquet: a row per token and layer,
    columns token, layer and expert_0 ... expert_{k-1} (or expert).
    """
    file = Path(path)
    try:
        found = file.is_file()
    except (OSError, ValueError):  # a name that no file can have
        found = False
    if not found:
        raise UserError(f"{path}: no such file; give a routing trace (.npz or .parquet)")
    suffix = file.suffix.lower()
    if suffix not in (".npz", ".parquet"):
        raise UserError(f"{path}: the ending says the format; a routing trace is .npz or .parquet")
    array = _read_npz(file) if suffix == ".npz" else _read_parquet(file)
    if array.ndim == 2:
        array = array[:, :, None]
    return Routing(name=file.name, experts=_whole(array, file.name), num_experts=num_experts)


def _whole(array: npt.NDArray[Any], name: str) -> Ints:
    """Expert numbers as integers, or a UserError."""
    if not np.issubdtype(array.dtype, np.number) or np.issubdtype(array.dtype, np.complexfloating):
        raise UserError(f"{name}: {ARRAY} holds {array.dtype}; it must hold whole numbers, the chosen experts")
    if np.issubdtype(array.dtype, np.floating) and not (np.isfinite(array).all() and (array == np.floor(array)).all()):
        raise UserError(f"{name}: {ARRAY} has entries that are no whole numbers (missing choices?); drop those tokens")
    if array.size and max(abs(float(array.max())), abs(float(array.min()))) > MOST_EXPERTS:
        raise UserError(f"{name}: {ARRAY} has entries beyond {MOST_EXPERTS:,}; it must hold the chosen experts, from 0")
    return np.asarray(array, dtype=np.int64)


def _read_npz(file: Path) -> npt.NDArray[Any]:
    try:
        loaded = np.load(file, allow_pickle=False)
        if not isinstance(loaded, np.lib.npyio.NpzFile):  # an array alone, as numpy.save writes it
            raise ValueError
        with loaded as content:
            if ARRAY not in content.files:
                found = ", ".join(content.files) or "none"
                raise UserError(
                    f"{file.name}: no array {ARRAY!r}; it has {found}. Save tokens x layers x top-k under that name"
                )
            return np.asarray(content[ARRAY])
    except (ValueError, OSError, zipfile.BadZipFile, EOFError) as error:
        if isinstance(error, UserError):
            raise
        raise UserError(f"{file.name}: cannot be read as npz; write it with numpy.savez(file, {ARRAY}=array)") from None


def _read_parquet(file: Path) -> npt.NDArray[Any]:
    import pandas as pd

    try:
        frame = pd.read_parquet(file)
    except ImportError:
        raise UserError(
            f"{file.name}: reading Parquet needs pyarrow; pip install 'apex-sim[parquet]', or use .npz"
        ) from None
    except (ValueError, OSError) as error:
        raise UserError(f"{file.name}: cannot be read as Parquet ({str(error).splitlines()[0]})") from None
    names = ["expert"] if "expert" in frame.columns else [c for c in frame.columns if str(c).startswith("expert_")]
    missing = [c for c in COLUMNS if c not in frame.columns] + ([] if names else ["expert_0"])
    if missing:
        raise UserError(f"{file.name}: no column {missing[0]!r}; needed are token, layer, expert_0 ... expert_(k-1)")
    if names != ["expert"]:
        wanted = [f"expert_{i}" for i in range(len(names))]
        if sorted(map(str, names)) != sorted(wanted):
            raise UserError(f"{file.name}: columns {', '.join(map(str, names))}; they must be {', '.join(wanted)}")
        names = wanted
    if frame[[*COLUMNS, *names]].isna().to_numpy().any():
        raise UserError(f"{file.name}: has empty cells; every token needs its experts in every layer")
    tokens, layers = frame["token"].nunique(), frame["layer"].nunique()
    if frame.duplicated(list(COLUMNS)).any() or len(frame) != tokens * layers:
        raise UserError(
            f"{file.name}: {len(frame)} rows for {tokens} tokens and {layers} layers; every token needs one row per layer"
        )
    ordered = frame.sort_values(list(COLUMNS))
    chosen: npt.NDArray[Any] = ordered[names].to_numpy().reshape(tokens, layers, len(names))
    return chosen


def write_routing(routing: Routing, path: Path) -> None:
    """Write npz; the caller makes it atomic. Equal arrays give equal bytes."""
    with path.open("wb") as file:
        np.savez_compressed(file, experts=routing.experts.astype(np.int16))
