"""vLLM under inference-perf, one row per stage, first 300 requests and whole run of an experiment (BLIS project).

Every run cycles through 100 prompts, so after the first round all of a prompt is a prefix-cache hit. "Constant" load is
exponential gaps scaled so that a stage lasts what it should. Outputs have exactly ``output_len_max_tokens`` tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from simulator.validation.rows import Row
from simulator.validation.run import MeasuredRun, Stage, Window, Workload
from simulator.validation.sources.common import cluster_of, figures, given, model_of

UNIQUE_PROMPTS = 100
"""Where a row does not say: the harness's default, and what the other rows state."""
PAUSE_S = 7.0
"""Between stages; 6.5 to 7.1 s in the runs with a record of every request."""
RETOKENISED = 1.045
"""Tokens of a prompt over the question and system prompt asked for (1.042 to 1.048 in the runs that state both)."""
MAX_NUM_SEQS = 256
"""vLLM 0.15's default of the offline configuration these runs were started with."""
OVERLOAD = "overload"
PRECISIONS = {"FP16": None, "BF16": None, "": None}
"""``precision`` -> quantization; other values are passed on in lower case."""

FIRST_REQUESTS = {"general": 86, "general-lite": 86, "codegen": 100, "roleplay": 300}
"""What the ``first300`` figures are really over: with the per-request files of five of these runs, the means of so many first
requests are the table's to the last digit (TTFT and E2E alike); general-lite, of which there is no such file, as general."""


def read(path: Path, rows: Sequence[Row]) -> list[MeasuredRun]:
    """One run per row; rows of one experiment are windows of one simulation."""
    experiments: dict[str, list[Row]] = {}
    for row in rows:
        experiments.setdefault(_experiment(row), []).append(row)
    runs: list[MeasuredRun] = []
    for members in experiments.values():
        stages = _stages(members)
        runs += [_run(row, members, stages) for row in members]
    order = {row.place: i for i, row in enumerate(rows)}
    return sorted(runs, key=lambda run: order[run.place])


def _experiment(row: Row) -> str:
    return f"{row.text('experiment')} ({row.text('alias_training_repo') or row.text('dataset')})"


def _stages(members: Sequence[Row]) -> tuple[Stage, ...]:
    """The load of an experiment, from its stages in order."""
    rows = sorted((row for row in members if row.text("scope").startswith("stage")), key=lambda r: r.text("scope"))
    return tuple(
        Stage(num_requests=int(row.need("num_requests")), duration_s=row.need("duration_s"), pause_s=PAUSE_S)
        for row in rows
    )


def _run(row: Row, members: Sequence[Row], stages: tuple[Stage, ...]) -> MeasuredRun:
    scope = row.text("scope")
    tp = int(row.need("num_gpus_tp"))
    prefix = int(row.number("system_prompt_len") or 0)
    version = row.text("vllm_version")
    model, packed = model_of(row.text("model"))
    return MeasuredRun(
        id=f"{row.text('experiment')}/{scope}" + (" (superseded)" if "superseded" in row.text("note") else ""),
        source="sim2real",
        model=model,
        cluster=cluster_of(row.text("hardware")),
        engine_version=version,
        tp=tp,
        pp=row.whole("pp") or 1,
        dp=row.whole("dp") or 1,
        settings=given(
            max_num_seqs=row.whole("max_num_seqs") or MAX_NUM_SEQS,
            max_num_batched_tokens=row.whole("max_num_batched_tokens"),
            max_model_len=row.whole("max_model_len"),
            gpu_memory_utilization=row.number("gpu_memory_utilization"),
            block_size=row.whole("block_size"),
            num_gpu_blocks_override=row.whole("total_kv_blocks"),
            cold_start=True,
            quantization=packed or PRECISIONS.get(row.text("precision"), row.text("precision").lower() or None),
        ),
        workload=Workload(
            input_len=_prompt_tokens(row, members),
            output_len=int(row.need("output_len_max_tokens")),
            stages=stages,
            distinct_prompts=row.whole("n_unique_prompts") or UNIQUE_PROMPTS,
            shared_prefix_tokens=prefix,
        ),
        window=_window(scope, row),
        measured=_measured(row, scope),
        skip=_skip(row, scope, stages),
        tags={"workload": row.text("workload"), "scope": scope.rstrip("0123456789")},
        place=row.place,
    )


def _prompt_tokens(row: Row, members: Sequence[Row]) -> int:
    stated = [length for length in (m.number("prompt_len_mean") for m in (row, *members)) if length is not None]
    asked = (row.number("system_prompt_len") or 0) + (row.number("question_len") or 0)
    return round(stated[0] if stated else RETOKENISED * asked)


def _window(scope: str, row: Row) -> Window:
    if scope.startswith("stage"):
        return Window(stage=int(scope.removeprefix("stage") or 0))
    if scope.startswith("first"):
        stated = int(scope.removeprefix("first") or row.need("num_requests"))
        return Window(first=min(stated, FIRST_REQUESTS.get(row.text("workload"), stated)))
    return Window()


def _measured(row: Row, scope: str) -> dict[str, float]:
    """TPOT is the corrected figure: the reported one counts chunks twice."""
    names = {f"{latency}_{stat}_ms" for latency in ("ttft", "e2e") for stat in ("mean", "p50", "p90", "p95", "p99")}
    found = {name: row.number(name) for name in sorted(names, key=_metric_order)}
    found["tpot_mean_ms"] = row.number("tpot_corrected_ms")
    if scope == "summary":
        found["kv_blocks"] = row.number("total_kv_blocks")
    return dict(figures(**found))


def _metric_order(name: str) -> tuple[bool, str]:
    return "mean" not in name, name


def _skip(row: Row, scope: str, stages: tuple[Stage, ...]) -> str | None:
    note = row.text("note")
    if "superseded" in note:
        return "superseded by a later run of the same experiment (says the table)"
    if note.startswith(OVERLOAD):
        return f"{note}; figures cover only the requests that did not time out"
    if (row.number("dp") or 1) > 1:
        return "data parallel: its balancing between replicas is not recorded"
    if not stages:
        return "the load of its stages is not in the table"
    return "same figures as its only stage" if scope == "summary" and len(stages) == 1 else None
