"""The summary of a run as text, and its files."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from apex_sim.adapter_text import adapter_lines
from apex_sim.disaggregated_report import describe_any, pool_lines
from apex_sim.drain_text import drain_notes
from apex_sim.files import to_json, to_yaml, write_atomically, write_text
from apex_sim.sharing_text import split_lines
from apex_sim.speculative_text import draft_lines
from apex_sim.text import dollars, hourly, milliseconds, number, share, table
from simulator.deployment import Deployment
from simulator.idle_settings import idle_lines
from simulator.physics.efficiency import efficiency_of
from simulator.physics.memory import UNLIMITED_BLOCKS
from simulator.physics.provenance import borrowed_errors
from simulator.result import SimulationResult
from simulator.result_disaggregated import DisaggregatedResult

METRICS = (("TTFT", "ttft"), ("TPOT", "tpot"), ("ITL", "itl"), ("E2E", "e2el"), ("queue", "queue"))
PROVENANCE = {
    "measured": "kernel efficiencies fitted on measurements of this device",
    "transferred": "kernel efficiencies taken over from the nearest measured device: expect larger errors",
    "datasheet": "no kernel measurements behind this device: datasheet peaks with typical efficiencies",
}
PARTS = {
    "transferred": "taken over from the nearest measured device",
    "datasheet": "without measurements, at typical efficiencies",
}


def basis(provenance: str, weaker_parts: Sequence[str], deployment: Deployment) -> str:
    """What the times rest on, which kernels rest on less and by how much such ones were off; says so when the engine's
    host times are unknown, since its steps then come out too fast."""
    engine = deployment.engine
    known = engine.step_fixed_s or engine.step_seq_s or engine.sync_step_fixed_s or engine.sync_step_seq_s
    text = PROVENANCE[provenance]
    design = deployment.cluster.device.dataflow
    if design is not None:
        text = f"a spatial design ({design.design or 'unnamed'}), shares from what its authors state; nothing measured here"
    if weaker_parts:
        text = f"kernels partly measured; {', '.join(weaker_parts)} {PARTS[provenance]}: expect larger errors"
    model = deployment.step_model
    borrowed = borrowed_errors(
        deployment.model, deployment.plan, model.precision, efficiency_of(deployment.cluster.device)
    )
    if borrowed:
        errors = ", ".join(f"{name} {100 * error:.0f} %" for name, error in borrowed.items())
        text = f"{text} (measured devices treated like that: {errors} at the median)"
    return text if known else f"{text}; engine {engine.name} has no host times: steps are their kernels alone"


def summary_text(result: SimulationResult) -> str:
    """The run in a screenful."""
    s = result.summary
    pools = result.deployment if isinstance(result, DisaggregatedResult) else None
    served = result.deployment if pools is None else pools.decode
    rows = [
        [label, *(milliseconds(s[f"{stat}_{key}_ms"]) for stat in ("mean", "median", "p90", "p95", "p99"))]
        for label, key in METRICS
    ]
    lines = [
        describe_any(result.deployment if pools is None else pools),
        f"workload: {result.trace.name}, {s['num_prompts']:,} request{'' if s['num_prompts'] == 1 else 's'}"
        + pace(result)
        + f", {number(s['duration'])} s simulated",
        "",
        table(["latency", "mean", "median", "p90", "p95", "p99"], rows),
        *(_ranges(result) if pools is None else ["", *pool_lines(s), *tier_lines(s)]),
        "",
        f"throughput   {number(s['request_throughput'])} req/s, {number(s['output_throughput'])} output tok/s "
        f"({number(s['output_throughput_per_gpu'])} per GPU), {number(s['total_token_throughput'])} total tok/s",
    ]
    if result.slo is not None:
        lines.append(
            f"SLO          {s['slo']}: {share(s['slo_attainment'])} of requests, goodput {number(s['request_goodput'])} req/s"
        )
    if pools is None:
        lines += _engine(result)
    lines += account_lines(s)
    if "replica_hours" in s:
        lines.append(f"replicas     {_replicas(s)}")
    limit = f"{result.deployment.effective_max_model_len:,}"
    if s["failed"]:
        lines.append(
            f"refused      {s['failed']:,} of {s['num_prompts']:,} requests: prompts of max-model-len ({limit}) or more"
        )
    if s["truncated"]:
        lines.append(f"cut short    the outputs of {s['truncated']:,} requests at max-model-len {limit}")
    lines += idle_lines(served if pools is None else pools.prefill, result.trace.prefix_ids is not None)
    lines += [f"note         {words}" for words in drain_notes(s, result.trace)]
    lines.append(f"basis        {basis(s['provenance'], s['weaker_parts'], served)}")
    return "\n".join(lines)


def _experts(s: dict[str, Any]) -> list[str]:
    """The cache of experts, where there is one."""
    if "expert_hit_rate" not in s:
        return []
    moved = s["expert_link_bytes"] / max(1, s["engine_steps"]) / 1e9
    return [
        f"experts      {share(s['expert_hit_rate'])} of those needed were cached, {moved:.2f} GB per step over links"
    ]


def tier_lines(s: Mapping[str, Any]) -> list[str]:
    """The tiers of cached prefixes below device memory, where there are any."""
    parts = [
        f"{tier['tier']} {share(tier['hit_rate'])} of the prompts' tokens, {number(tier['loaded_bytes'] / 1e9)} GB loaded, "
        f"{number(tier['stored_bytes'] / 1e9)} GB stored, {number(tier['dropped_bytes'] / 1e9)} GB dropped"
        for tier in s.get("kv_tiers") or ()
    ]
    return [f"KV tiers     {'; '.join(parts)}"] if parts else []


def _engine(result: SimulationResult) -> list[str]:
    """What the engine did, and its drafts."""
    s = result.summary
    cache = f"KV peak {share(s['peak_kv_usage'])} of {s['num_gpu_blocks']:,} blocks"
    if s["num_gpu_blocks"] == UNLIMITED_BLOCKS:
        cache = "no KV cache"
    return [
        f"engine       {share(s['utilisation'])} busy, MFU {share(s['mfu'])}, {cache}, "
        f"running/waiting at most {s['peak_running']}/{s['peak_waiting']}, {s['num_preemptions']:,} preemptions, "
        f"prefix hits {share(s['prefix_hit_rate'])}" + (f", {s['step_mode']}" if "step_mode" in s else ""),
        *tier_lines(s),
        *draft_lines(s, result.deployment),
        *adapter_lines(s),
        *_experts(s),
        *split_lines(s),
    ]


def _ranges(result: SimulationResult) -> list[str]:
    """Where the mean TTFT and TPOT lie in 8 of 10 measured runs of this kind."""
    s = result.summary
    parts = [
        f"{label} {milliseconds(s[f'mean_{name}_ms_low'])} to {milliseconds(s[f'mean_{name}_ms_high'])}"
        for label, name in (("TTFT", "ttft"), ("TPOT", "tpot"))
        if s[f"mean_{name}_ms_low"] is not None
    ]
    if not parts:
        return ["", "80 % range   unknown: nothing of this kind was ever measured"]
    kind = result.intervals.get("ttft") or result.intervals["tpot"]
    return ["", f"80 % range   mean {', '.join(parts)} ({kind.runs:,} measured figures: {kind.kind_text})"]


def pace(result: SimulationResult) -> str:
    """At what rate requests come."""
    clients, rate = result.trace.concurrency, result.summary["request_rate"]
    if clients is not None:
        return f", closed loop of {clients}"
    return f" at {number(rate)} req/s" if math.isfinite(rate) else " at once" if len(result.trace) > 1 else ""


def _replicas(s: Mapping[str, Any]) -> str:
    """How many served, and what happened to them."""
    mean = s["replica_hours"] * 3600 / s["duration"] if s["duration"] else 0.0
    changes = f"{s['replicas_started']} starts, {s['replicas_stopped']} stops"
    text = f"{number(mean)} held on average, {s['peak_replicas']} serving at most; {changes}"
    if s["replica_failures"]:
        text += f", {s['replica_failures']} failures, {s['requests_retried']:,} requests sent again"
    return f"{text}; {number(s['replica_hours'])} replica-hours"


def account_lines(s: Mapping[str, Any]) -> list[str]:
    """Money, energy and emissions of a run: three lines of its summary."""
    return [f"cost         {_cost(s)}", f"energy       {_energy(s)}", f"carbon       {_carbon(s)}"]


def _cost(s: Mapping[str, Any]) -> str:
    if s["usd_per_hour"] is None:
        return "unknown: the device profile has no price (--usd-per-gpu-hour)"
    even = [dollars(s[f"break_even_usd_per_million_{kind}_tokens"]) for kind in ("input", "output")]
    return (
        f"{hourly(s['usd_per_hour'])} {s['pricing']}, {dollars(s['usd_per_million_output_tokens'])} per 1M output tokens, "
        f"{dollars(s['usd_per_request'])} per request; break-even {even[0]} per 1M input and {even[1]} per 1M output tokens"
    )


def _energy(s: Mapping[str, Any]) -> str:
    if s["energy_j"] is None:
        return "unknown: the device profile has neither tdp_w nor power"
    parts = [s[f"{part}_energy_j"] / s["energy_j"] if s["energy_j"] else 0.0 for part in ("prefill", "decode", "idle")]
    return (
        f"{number(s['average_power_w'])} W on average, {number(s['joules_per_output_token'])} J per output token (prefill "
        f"{share(parts[0])}, decode {share(parts[1])}, idle {share(parts[2])}); {number(s['facility_kwh'])} kWh at the meter "
        f"(PUE {s['pue']:g})"
    )


def _carbon(s: Mapping[str, Any]) -> str:
    if s["operational_gco2e"] is None:
        return "unknown, as the energy is"
    embodied = s["embodied_gco2e"]
    made = "embodied unknown" if embodied is None else f"{_grams(embodied)} embodied"
    million = _grams(s["gco2e_per_million_output_tokens"])
    return (
        f"{_grams(s['gco2e_per_request'])}CO2e per request, {million} per 1M output tokens; "
        f"run: {_grams(s['operational_gco2e'])} of electricity at {s['gco2_per_kwh']:g} g/kWh, {made}"
    )


def _grams(value: float | None) -> str:
    return "-" if value is None else f"{number(value / 1e3)} kg" if value >= 1e3 else f"{number(value)} g"


CONFIG_HEAD = """\
# apex-sim simulate --config FILE runs the options below; change a line of them to change the run.
# All after the options is what they came to: for reading alone.
"""
"""Above the configuration of a run."""


def write_run(result: SimulationResult, folder: Path, config: dict[str, Any]) -> list[Path]:
    """Write requests, timeline, power of the servers, summary, configuration and plots into ``folder``; returns the paths."""
    from simulator.power_series import server_table
    from workloads.figure_style import save

    requests, timeline = result.requests, result.timeline
    written = [_write_frame(requests, folder / "requests", index=True)]
    written.append(folder / "timeline.csv")
    write_atomically(written[-1], lambda path: timeline.to_csv(path, index=False))
    written.append(folder / "power.csv")
    write_atomically(written[-1], lambda path: server_table(result).to_csv(path, index=False))
    written.append(folder / "summary.json")
    write_text(written[-1], to_json(result.summary))
    written.append(folder / "config.yaml")
    write_text(written[-1], f"{CONFIG_HEAD}{to_yaml(config)}" if "options" in config else to_yaml(config))
    for name, figure in (("latency.png", result.plot_latency()), ("timeline.png", result.plot_timeline())):
        written.append(folder / name)
        write_atomically(written[-1], lambda path, figure=figure: save(figure, path))  # type: ignore[misc]
    return written


def _write_frame(frame: Any, stem: Path, index: bool) -> Path:
    """Parquet when pyarrow is installed, CSV otherwise."""
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        target = stem.with_suffix(".csv")
        write_atomically(target, lambda path: frame.to_csv(path, index=index))
    else:
        target = stem.with_suffix(".parquet")
        write_atomically(target, lambda path: frame.to_parquet(path, index=index))
    return target
