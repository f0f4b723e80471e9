"""Exports as files: what starts a plan and what verifies it, written together, read back before anything is written."""

from __future__ import annotations

import re
import warnings
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_sim.files import prepare_folder, read_json_fields, write_text
from hardware_profiles.errors import UserError

if TYPE_CHECKING:
    from hardware_profiles.schema import DeviceProfile
    from planners.export.bundle import Export
    from planners.export.place import Place
    from planners.outcome import PlanResult
    from simulator.deployment import Deployment
    from simulator.disaggregated import DisaggregatedDeployment
    from workloads.slo import Slo
    from workloads.trace import Trace

OURS = re.compile(
    r"(serve|bench)(-.*)?\.sh|replay\.sh|trace\.jsonl|(kubernetes-.*|kserve|llm-d-values|options(-.*)?)\.yaml|(routes|expected)\.json"
)
"""Names of files that exports write."""
REPLAY = {"replay.sh", "trace.jsonl"}
"""Those that are written where the trace is at hand."""


def left_over(folder: Path, names: Collection[str]) -> list[str]:
    """Files of another export in a folder, which nobody would tell from those of this one."""
    return sorted(path.name for path in folder.iterdir() if OURS.fullmatch(path.name) and path.name not in names)


def check_exportable(engine: str, device: DeviceProfile, folder: str) -> None:
    """UserError for an engine that cannot be started, or a folder that cannot be written: before the long work."""
    from planners.export.server import engine_of
    from simulator.engine_loader import load_engine

    engine_of(load_engine(engine, device).name, device)
    prepare_folder(folder, "--export")


def export_of_plan(result: PlanResult) -> Export:
    """What starts the best plan. Raises UserError where no server does what was planned."""
    from planners.export.make import export_of

    measured = result.best.measured
    planned = {} if measured is None else measured.metrics
    return export_of(result.deployment(), result.trace, result.slo, result.seed, planned)


def replay_of_plan(result: PlanResult, what: Export) -> dict[str, str]:
    """Files that replay the plan's own workload on what it starts; none where it cannot be replayed."""
    from planners.export.bundle import address_notes
    from planners.export.make import sends_text
    from planners.export.replay import replay_files

    if not sends_text(result.deployment()):
        return {}
    return replay_files(result.model.name, result.trace, result.seed, not address_notes(what))


def export_values(result: PlanResult) -> dict[str, Any]:
    """The same as plain values; where nothing can be started, why."""
    from planners.export.bundle import to_json_values

    try:
        return to_json_values(export_of_plan(result))
    except UserError as error:
        return {"refused": str(error).removeprefix("--export: ")}


def read_export(path: str) -> Export:
    """The export in a file that ``plan --json`` or ``--export`` wrote."""
    from planners.export.bundle import files_of, from_json_values
    from planners.export.readback import Mismatch, check_export

    data = read_json_fields(path, path, "the JSON that apex-sim plan --json wrote")
    found = data.get("export", data)
    if isinstance(found, Mapping) and "refused" in found:
        raise UserError(f"{path}: {found['refused']}")
    export = from_json_values(found, path)
    try:
        check_export(export, files_of(export))
    except UserError:
        raise
    except (ArithmeticError, AttributeError, LookupError, Mismatch, TypeError, ValueError) as error:
        raise UserError(f"{path}: 'export' is damaged ({error}); write the plan anew") from None
    return export


def export(
    plan: PlanResult | Deployment | DisaggregatedDeployment | str | Path,
    folder: str | Path,
    *,
    trace: Trace | None = None,
    slo: Slo | str | None = None,
    seed: int = 0,
    engine_version: str | None = None,
    image: str | None = None,
    volume_claim: str | None = None,
    namespace: str | None = None,
) -> list[Path]:
    """Write what starts a plan and what verifies it: launch scripts, Kubernetes manifests, a benchmark (docs/exports.md).

    plan: a PlanResult, the JSON of one, or a deployment, which needs the ``trace`` (and ``slo``) of the benchmark.
    engine_version: of the server, if not the one that was planned for. image: container image.
    volume_claim: of the cluster, for the weights; namespace: of the manifests.
    Returns the files. Raises UserError for flags that the version does not have, or memory that does not suffice.
    """
    from planners.export.bundle import address_notes, at_version
    from planners.export.make import export_of, sends_text
    from planners.export.place import Place
    from planners.export.replay import replay_files
    from planners.outcome import PlanResult
    from workloads.slo import as_slo

    more: dict[str, str] = {}
    if isinstance(plan, PlanResult):
        what = export_of_plan(plan)
        more = replay_of_plan(plan, what)
    elif isinstance(plan, str | Path):
        what = read_export(str(plan))
    elif trace is None:
        raise UserError(
            "export: a deployment does not say what it serves; give trace=, for example generate_trace(...)"
        )
    else:
        what = export_of(plan, trace, as_slo(slo), seed)
        more = replay_files(plan.model.name, trace, seed, not address_notes(what)) if sends_text(plan) else {}
    if engine_version is not None:
        what = at_version(what, engine_version)
    place = Place(volume_claim=volume_claim, namespace=namespace)
    names = write_export(what, folder, image=image, flag="folder", more=more, place=place)
    return [Path(folder) / name for name in names]


def write_export(
    export: Export,
    folder: str | Path,
    *,
    image: str | None = None,
    flag: str = "--export",
    more: Mapping[str, str] | None = None,
    place: Place | None = None,
) -> list[str]:
    """Write all files, after reading them back, and ``more``; their names. Raises UserError where memory or flags do not do."""
    from apex_sim.export_readme import readme_of
    from planners.export.bundle import files_of
    from planners.export.readback import Mismatch, check_export

    files = files_of(export, image, place)
    try:
        check_export(export, files)
    except UserError:
        raise
    except (Mismatch, ValueError) as error:
        raise UserError(
            f"export: {error}: that is a fault of apex-sim, nothing was written; please report it"
        ) from None
    files |= more or {}
    target = prepare_folder(folder, flag)
    for name, text in [*files.items(), ("README.md", readme_of(export, list(files), image, place))]:
        write_text(target / name, text)
    old = left_over(target, files)
    if old:
        warnings.warn(
            f"{target} also has {', '.join(old)} of another export; delete what is no longer meant", stacklevel=2
        )
    return [*files, "README.md"]
