"""Measured serving runs beside their simulation: what test_reality.py asserts and docs/accuracy.md lists.

``python tests/reality_runs.py`` prints the generated part of docs/accuracy.md; with --write it replaces it there. The
runs are not part of the repository (docs/accuracy.md names their sources); reading and replaying them is the product's
(``apex-sim validate``).
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path

from simulator.validation.files import cited_runs, read_runs
from simulator.validation.outcome import Outcome
from simulator.validation.replay import Options, predict_all
from simulator.validation.run import MeasuredRun
from simulator.validation.score import Aggregate, Residual

RUNS = Path(__file__).resolve().parents[2] / "shared" / "data" / "runs"
ACCURACY = Path(__file__).resolve().parents[1] / "docs" / "accuracy.md"
BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"

TABLES = {
    "sim2real": "vllm_sim2real_runs.csv",
    "sharegpt": "vllm_sharegpt_runs.csv",
    "endtoend": "endtoend.csv",
    "mlenergy": "mlenergy.csv",
    "dgx": "dgx_prompt_token_times.csv",
}
MEANS = ("ttft_mean_ms", "tpot_mean_ms", "e2e_mean_ms")
"""Metrics listed run by run."""
LISTED = ("sim2real", "sharegpt", "ispass26", "cited")
"""Sources listed run by run; the others have hundreds of runs."""


@cache
def measured(source: str) -> tuple[MeasuredRun, ...]:
    """The runs of one table, or the cited ones."""
    return tuple(cited_runs() if source == "cited" else read_runs(RUNS / TABLES[source]))


@cache
def outcome(source: str, *, fast: bool = True, sample: int = 1, only: str = "") -> Outcome:
    """Replay of one table; ``sample``: every so many runs, ``only``: of one engine (tag or name)."""
    runs = [run for run in measured(source) if only in (run.tags.get("engine", run.engine), "")]
    skipped = [run for run in runs if run.skip is not None]
    chosen = [*[run for run in runs if run.skip is None][::sample], *skipped]
    return Outcome(chosen, predict_all(chosen, Options(fast=fast, seeds=1 if fast else 3), jobs=2))


def errors_of(source: str, metric: str, **labels: str) -> list[Residual]:
    """Residuals of one metric with these labels."""
    return [
        r
        for r in outcome(source).residuals
        if r.metric == metric and all(r.label(name) == value for name, value in labels.items())
    ]


# -- tables ---------------------------------------------------------------------------------------------------------


def _row(group: Aggregate) -> str:
    shares = (f"{100 * value:.1f}" for value in (group.median, group.mean, group.p90))
    return f"| {' | '.join(group.key)} | {group.n} | {' | '.join(shares)} | {100 * group.signed:+.1f} |"


def _aggregates(title: str, groups: Sequence[Aggregate], by: Sequence[str]) -> list[str]:
    head = f"| {' | '.join(by)} | figures | median % | mean % | p90 % | bias % |"
    return ["", f"### {title}", "", head, "|" + "---|" * (len(by) + 5), *map(_row, groups)]


def _goals(outcomes: Sequence[Outcome]) -> list[str]:
    lines = [
        "",
        "### Goals",
        "",
        "| source | metric | at most | median % | p90 % | worst % | |",
        "|---|---|---|---|---|---|---|",
    ]
    for result in (goal for one in outcomes for goal in one.goals):
        limits = {"median": result.goal.median, "p90": result.goal.p90, "worst": result.goal.worst}
        allowed = ", ".join(f"{name} {100 * limit:.0f} %" for name, limit in limits.items() if limit is not None)
        reached = " | ".join(
            f"{100 * v:.1f}" for v in (result.reached.median, result.reached.p90, result.reached.worst)
        )
        state = "met" if result.met else "**not met**"
        lines.append(f"| {result.goal.source} | {result.goal.metric} | {allowed} | {reached} | {state} |")
    return lines


def _every_run(title: str, residuals: Sequence[Residual]) -> list[str]:
    """One line per run; errors of its metrics in percent."""
    metrics = [name for name in dict.fromkeys(r.metric for r in residuals)]
    runs: dict[tuple[str, str, str], dict[str, float]] = {}
    for r in residuals:
        runs.setdefault((r.run.device, r.label("model"), r.run.id), {})[r.metric] = 100 * r.error
    lines = ["", f"### {title}", "", f"| device | model | run | {' | '.join(f'{m} %' for m in metrics)} |"]
    lines.append("|" + "---|" * (len(metrics) + 3))
    for names, errors in runs.items():
        cells = " | ".join(f"{errors[m]:+.1f}" if m in errors else "" for m in metrics)
        lines.append(f"| {' | '.join(names)} | {cells} |")
    return lines


def document() -> str:
    """The generated part of docs/accuracy.md."""
    outcomes = [outcome(source, fast=False) for source in (*TABLES, "cited")]
    residuals = [r for one in outcomes for r in one.residuals]
    everything = Outcome(
        [run for one in outcomes for run in one.runs], [p for one in outcomes for p in one.predictions]
    )
    lines = _goals(outcomes)
    by: tuple[str, ...] = ("source", "metric")
    lines += _aggregates("By source and metric", everything.aggregates(by), by)
    main = Outcome(everything.runs, [p for p in everything.predictions if p.run.source != "cited"])
    by = ("source", "device", "model", "metric")
    groups = [
        g for g in main.aggregates(by) if g.key[-1] in (*MEANS, "itl_p50_ms", "energy_per_token_j", "prompt_time_ms")
    ]
    lines += _aggregates("By device and model", groups, by)
    by = ("load", "experts", "metric")
    lines += _aggregates("By load", [g for g in main.aggregates(by) if g.key[-1] in MEANS], by)
    for source in LISTED:
        mine = [r for r in residuals if r.run.source == source]
        lines += _every_run(f"Every run: {source}", [r for r in mine if source == "cited" or r.metric in MEANS])
    failures = [f"* {p.run.source} {p.run.id}: {p.failure}" for p in everything.failures]
    return "\n".join([*lines, *(["", "### Could not be simulated", "", *failures] if failures else [])]) + "\n"


def main(argv: list[str]) -> None:
    """Print the tables, or write them into docs/accuracy.md."""
    text = document()
    if "--write" not in argv:
        print(text)
        return
    before, rest = ACCURACY.read_text(encoding="utf-8").split(BEGIN)
    after = rest.split(END)[1]
    ACCURACY.write_text(f"{before}{BEGIN}\n{text}\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
