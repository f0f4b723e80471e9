"""The other planners as functions for notebooks: a fleet over a day, experts on GPUs, a row's power, kernels of a device.

Each does what the command of the same purpose does, with objects in and out.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hardware_profiles.errors import UserError

if TYPE_CHECKING:
    import pandas as pd

    from hardware_profiles.schema import DeviceProfile
    from planners.experts.outcome import Answer
    from planners.oversubscribe.study import Outcome, Study
    from simulator.calibration.points import Points
    from simulator.kernel_runner.points import PointsFile
    from workloads.trace import Trace

Progress = Callable[[int, int], None]


def plan_fleet_day(
    model: Any,
    gpus: Sequence[str],
    trace: Trace,
    *,
    slo: Any,
    window_s: float = 3600.0,
    startup_s: float = 300.0,
    prices: Mapping[str, float] | None = None,
    engine: str = "vllm-v1",
    seed: int = 0,
    gap: float | None = None,
    time_limit_s: float = 60.0,
    cache: str | Path | None = None,
    progress: Progress | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """The cheapest mix of instances for every window of a trace, simulated: what ``apex-sim gpus --autoscale --json`` writes.

    gpus: types of instances such as ``"l40s"`` or ``"h100-sxm:2"`` (tensor parallel). prices: their $/h, where not the
    profile's. Throughputs are simulated for every size of request, and kept in the folder ``cache``.
    :func:`apex_sim.plots.fleet_day_figure` draws the result; :func:`apex_sim.gpus` gives it as a result object.
    """
    from apex_sim.questions import gpus as fleet_of

    return fleet_of(
        model,
        gpus,
        slo=slo,
        trace=trace,
        autoscale=window_s,
        startup=startup_s,
        prices=prices,
        engine=engine,
        seed=seed,
        gap=gap or 0.0,
        time_limit_s=time_limit_s,
        cache=False if cache is None else cache,
        progress=progress,
        **settings,
    ).data


def place_experts(
    model: str,
    cluster: str,
    *,
    tp: int = 1,
    routing: Any = None,
    tokens: int = 8192,
    skew: float | None = None,
    affinity: float = 1.0,
    redundant: int = 0,
    batch: int = 64,
    trace: Trace | None = None,
    slo: Any = None,
    seed: int = 0,
    **settings: Any,
) -> Answer:
    """Experts on all GPUs of the cluster, beside the usual placements: what ``apex-sim experts`` does.

    routing: a trace of routing, as file or :class:`Routing`; without one it is generated from ``tokens``, ``skew`` (hottest
    expert over the mean) and ``affinity`` of consecutive layers. Half of the tokens is planned on, the other half judges.
    """
    from apex_sim.api import build_deployment, load_cluster
    from planners.experts.outcome import Question, answer
    from planners.experts.search import SearchSettings
    from simulator.experts.generate import generate_routing
    from simulator.experts.settings import default_skew, moe_layers
    from simulator.experts.trace_files import read_routing
    from workloads.slo import as_slo

    machines = load_cluster(cluster)
    ranks = machines.num_devices
    deployment = build_deployment(model, machines, tp=tp, dp=ranks // tp, ep=ranks, **settings)
    layers = moe_layers(deployment.model)
    if isinstance(routing, str | Path):
        routing = read_routing(str(routing), layers.mlp.num_experts)
    if routing is None:
        routing = generate_routing(
            num_experts=layers.mlp.num_experts,
            num_layers=len(layers.numbers),
            top_k=layers.mlp.experts_per_token,
            tokens=tokens,
            skew=default_skew(layers.mlp.num_experts) if skew is None else skew,
            affinity=affinity,
            seed=seed,
        )
    question = Question(
        deployment=deployment,
        routing=routing,
        settings=SearchSettings(slack=0.01, redundant=redundant, groups=None, ilp_steps=24),
        plan_share=0.5,
        exchange="home",
        batch=batch,
        trace=trace,
        slo=as_slo(slo),
        seed=seed,
    )
    question.check()
    return answer(question)


def placements_table(found: Answer) -> pd.DataFrame:
    """A row per placement: balance on the tokens planned on and on the others, share of steps that change GPU, decode step."""
    import pandas as pd

    rows = []
    for candidate, judged, effect in zip(found.plan.candidates, found.judged, found.effects, strict=True):
        rows.append(
            {
                "placement": candidate.name,
                "busiest_over_mean": candidate.figures.imbalance,
                "busiest_over_mean_unseen": judged.imbalance,
                "changes_gpu": judged.cross_gpu,
                "decode_step_ms": 1e3 * effect.decode_s,
            }
        )
    return pd.DataFrame(rows).set_index("placement")


def oversubscribe(
    *,
    servers: int = 40,
    extra: Sequence[float] = (0.0, 0.1, 0.2, 0.3, 0.4),
    t1: float = 0.80,
    t2: float = 0.89,
    model: str = "bloom-176b",
    cluster: str = "a100-sxm:8",
    peak_utilisation: float = 0.79,
    load: float = 0.25,
    days: float = 1.0,
    max_model_len: int = 12288,
    seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Study, list[Outcome]]:
    """A row of servers with more of them than its power budget was made for, under POLCA's thresholds: ``apex-sim power``.

    extra: servers added, as shares of ``servers``; an outcome for each. :func:`apex_sim.plots.power_figure` draws one.
    """
    from apex_sim.api import build_deployment, load_cluster
    from planners.oversubscribe.policy import polca
    from planners.oversubscribe.row import DAY_S, LoadShape
    from planners.oversubscribe.services import PAPER_MIX
    from planners.oversubscribe.study import Setting, evaluate, prepare

    if not servers >= 1 or not extra or min(extra) < 0:
        raise UserError(
            f"oversubscribe: servers is {servers}, extra {list(extra)}; give at least 1 and shares of at least 0"
        )
    if not 0 < t1 < t2 <= 1:
        raise UserError(
            f"oversubscribe: t1 is {t1:g} and t2 is {t2:g}; the first threshold is below the second, both within 1"
        )
    machine = load_cluster(cluster)
    setting = Setting(
        deployment=build_deployment(model, machine, tp=machine.num_devices, max_model_len=max_model_len),
        services=PAPER_MIX,
        num_servers=servers,
        shape=LoadShape(),
        peak_load=load,
        peak_utilisation=peak_utilisation,
        seconds=round(days * DAY_S),
        seed=seed,
    )
    policy = polca(t1, t2)
    study = prepare(setting, (policy,), progress or (lambda done, total: None))
    return study, [evaluate(study, servers + round(share * servers), policy) for share in extra]


def outcomes_table(outcomes: Sequence[Outcome]) -> pd.DataFrame:
    """A row per outcome: peaks as shares of the budget, brakes per day, time with lowered clocks, latency of each service."""
    import pandas as pd

    rows = []
    for outcome in outcomes:
        row: dict[str, Any] = {
            "servers": outcome.num_servers,
            "uncontrolled_peak": outcome.uncapped_peak,
            "peak": outcome.peak,
            "brakes_per_day": outcome.brakes_per_day,
            **{f"{priority}_capped": share for priority, share in outcome.capped_share.items()},
            "holds": outcome.holds,
        }
        rows.append(row)
    return pd.DataFrame(rows).set_index("servers")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class KernelFits:
    """Kernels of a device, fitted."""

    device: DeviceProfile
    """With the fitted efficiencies: goes into a cluster, and so into :func:`apex_sim.simulate`."""
    table: pd.DataFrame
    """A row per fit: points, median and p90 error on unseen shapes, noise, and the problem if it did not converge."""
    points: list[Points]
    """Measured and predicted seconds, of fits that have not seen the row; :func:`apex_sim.plots.fit_figure` draws them."""


def read_kernels(path: str | Path) -> PointsFile:
    """Measured kernels: a file that ``apex-sim calibrate --points`` wrote."""
    from simulator.kernel_runner.points import read_points

    return read_points(Path(path))


def fit_kernels(file: PointsFile, *, base: DeviceProfile | str | None = None, name: str | None = None) -> KernelFits:
    """Fit the kernel formulas to measured points: ``apex-sim calibrate --from-points``.

    base: profile that gives the peaks, price and limits of this device. Raises UserError where a fit does not converge.
    """
    import pandas as pd

    from hardware_profiles.loader import load_device
    from simulator.kernel_runner.runner import make_profile

    made = make_profile(file, base=load_device(base) if isinstance(base, str) else base, name=name)
    rows = [dataclasses.asdict(result) for result in made.fits.results]
    table = pd.DataFrame(rows).rename(columns={"spread": "noise"})
    return KernelFits(device=made.device, table=table.set_index(["family", "key"]), points=made.fits.seen)
