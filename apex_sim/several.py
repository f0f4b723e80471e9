"""Several models on one cluster: the public door and its report (docs/several_models.md)."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from apex_sim.api import check_served
from apex_sim.report import account_lines
from apex_sim.text import milliseconds, number, share, table
from apex_sim.timeline import watch_of
from apex_sim.workload import WorkloadSettings, make_trace
from simulator.several.build import build_several
from simulator.several.simulate import simulate_several as run
from workloads.slo import Slo, as_slo

if TYPE_CHECKING:
    from simulator.several.deployment import SeveralDeployment
    from simulator.several.result import SeveralResult
    from workloads.trace import Trace

SHOWN = 12
"""Models in the report's table; the JSON has all."""


def simulate_several(
    config: Mapping[str, Any] | str | Path,
    *,
    cluster: str | None = None,
    engine: str | None = None,
    slo: Slo | str | None = None,
    seed: int = 0,
    exact_steps: bool = False,
    timeline: bool | tuple[float, float] | str = False,
    **workload: Unpack[WorkloadSettings],
) -> SeveralResult:
    """Predict how several models on one cluster serve a workload.

    config: a file or mapping with ``models``, ``cluster``, ``switch``, ``cascade``; workload keywords as in ``simulate``. A
    trace's column ``model`` says what each request asks for; without it models are drawn by ``share``. timeline: keep every
    step for ``write_timeline``, or those of a window, as in ``simulate``.
    Returns a SeveralResult: ``.summary`` (with ``models``, ``turns``, ``cascade``), ``.requests``, ``.models`` by name.
    """
    several = build_several(config, cluster=cluster, engine=engine)
    trace = make_trace(**workload, seed=seed)
    check_all_served(several, trace)
    watch = watch_of(timeline)
    return run(several, trace, slo=as_slo(slo), seed=seed, exact_steps=exact_steps, watch=watch)


def check_all_served(several: SeveralDeployment, trace: Trace) -> None:
    """The same as for one model, of each."""
    several.check_memory()
    for deployment in dict.fromkeys(id(d) for d in several.served):
        check_served(next(d for d in several.served if id(d) == deployment), trace)


def several_text(result: SeveralResult) -> str:
    """The run in a screenful."""
    s, several = result.summary, result.several
    rows = [
        [
            name,
            f"{m['num_prompts']:,}",
            *(milliseconds(m[key]) for key in ("mean_ttft_ms", "p95_ttft_ms", "mean_tpot_ms", "mean_e2el_ms")),
            number(m["output_throughput"]),
            share(m["utilisation"]),
        ]
        for name, m in list(s["models"].items())[:SHOWN]
    ]
    header = ["model", "requests", "TTFT", "p95 TTFT", "TPOT", "E2E", "tok/s", "busy"]
    overall = ["all", f"{s['num_prompts']:,}"]
    overall += [milliseconds(s[key]) for key in ("mean_ttft_ms", "p95_ttft_ms", "mean_tpot_ms", "mean_e2el_ms")]
    lines = [
        f"{len(several.members)} models on {result.num_devices} of {several.cluster.name}: {several.name}",
        f"workload: {result.trace.name}, {s['num_prompts']:,} requests, {number(s['duration'])} s simulated",
        "",
        table(header, [*rows, [*overall, number(s["output_throughput"]), share(s["utilisation"])]]),
        "",
    ]
    turns = s["turns"]
    if result.record.turns:
        loads = f"{turns['loads']:,} with weights to load, {number(turns['load_s'])} s"
        lines.append(f"turns        {turns['switches']:,} switches; {loads}")
    if "cascade" in s:
        c = s["cascade"]
        lines.append(
            f"cascade      {c['escalated']:,} of {c['requests']:,} requests went on; final answers: TTFT "
            f"{milliseconds(c['mean_ttft_ms'])}, E2E {milliseconds(c['mean_e2el_ms'])} (p95 {milliseconds(c['p95_e2el_ms'])})"
        )
    if result.slo is not None:
        lines.append(f"SLO          {s['slo']}: {share(s['slo_attainment'])} of requests")
    return "\n".join([*lines, *account_lines(s)])
