"""Measured serving runs beside their simulation: what test_reality.py asserts and docs/accuracy.md lists.

``python tests/reality_runs.py`` prints the generated part of docs/accuracy.md; with --write it replaces it there. The
runs are not part of the repository (docs/accuracy.md names their sources).
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from hardware_profiles.cluster import parse_cluster
from simulator.build import build_deployment
from simulator.deployment import Deployment
from simulator.engine_loader import load_engine
from simulator.physics.shape import StepShape
from simulator.physics.step_model import StepModel
from simulator.plan import ParallelPlan
from simulator.simulate import simulate_deployment
from workloads.catalog import load_model
from workloads.trace import Trace

RUNS = Path(__file__).resolve().parents[2] / "shared" / "data" / "runs"
ACCURACY = Path(__file__).resolve().parents[1] / "docs" / "accuracy.md"
BEGIN, END = "<!-- generated: begin -->", "<!-- generated: end -->"

CLUSTERS = {"H100": "h100-sxm:8", "A100-80GB": "a100-sxm-80gb:8", "L40S": "l40s:8"}
BLOCK_TOKENS = 16
UNIQUE_PROMPTS = 100
"""Every prompt of the BLIS runs repeats after so many requests; from then on it is a full prefix hit."""
SHORTENED = 4
"""Requests and duration of the BLIS stages are divided by this: rates and batches stay as they were."""
FITTED = ("2-", "16-", "18-", "26-", "38-", "55-", "57-", "58-", "20260218-150304")
"""BLIS runs whose TPOT and TTFT the constants of vllm-v1.yaml were fitted on (dense models)."""
GENERAL_PROMPT_TOKENS = {"general": 573, "general-lite": 573, "codegen": 590, "roleplay": 785}
"""Mean prompt lengths of the workloads, for runs that do not state theirs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Point:
    """One metric of one run."""

    source: str
    run: str
    device: str
    model: str
    metric: str
    predicted: float
    measured: float
    moe: bool = False
    fitted: bool = False
    """The run was among those the engine constants were fitted on."""

    @property
    def error(self) -> float:
        """Signed relative error."""
        return self.predicted / self.measured - 1.0


def _with(deployment: Deployment, **engine: Any) -> Deployment:
    """The same deployment under other engine constants."""
    return dataclasses.replace(deployment, engine=dataclasses.replace(deployment.engine, **engine), _cache={})


# -- ShareGPT on consumer and workstation GPUs ----------------------------------------------------------------------


@cache
def sharegpt() -> tuple[Point, ...]:
    """vLLM 0.19, Llama-3.1-8B, 300 ShareGPT requests at 10/s. Times count from the engine's queue, as measured there."""
    import pandas as pd

    points: list[Point] = []
    for file, cluster, max_num_seqs, blocks in (
        ("RTX4090__Llama-3.1-8B", "rtx-4090", 256, 2588),
        ("RTXPRO6000__Llama-3.1-8B", "rtx-pro-6000", 128, 36578),
    ):
        t = pd.read_csv(RUNS / "per_request" / f"{file}.csv").sort_values("vllm_queued_s")
        settings: Any = dict(max_num_seqs=max_num_seqs, max_num_batched_tokens=2048, max_model_len=32768)
        deployment = build_deployment("llama-3.1-8b", cluster, num_gpu_blocks_override=blocks, **settings)
        trace = Trace(
            arrival_s=t.vllm_queued_s.clip(lower=0).to_numpy(),
            input_tokens=t.input_tokens.to_numpy(),
            output_tokens=t.output_tokens.to_numpy(),
        )
        served = simulate_deployment(_with(deployment, request_fixed_s=0.0), trace).summary
        own = build_deployment("llama-3.1-8b", cluster, **settings).memory.num_blocks
        measured = {
            "TTFT": (served["mean_ttft_ms"], 1e3 * (t.vllm_first_token_s - t.vllm_queued_s).mean()),
            "TPOT": (served["mean_tpot_ms"], t.vllm_tpot_ms.mean()),
            "E2E": (served["mean_e2el_ms"], 1e3 * (t.vllm_last_token_s - t.vllm_queued_s).mean()),
            "makespan": (served["duration"], t.vllm_last_token_s.max()),
            "KV blocks": (own, blocks),
        }
        points += [
            Point(
                source="ShareGPT",
                run="10 requests/s",
                device=cluster,
                model="Llama-3.1-8B",
                metric=metric,
                predicted=float(predicted),
                measured=float(value),
            )
            for metric, (predicted, value) in measured.items()
        ]
    return tuple(points)


# -- BLIS validation runs: shared prompts, constant rates, H100 / A100 / L40S -------------------------------------------


def _repeating_trace(stages: Any, prompt: int, output: int, shared_blocks: int) -> tuple[Trace, Any]:
    """Arrivals of all stages, and the stage of each; prompts repeat, with a common beginning."""
    rng = np.random.default_rng(1)
    arrivals, stage, start_s = [], [], 0.0
    for i, row in enumerate(stages.itertuples()):
        count, duration_s = int(row.num_requests) // SHORTENED, float(row.duration_s) / SHORTENED
        gaps = np.cumsum(rng.exponential(1.0, count))
        arrivals.append(start_s + gaps / gaps[-1] * duration_s)
        stage += [i] * count
        start_s += duration_s + 8.0
    requests, blocks = len(stage), -(-prompt // BLOCK_TOKENS)
    ids = np.arange(blocks)[None, :] + 1000 + 100_000 * (np.arange(requests) % UNIQUE_PROMPTS)[:, None]
    ids[:, :shared_blocks] = np.arange(shared_blocks)
    trace = Trace(
        arrival_s=np.concatenate(arrivals),
        input_tokens=np.full(requests, prompt),
        output_tokens=np.full(requests, output),
        prefix_ids=ids.ravel(),
        prefix_offsets=np.arange(requests + 1) * blocks,
        prefix_block_tokens=BLOCK_TOKENS,
    )
    return trace, np.array(stage)


def _blis_stages() -> Iterator[tuple[str, Any]]:
    """(experiment, its stages) of the runs that can be scored: not overloaded, one replica, KV cache on the GPU."""
    import pandas as pd

    table = pd.read_csv(RUNS / "vllm_sim2real_runs.csv")
    for name, rows in table.groupby("experiment", sort=False):
        stages = rows[rows.scope.str.startswith("stage")].sort_values("scope")
        first = stages.iloc[0]
        if first.workload == "reasoning" or first.dp > 1:
            continue
        yield str(name), stages


@cache
def blis() -> tuple[Point, ...]:
    """vLLM 0.15.1 under inference-perf: TTFT, TPOT and E2E of every stage, KV blocks of every run that states them."""
    import pandas as pd

    points: list[Point] = []
    for name, stages in _blis_stages():
        first = stages.iloc[0]
        known = pd.notna(first.prompt_len_mean)
        prompt = round(first.prompt_len_mean) if known else GENERAL_PROMPT_TOKENS[first.workload]
        shared = int(first.system_prompt_len) // BLOCK_TOKENS if pd.notna(first.system_prompt_len) else 0
        trace, stage = _repeating_trace(stages, prompt, int(first.output_len_max_tokens), shared)
        blocks = int(first.total_kv_blocks) if pd.notna(first.total_kv_blocks) else None
        settings: Any = dict(
            tp=int(first.num_gpus_tp),
            max_num_seqs=int(first.max_num_seqs) if pd.notna(first.max_num_seqs) else 256,
            max_num_batched_tokens=int(first.max_num_batched_tokens),
            gpu_memory_utilization=float(first.gpu_memory_utilization)
            if pd.notna(first.gpu_memory_utilization)
            else 0.9,
            max_model_len=int(first.max_model_len) if pd.notna(first.max_model_len) else None,
        )
        cluster = CLUSTERS[first.hardware]
        deployment = build_deployment(str(first.model), cluster, num_gpu_blocks_override=blocks, **settings)
        result = simulate_deployment(deployment, trace)
        common: Any = dict(
            source="BLIS",
            device=str(first.hardware),
            model=str(first.model).split("/")[-1],
            moe=deployment.model.is_moe,
            fitted=name.startswith(FITTED),
        )
        if blocks is not None:
            own = build_deployment(str(first.model), cluster, **settings).memory.num_blocks
            points.append(Point(run=name, metric="KV blocks", predicted=own, measured=blocks, **common))
        warm = np.arange(len(trace)) >= UNIQUE_PROMPTS
        for i, row in enumerate(stages.itertuples()):
            part = (stage == i) & warm
            measured = {"TTFT": row.ttft_mean_ms, "TPOT": row.tpot_corrected_ms, "E2E": row.e2e_mean_ms}
            for metric, value in measured.items():
                predicted = 1e3 * float(np.nanmean(result.column(f"{metric.lower()}_s")[part]))
                run = f"{name} stage {i}"
                points.append(Point(run=run, metric=metric, predicted=predicted, measured=value, **common))
    return tuple(points)


# -- AIConfigurator's silicon samples: a closed loop ----------------------------------------------------------------


def silicon(engines: tuple[str, ...] = ("vllm",), rounds: int = 10) -> tuple[list[Point], list[dict[str, float]]]:
    """TPOT, TTFT and throughput of closed loops of random tokens; and AIConfigurator's own errors on the same rows.

    ``rounds`` prompts per place of the loop, all places filled at once, lengths uniform in [0.8 L, L]; throughput is
    what the measured times imply. vLLM 0.12 schedules synchronously.
    """
    import pandas as pd

    table = pd.read_csv(RUNS / "endtoend.csv")
    table = table[~table.config_suspect & ~table.dup_of_inferencex_row & (table["mode"] == "agg")]
    table = table[table.engine.isin(engines) & table.concurrency.notna()]
    points: list[Point] = []
    others: list[dict[str, float]] = []
    deployments: dict[tuple[Any, ...], Deployment] = {}
    for row in table.itertuples():
        quantised = isinstance(row.gemm_quant, str) and not row.model.startswith("deepseek")
        longest = 17_000 if row.isl + row.osl > 6000 else 6000
        key = (row.model, row.gpu, row.tp, row.gemm_quant if quantised else None, row.engine == "vllm", longest)
        if key not in deployments:
            deployments[key] = build_deployment(
                row.model,
                f"{row.gpu.replace('_', '-')}:8",
                tp=int(row.tp),
                ep=int(row.moe_ep) if row.moe_ep > 1 else 1,
                quantization=key[3],
                max_model_len=longest,
                async_scheduling=row.engine != "vllm",
            )
        places = int(row.concurrency)
        rng = np.random.default_rng(0)
        lengths = [rng.integers(int(0.8 * n), int(n) + 1, rounds * places) for n in (row.isl, row.osl)]
        trace = Trace(
            arrival_s=np.zeros(rounds * places),
            input_tokens=lengths[0],
            output_tokens=lengths[1],
            concurrency=places,
        )
        served = simulate_deployment(deployments[key], trace).summary
        output = 0.9 * row.osl
        throughput = 1e3 * places * output / (row.ttft_mean_ms + (output - 1) * row.tpot_mean_ms)
        for metric, predicted, measured in (
            ("TPOT", served["mean_tpot_ms"], row.tpot_mean_ms),
            ("TTFT", served["mean_ttft_ms"], row.ttft_mean_ms),
            ("throughput", served["output_throughput"], throughput),
        ):
            points.append(
                Point(
                    source=f"silicon sample, {row.engine}",
                    run=f"tp {int(row.tp)}, {int(row.isl)} in, {int(row.osl)} out, {places} at once",
                    device=row.gpu,
                    model=row.model.split("/")[-1],
                    metric=metric,
                    predicted=float(predicted),
                    measured=float(measured),
                    moe=deployments[key].model.is_moe,
                    fitted=row.engine == "vllm" and row.isl == 1024,
                )
            )
        others.append(
            {
                "TPOT": row.aic_pred_tpot_ms / row.tpot_mean_ms - 1.0,
                "TTFT": row.aic_pred_ttft_ms / row.ttft_mean_ms - 1.0,
            }
        )
    return points, others


# -- ML.ENERGY: full batches of long answers, with power ------------------------------------------------------------

RESIDUAL_CONTEXT = 0.65
"""Mean context of a running answer as a share of the mean answer length: half of it for equal lengths, more when long
answers, which run longer, are over-represented."""
QUESTION_TOKENS = 300
"""A GPQA question with its choices."""


@cache
def mlenergy() -> tuple[Point, ...]:
    """vLLM 0.11.1 on H100, reasoning on GPQA (hardly any prompt work): step time and average power per GPU."""
    import pandas as pd

    table = pd.read_csv(RUNS / "mlenergy.csv")
    table = table[(table.gpu == "H100") & (table.task == "gpqa") & (table.expert_parallel == 1)]
    cluster = parse_cluster("h100-sxm:8")
    engine = load_engine("vllm-v1", cluster.device)
    points: list[Point] = []
    for row in table.itertuples():
        model, tp = load_model(row.model_id), int(row.tensor_parallel)
        steps = StepModel(model, cluster, ParallelPlan(tp=tp), engine)
        seqs = max(1, round(row.avg_batch_size))
        context = int(QUESTION_TOKENS + RESIDUAL_CONTEXT * row.avg_output_len)
        seen = context if steps.window is None else min(context, steps.window)
        shape = StepShape(decode_seqs=seqs, context_tokens=seqs * context, window_tokens=seqs * seen, logits_rows=seqs)
        seconds, joules = steps.step(shape)
        for metric, predicted, measured in (
            ("TPOT", 1e3 * seconds, row.median_itl_ms),
            ("power", joules / seconds / tp, row.avg_power_w_per_gpu),
        ):
            points.append(
                Point(
                    source="ML.ENERGY",
                    run=f"tp {tp}, batch {seqs}",
                    device="H100",
                    model=row.model_id.split("/")[-1],
                    metric=metric,
                    predicted=predicted,
                    measured=measured,
                    moe=model.is_moe,
                )
            )
    return tuple(points)


# -- tables ---------------------------------------------------------------------------------------------------------


def summary(errors: Any) -> str:
    """Rows, median and 90th percentile of the absolute error, median signed error [%]."""
    e = 100 * np.array([x for x in errors if np.isfinite(x)])
    size = np.abs(e)
    return f"{len(e)} | {np.median(size):.1f} | {np.quantile(size, 0.9):.1f} | {np.median(e):+.1f}"


def _aggregate(title: str, points: list[Point], keys: tuple[str, ...]) -> list[str]:
    groups: dict[tuple[str, ...], list[float]] = {}
    for p in points:
        key = tuple(("yes" if getattr(p, k) else "no") if k == "fitted" else str(getattr(p, k)) for k in keys)
        groups.setdefault(key, []).append(p.error)
    head = " | ".join(keys)
    lines = ["", f"### {title}", "", f"| {head} | rows | median abs. | p90 abs. | median |"]
    lines.append("|" + "---|" * (len(keys) + 4))
    return lines + [f"| {' | '.join(key)} | {summary(errors)} |" for key, errors in groups.items()]


def _every_run(title: str, points: tuple[Point, ...] | list[Point]) -> list[str]:
    """One line per run; errors of its metrics in percent."""
    metrics = list(dict.fromkeys(p.metric for p in points))
    runs: dict[tuple[str, str, str], dict[str, float]] = {}
    for p in points:
        runs.setdefault((p.device, p.model, p.run), {})[p.metric] = 100 * p.error
    lines = ["", f"### {title}", "", f"| device | model | run | {' | '.join(f'{m} %' for m in metrics)} |"]
    lines.append("|" + "---|" * (len(metrics) + 3))
    for names, errors in runs.items():
        cells = " | ".join(f"{errors[m]:+.1f}" if m in errors else "" for m in metrics)
        lines.append(f"| {' | '.join(names)} | {cells} |")
    return lines


def document() -> str:
    """The generated part of docs/accuracy.md."""
    vllm, others = silicon()
    lines = _aggregate("BLIS runs", [*blis()], ("metric", "moe", "fitted"))
    lines += _aggregate("BLIS runs by device", [p for p in blis() if p.metric == "TPOT"], ("metric", "device", "model"))
    lines += _aggregate("Silicon samples, vLLM 0.12 (Qwen3-32B, H100, bf16)", vllm, ("metric", "fitted"))
    lines += ["", "AIConfigurator's own predictions of the same rows:", ""]
    lines += ["| metric | rows | median abs. | p90 abs. | median |", "|---|---|---|---|---|"]
    lines += [f"| {m} | {summary(o[m] for o in others)} |" for m in ("TPOT", "TTFT")]
    more, more_others = silicon(("trtllm", "sglang"), rounds=5)
    lines += _aggregate(
        "Silicon samples of other engines, predicted with the vLLM profile (information only)",
        more,
        ("source", "model", "metric"),
    )
    lines += ["", "AIConfigurator's own predictions of those rows:", ""]
    lines += ["| metric | rows | median abs. | p90 abs. | median |", "|---|---|---|---|---|"]
    lines += [f"| {m} | {summary(o[m] for o in more_others)} |" for m in ("TPOT", "TTFT")]
    lines += _aggregate("ML.ENERGY, H100, GPQA", [*mlenergy()], ("metric", "model"))
    lines += _every_run("Every run: ShareGPT", sharegpt())
    lines += _every_run("Every run: BLIS", blis())
    lines += _every_run("Every run: silicon samples, vLLM", vllm)
    lines += _every_run("Every run: ML.ENERGY", mlenergy())
    return "\n".join(lines) + "\n"


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
