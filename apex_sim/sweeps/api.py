"""The public door: a sweep in, a frame out."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_sim.files import prepare_folder

if TYPE_CHECKING:
    import pandas as pd


def sweep(
    spec: Mapping[str, Any] | str | Path,
    out: str | Path | None = None,
    *,
    jobs: int | None = None,
    backend: str = "local",
    address: str | None = None,
    shard: str | None = None,
    timeout_s: float | None = None,
    retry_failed: bool = False,
    merge: Sequence[str | Path] = (),
    progress: bool = False,
) -> pd.DataFrame:
    """Run ``simulate``, ``plan``, ``gpus`` or ``power`` over a design of settings; a row per point, in the design's order.

    spec: a YAML file or a mapping with ``command``, ``fixed``, ``vary``, ``constraints`` and ``design`` (docs/sweeps.md).
    out: folder that keeps every run as it finishes and goes on where an earlier call stopped; None: nothing is kept.
    jobs: processes (all cores). backend: ``"local"``, ``"ray"`` or ``"dask"``, at ``address`` or on this machine. shard:
    ``"2/8"``. timeout_s: the most a run may take [s]. retry_failed: try refused runs again. merge: folders of the same
    sweep (shards) whose finished runs are taken over. progress: a bar on stderr.
    Columns: the settings that vary, ``key``, ``status`` (ok, failed, error, crashed), ``reason``, ``warnings``, and the fields
    of ``summary``. Raises UserError for a mistake in the file, and when every run is refused.
    """
    from apex_sim.sweeps.backends import open_backend
    from apex_sim.sweeps.folder import parse_shard
    from apex_sim.sweeps.progress import SweepProgress
    from apex_sim.sweeps.run import run_sweep
    from apex_sim.sweeps.spec import load_sweep
    from apex_sim.sweeps.table import frame_of

    checked, part = load_sweep(spec), parse_shard(shard)
    chosen = open_backend(backend, jobs, address, timeout_s)

    def carry_out(folder: Path) -> pd.DataFrame:
        with SweepProgress(quiet=not progress) as bar:
            outcome = run_sweep(
                checked, folder, lambda: chosen, shard=part, retry_failed=retry_failed, merge=merge, report=bar.start
            )
        return frame_of(outcome.columns)

    if out is not None:
        return carry_out(prepare_folder(out, "out"))
    with tempfile.TemporaryDirectory() as folder:
        return carry_out(Path(folder))
