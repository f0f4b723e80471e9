"""A benchmark's own figures beside the prediction of the same load."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardware_profiles.errors import UserError, unknown_name

if TYPE_CHECKING:
    from apex_sim.checks.measured_pools import PoolsOn
    from simulator.validation.bench.result import BenchResult, Figure
    from simulator.validation.replay import Prediction
    from simulator.validation.run import MeasuredRun

DEGREES = ("tp", "pp", "dp", "ep")
ENGINES = ("vllm", "sglang", "trtllm")
LOAD = ("rate_per_s", "concurrency", "input_len", "output_len", "num_requests")
"""What a user may state instead of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredRow:
    """One figure of the tool beside its prediction."""

    name: str
    """As the tool calls it."""
    metric: str
    """The metric of docs/validation.md that means the same."""
    measured: float
    predicted: float
    low: float | None = None
    high: float | None = None
    """Between which four in five measured figures of this kind lie, in its unit (docs/validation.md); None: not known."""

    @property
    def inside(self) -> bool | None:
        """Whether the measured figure lies in that range."""
        return None if self.low is None or self.high is None else self.low <= self.measured <= self.high

    @property
    def error(self) -> float:
        """Signed: predicted / measured - 1."""
        return self.predicted / self.measured - 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class MeasuredComparison:
    """One result of a benchmark tool, and what the simulator says about the same load."""

    place: str
    tool: str
    load: str
    rows: Sequence[MeasuredRow]
    notes: Sequence[str] = ()

    def beyond(self, rtol: float) -> list[MeasuredRow]:
        """Figures whose prediction is off by more than a share of the measured value."""
        return [row for row in self.rows if abs(row.error) > rtol]


def check_measured(
    files: Sequence[str | Path] | str | Path,
    cluster: str,
    *,
    model: str | None = None,
    engine: str = "vllm-v1",
    metrics: Sequence[str] | None = None,
    jobs: int = 1,
    disaggregate: Any = None,
    kv_link: str | None = None,
    kv_overlap: bool = False,
    **settings: Any,
) -> list[MeasuredComparison]:
    """Results of benchmark tools beside predictions of the same load.

    files: of vllm bench serve, sglang bench_serving, GenAI-Perf, AIPerf, GuideLLM, InferenceX. model: the files' unless given.
    settings: tp, pp, dp, ep, engine settings as in :func:`apex_sim.simulate`, and what is stated instead of the files:
    rate_per_s, concurrency, input_len, output_len, num_requests. disaggregate, kv_link, kv_overlap: two pools, as in
    :func:`apex_sim.simulate`.
    """
    from apex_sim.checks.measured_pools import pools_on
    from simulator.build import EngineSettings

    given = {name: settings.pop(name) for name in LOAD if name in settings}
    degrees = {name: settings.pop(name) for name in DEGREES if name in settings}
    for name in settings:
        if name not in EngineSettings.__annotations__:
            raise unknown_name("setting", name, (*EngineSettings.__annotations__, *DEGREES, *LOAD))
    paths = [files] if isinstance(files, str | Path) else files
    deployment = {"cluster": cluster, "engine": engine, "settings": settings, **degrees}
    on = pools_on(disaggregate, kv_link, kv_overlap)
    return compare_measured(read_all(paths, **given), model, deployment, metrics=metrics, jobs=jobs, pools=on)


def read_all(files: Sequence[str | Path], **given: Any) -> list[BenchResult]:
    """Every result of the files, with what the user states instead (see ``bench.result.replaced``)."""
    from simulator.validation.bench.files import read_bench
    from simulator.validation.bench.result import replaced

    return [replaced(result, **given) for file in files for result in read_bench(file)]


def runs_of(results: Sequence[BenchResult], model: str | None, deployment: Mapping[str, Any]) -> list[MeasuredRun]:
    """Measured runs on one deployment; the model and the layout are the files' where the user names none."""
    from simulator.validation.bench.result import run_of

    runs = []
    for result in results:
        chosen = model or result.model
        if chosen is None:
            raise UserError(f"{result.place}: does not name the model; give --model")
        layout = {name: deployment.get(name) or result.layout.get(name, 1) for name in DEGREES}
        runs.append(run_of(result, {**deployment, **layout, "model": chosen}))
    return runs


def compare_measured(
    results: Sequence[BenchResult],
    model: str | None,
    deployment: Mapping[str, Any],
    *,
    metrics: Sequence[str] | None = None,
    jobs: int = 1,
    progress: Any = None,
    pools: PoolsOn | None = None,
) -> list[MeasuredComparison]:
    """Simulate every result's load on ``deployment`` (fields of MeasuredRun) and set its figures beside the prediction's.

    pools: two pools on the deployment's cluster, instead of its layout; they have no 80 % ranges, because no measured pools
    are in the validation.
    metrics: only these, as the tool or this package calls them. Raises UserError for a load that cannot be simulated.
    """
    from apex_sim.checks.measured_pools import predict_pools
    from apex_sim.checks.measured_text import load_text
    from simulator.validation.replay import predict_all

    runs = runs_of(results, model, deployment)
    if pools is None:
        predictions = predict_all(runs, jobs=jobs, progress=progress)
    else:
        predictions = predict_pools(_without_layout(runs, deployment), pools, progress)
    found = []
    for result, prediction in zip(results, predictions, strict=True):
        if prediction.failure is not None:
            raise UserError(f"{result.place}: {prediction.failure}")
        rows = [
            _row(f, prediction, ranges=pools is None)
            for f in result.figures
            if metrics is None or f.name in metrics or f.metric in metrics
        ]
        found.append(
            MeasuredComparison(
                place=result.place,
                tool=result.tool,
                load=load_text(prediction.run),
                rows=rows,
                notes=(*result.notes, *_in_step(prediction.run), *_other_engine(result, prediction.run)),
            )
        )
    if not any(comparison.rows for comparison in found):
        known = [f.name for result in results for f in result.figures]
        raise unknown_name("metric", ", ".join(metrics or ()), known)
    return found


def _without_layout(runs: Sequence[MeasuredRun], deployment: Mapping[str, Any]) -> list[MeasuredRun]:
    """Runs for two pools: a layout of the user's would be ignored, so it is refused."""
    import dataclasses

    for name in DEGREES:
        if deployment.get(name, 1) != 1:
            raise UserError(
                f"--{name} beside --disaggregate: each pool has its own layout; write prefill={name}{deployment[name]}"
            )
    return [dataclasses.replace(run, tp=1, pp=1, dp=1, ep=1) for run in runs]


def _row(figure: Figure, prediction: Prediction, *, ranges: bool) -> MeasuredRow:
    from simulator.validation.intervals import interval_of
    from simulator.validation.score import Residual

    value, run = prediction.metrics[figure.metric], prediction.run
    residual = Residual(
        run=run, metric=figure.metric, predicted=value, measured=figure.value, classes=prediction.classes
    )
    interval = interval_of(residual) if ranges else None
    low, high = (None, None) if interval is None else interval.around(value)
    return MeasuredRow(
        name=figure.name, metric=figure.metric, measured=figure.value, predicted=value, low=low, high=high
    )


def _other_engine(result: BenchResult, run: MeasuredRun) -> tuple[str, ...]:
    """A file of one engine beside the prediction of another."""
    from simulator.uncertainty import engine_family

    family = engine_family(run.engine.partition("@")[0])
    if result.engine in (None, family) or family not in ENGINES:
        return ()
    return (f"the file is of {result.engine}, and --engine is {run.engine}",)


def _in_step(run: MeasuredRun) -> tuple[str, ...]:
    """What equal requests of a closed loop do that others do not."""
    load = run.workload
    if (load.concurrency or 1) < 2 or not (isinstance(load.input_len, int) and isinstance(load.output_len, int)):
        return ()
    return ("equal requests of a closed loop stay in step, so TTFT is that of prompts that arrive together",)
