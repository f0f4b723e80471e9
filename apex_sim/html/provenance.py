"""Where the figures of a report come from: device, engine and model, each with its sources and how sure they are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from apex_sim.html.parts import Cell, escape, facts, folded, section, table, text, wide
from hardware_profiles.cluster import parse_cluster
from hardware_profiles.schema import DeviceProfile
from simulator.deployment import Deployment
from simulator.engine import EngineProfile
from simulator.engine_loader import load_engine
from simulator.validation.replay import engine_name
from simulator.validation.run import MeasuredRun
from workloads.model import ModelSpec
from workloads.trace import Trace

FAMILIES = ("gemm", "prefill_attention", "decode_attention", "mla_decode_attention", "moe", "collectives")
LOW = ("from memory", "low confidence", "assum", "assumption", "guess", "order of", "estimate")
"""Words of a source that make a value less sure."""


def confidence(source: str) -> str:
    """What a source says of itself."""
    lowered = source.lower()
    if "from memory" in lowered or "low confidence" in lowered:
        return "low: from memory"
    if any(word in lowered for word in LOW):
        return "low: assumed"
    if re.match(r"(as|like) the ", lowered):
        return "taken over"
    if re.search(r"(?<!not )\bfitted\b", lowered):
        return "fitted"
    return "measured" if re.search(r"(?<!not )(?<!never )(?<!nothing )\bmeasured\b", lowered) else "cited"


def provenance(deployments: Iterable[Deployment], traces: Iterable[Trace] = ()) -> str:
    """The section of a report; each profile once."""
    devices: dict[str, DeviceProfile] = {}
    engines: dict[str, EngineProfile] = {}
    models: dict[str, str] = {}
    for deployment in deployments:
        devices.setdefault(deployment.cluster.device.name, deployment.cluster.device)
        engines.setdefault(deployment.engine.name, deployment.engine)
        models.setdefault(f"model {deployment.model.name}", _model_words(deployment.model))
    rows = [*models.items(), *((f"workload {trace.name}", _trace_words(trace)) for trace in traces)]
    return profiles_provenance(devices.values(), engines.values(), rows)


@dataclass(frozen=True)
class Simulated:
    """What the figures of a fleet rest on."""

    model: ModelSpec
    engine: str
    devices: Sequence[DeviceProfile]
    trace: Trace


def fleet_provenance(simulated: Simulated) -> str:
    """The section of a fleet."""
    model, trace = simulated.model, simulated.trace
    rows = [(f"model {model.name}", _model_words(model)), (f"workload {trace.name}", _trace_words(trace))]
    engines = [load_engine(simulated.engine, device) for device in simulated.devices]
    return profiles_provenance(simulated.devices, engines, rows)


def runs_provenance(runs: Iterable[MeasuredRun]) -> str:
    """The section of measured runs that were simulated."""
    devices: dict[str, DeviceProfile] = {}
    engines: dict[str, EngineProfile] = {}
    for spec, name in sorted({(run.cluster, engine_name(run)) for run in runs}):
        device = parse_cluster(spec).device
        devices.setdefault(device.name, device)
        engines.setdefault(name, load_engine(name, device))
    return profiles_provenance(devices.values(), engines.values())


def profiles_provenance(
    devices: Iterable[DeviceProfile], engines: Iterable[EngineProfile] = (), rows: Sequence[tuple[str, str]] = ()
) -> str:
    """The section where no deployment is known; each profile once. ``rows``: names and what is said of them."""
    known = {device.name: device for device in devices}
    run = {(engine.name, engine.version): engine for engine in engines}
    parts = [facts(rows, "model and workload")] if rows else []
    parts += [_device(device) for device in known.values()]
    parts += [_engine(engine) for engine in run.values()]
    return section("Where the figures come from", *parts)


def _model_words(model: ModelSpec) -> str:
    billions = f"{model.num_params / 1e9:.3g} billion parameters"
    source = _place(model.source) or "its config.json"
    return f"architecture from {source}: {billions}, {model.num_layers} layers; weights are counted, not measured"


def _trace_words(trace: Trace) -> str:
    count, tokens = len(trace), (int(trace.input_tokens.sum()), int(trace.output_tokens.sum()))
    sizes = f"{tokens[0]:,} input and {tokens[1]:,} output tokens"
    return f"{_place(trace.source) or 'given as arrays'}; {count:,} request{'' if count == 1 else 's'}, {sizes}"


def _place(source: str) -> str:
    """A source whose path, if it begins with one, is absolute."""
    path, separator, rest = source.partition("; ")
    return f"{Path(path).resolve()}{separator}{rest}" if path and Path(path).is_file() else source


def _device(device: DeviceProfile) -> str:
    fits = device.efficiency
    kind: str = "datasheet: nothing was measured on this device" if fits is None else fits.provenance
    if fits is not None and fits.transferred_from:
        kind += f" from {fits.transferred_from}"
    source = "" if fits is None or not fits.source else fits.source
    rows = [("kernel efficiencies", source if source.startswith(kind) else "; ".join(filter(None, (kind, source))))]
    if device.power is not None:
        rows.append(("power", device.power.source or "fitted"))
    if device.notes:
        rows.append(("note", device.notes))
    parts = [f"<h3>{escape(device.name)}</h3>", facts(rows, f"basis of {device.name}")]
    errors = _fits(device)
    if errors:
        header = ("kernels", "kind", "median error", "p90 error", "source")
        parts.append(folded("Fits of its kernels and their errors", table(header, errors, about="fits of kernels")))
    parts.append(folded("Sources of its figures", _sources(device.sources.items(), device.name)))
    return "\n".join(parts)


def _fits(device: DeviceProfile) -> list[list[Cell]]:
    rows = []
    for family in FAMILIES if device.efficiency is not None else ():
        for key, fit in (getattr(device.efficiency, family, None) or {}).items():
            errors = [fit.median_error, fit.p90_error]
            shown = [("-" if e is None else f"{100 * e:.1f} %", -1.0 if e is None else e, "n") for e in errors]
            rows.append([text(family.replace("_", " ")), text(key), *shown, wide(fit.source or "-")])
    return rows


def _engine(engine: EngineProfile) -> str:
    known = engine.step_fixed_s or engine.step_seq_s or engine.sync_step_fixed_s or engine.sync_step_seq_s
    words = "host times known" if known else "no host times: steps are their kernels alone"
    rows = [(f"version {engine.version}", words)]
    parts = [f"<h3>{escape(engine.name)}</h3>", facts(rows, f"basis of {engine.name}")]
    if engine.sources:
        parts.append(folded("Sources of its figures", _sources(engine.sources.items(), engine.name)))
    return "\n".join(parts)


def _sources(sources: Iterable[tuple[str, str]], name: str) -> str:
    rows = [[text(field), text(confidence(source)), wide(source)] for field, source in sources]
    return table(("figure", "confidence", "source"), rows, about=f"sources of {name}")
