"""Reports of the public API, and --report of the command line."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from apex_sim.files import prepare_file, write_text
from hardware_profiles.errors import UserError

if TYPE_CHECKING:
    from apex_sim.answers.base import Answered
    from apex_sim.html.config import Repeat
    from planners.parallel import PlanResult
    from simulator.result import SimulationResult

HELP = "write a report as one HTML file that needs no network"


def write_report(result: SimulationResult | PlanResult | Answered, path: str | Path) -> Path:
    """Write the report of a run, a plan or another answer (``gpus``, ``experts``, ``power``, ``validate``): one HTML file
    with summary, figures, tables that sort, configuration and sources.

    It needs no network, follows light and dark screens, and is the same bytes for the same result (docs/reports.md).
    """
    target = prepare_report(path)
    assert target is not None
    write_text(target, report_of(result))
    return target


def report_of(result: SimulationResult | PlanResult | Answered) -> str:
    """The HTML itself."""
    from apex_sim.answers.base import Answered
    from apex_sim.html.config import Repeat
    from apex_sim.html.of_api import plan_config, run_config
    from planners.parallel import PlanResult
    from simulator.result import SimulationResult

    if isinstance(result, SimulationResult):
        from apex_sim.html.simulate import simulation_report

        return simulation_report(result, Repeat(run_config(result)))
    if isinstance(result, PlanResult):
        from apex_sim.html.plan import plan_report

        return plan_report(result, Repeat(plan_config(result)))
    if isinstance(result, Answered):
        return result.html()
    raise UserError(
        f"there is no report of a {type(result).__name__}; give what simulate(), plan(), gpus(), experts(), power() or "
        "validate() returns"
    )


def add_report(parser: Any) -> None:
    """--report of a command."""
    parser.add_argument("--report", metavar="FILE", help=HELP)


def prepare_report(path: str | Path | None) -> Path | None:
    """Make sure the report can be written; call before the long work."""
    if path is None:
        return None
    if Path(path).suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--report {path}: a report is HTML; name it .html")
    return prepare_file(path, "--report")


def repeated(args: argparse.Namespace, resolved: Mapping[str, Any] | None = None) -> dict[str, Repeat]:
    """Keyword of every report on the command line: what repeats it, and warnings; ``resolved``: what the options came to."""
    from apex_sim.html.config import Repeat
    from apex_sim.repeat import command_of, options_of, positionals_of
    from apex_sim.warned import told

    words = ("apex-sim", args.command, *positionals_of(args))
    return {"repeat": Repeat(resolved or {}, options_of(args), command_of(args), told(), words)}
