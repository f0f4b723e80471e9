"""Kinds of runs, each a public door of the program: settings in, fields of the result out."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Callable, Mapping
from typing import Any

from apex_sim.case_studies.inline import check_files, written
from apex_sim.case_studies.subcommands import COMMANDS, command, command_names
from apex_sim.case_studies.terms import formula, formula_names
from hardware_profiles.errors import UserError, unknown_name

Settings = Mapping[str, Any]
LAYOUT = ("model", "cluster", "engine", "tp", "pp", "dp", "ep")
STEP = ("decode_seqs", "context_tokens", "prefill_tokens", "cached_tokens")
TRANSFORMS = ("input_factor", "output_factor")


def _simulate_names() -> set[str]:
    from apex_sim.api import AllSettings, simulate

    named = set(inspect.signature(simulate).parameters) - {"progress", "settings"}
    return named | set(AllSettings.__annotations__) | {"workload"}


def _deployment_names() -> set[str]:
    from simulator.build import EngineSettings

    return {*LAYOUT, *EngineSettings.__annotations__}


def _workload_names() -> set[str]:
    from apex_sim.workload import WorkloadSettings

    return {*WorkloadSettings.__annotations__, "workload", "seed"}


def _with_trace(settings: Settings) -> dict[str, Any]:
    """Keywords in which ``workload``, a workload YAML written in place, has become a trace."""
    from workloads.spec import workload_from_dict

    keywords = dict(settings)
    inline = keywords.pop("workload", None)
    if inline is not None:
        if not isinstance(inline, Mapping) or "trace" in keywords:
            raise UserError("workload is a mapping as in a workload YAML, and excludes trace")
        keywords["trace"] = workload_from_dict(dict(inline))
    return keywords


def simulate(settings: Settings) -> Mapping[str, Any]:
    """``apex_sim.simulate`` with these keywords: its summary. ``elasticity`` is a mapping of its fields."""
    from apex_sim.api import simulate as run
    from hardware_profiles.records import from_mapping
    from simulator.elastic.settings import Elasticity

    keywords = _with_trace(settings)
    if keywords.get("elasticity") is not None:
        keywords["elasticity"] = from_mapping(Elasticity, keywords["elasticity"], where="elasticity")
    return run(**keywords).summary


def _several_names() -> set[str]:
    from apex_sim.workload import WorkloadSettings
    from simulator.several.build import KEYS

    return {*WorkloadSettings.__annotations__, *KEYS, "workload", "seed", "slo", "exact_steps"}


def several(settings: Settings) -> Mapping[str, Any]:
    """``apex_sim.simulate_several``: keys of its file beside those of a workload; the summary."""
    from apex_sim.several import simulate_several
    from simulator.several.build import KEYS

    keywords = _with_trace(settings)
    config = {key: keywords.pop(key) for key in KEYS if key in keywords}
    return simulate_several(config, **keywords).summary


def _deployment(settings: Settings) -> Any:
    from simulator.build import build_deployment

    given = dict(settings)
    return build_deployment(given.pop("model"), given.pop("cluster"), **given)


def step(settings: Settings) -> Mapping[str, Any]:
    """``apex-sim explain step``: one step's figures; components in a tree by the dots of their names, with sums."""
    from simulator.physics.explain import explain_values, step_shape
    from simulator.setting_checks import check_number

    shape = {name: settings[name] for name in STEP if name in settings}
    for name, value in shape.items():
        check_number(name, value, int, 0)
    if not shape.get("decode_seqs") and not shape.get("prefill_tokens"):
        raise UserError("the step is empty; give decode_seqs or prefill_tokens")
    deployment = _deployment({k: v for k, v in settings.items() if k not in STEP})
    model = deployment.step_model
    values = explain_values(
        model,
        step_shape(
            decode_seqs=shape.get("decode_seqs", 0),
            context=shape.get("context_tokens", 0),
            prefill=shape.get("prefill_tokens", 0),
            cached=shape.get("cached_tokens", 0),
            window=model.window,
        ),
    )
    values["components"] = _tree(values["components"])
    values["peak_flop_per_s"], values["bandwidth_bytes_per_s"] = model.peak_flop_per_s, model.bandwidth_bytes_per_s
    return values


def _tree(components: list[dict[str, Any]]) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for component in components:
        node = tree
        for part in component["name"].split("."):
            node = node.setdefault(part, {})
            for name in ("seconds", "flop", "hbm_bytes", "link_bytes"):
                node[name] = node.get(name, 0.0) + component[name]
    return tree


def memory(settings: Settings) -> Mapping[str, Any]:
    """What a deployment holds: fields of its memory plan, and of the model."""
    from dataclasses import asdict

    from simulator.physics.explain import step_shape
    from simulator.setting_checks import check_number

    given = dict(settings)
    context = given.pop("context_tokens", None)
    if context is not None:
        check_number("context_tokens", context, int, 1)
    deployment = _deployment(given)
    plan, model = deployment.memory, deployment.model
    values = {**asdict(plan), "kv_tokens": plan.kv_tokens, "max_num_seqs": deployment.engine.max_num_seqs}
    values |= {"num_params": model.num_params, "num_active_params": model.num_active_params}
    values["model_kv_bytes_per_token"] = model.kv_bytes_per_token()
    if context is not None:
        blocks = -(-context // plan.block_size)
        values["concurrency"] = plan.num_blocks // blocks
        values["step_seconds"] = deployment.step_model.step(step_shape(decode_seqs=1, context=context))[0]
    return values


def trace(settings: Settings) -> Mapping[str, Any]:
    """A workload and a transform of its lengths: requests, tokens, and prompt pieces that a boundless cache would hit."""
    import dataclasses

    import numpy as np

    from apex_sim.workload import make_trace
    from simulator.setting_checks import check_number
    from workloads.prefixes import prompt_blocks_hit

    keywords = _with_trace({k: v for k, v in settings.items() if k not in TRANSFORMS})
    made = make_trace(**keywords)
    factors = {name: settings.get(name, 1) for name in TRANSFORMS}
    for name, factor in factors.items():
        check_number(name, factor, float, 0)
    changed = dataclasses.replace(
        made,
        input_tokens=np.maximum(1, np.round(made.input_tokens * factors["input_factor"]).astype(np.int64)),
        output_tokens=np.maximum(1, np.round(made.output_tokens * factors["output_factor"]).astype(np.int64)),
    )
    hit, pieces = prompt_blocks_hit(made)
    return {
        "num_requests": len(changed),
        "input_tokens": int(changed.input_tokens.sum()),
        "output_tokens": int(changed.output_tokens.sum()),
        "prompt_pieces": pieces,
        "prompt_pieces_hit": hit,
    }


KINDS: Mapping[str, Callable[[Settings], Mapping[str, Any]]] = {
    "simulate": simulate,
    "several": several,
    "step": step,
    "memory": memory,
    "trace": trace,
    "formula": formula,
    **{name: command(name) for name in COMMANDS},
}
"""Name in the file -> what runs it."""


def check_settings(kind: str, settings: Settings) -> None:
    """UserError for a setting that this kind of run does not have; nothing is run."""
    if kind in COMMANDS:
        allowed = command_names(kind)
    elif kind == "simulate":
        allowed = _simulate_names()
    elif kind == "several":
        allowed = _several_names()
    elif kind == "step":
        allowed = _deployment_names() | set(STEP)
    elif kind == "memory":
        allowed = _deployment_names() | {"context_tokens"}
    elif kind == "trace":
        allowed = _workload_names() | set(TRANSFORMS)
    else:
        return formula_names(settings)
    check_files(settings.get("files", {}))
    for name in settings:
        if name not in allowed and name != "files":
            raise unknown_name("setting", name, allowed)
    if kind in ("simulate", "step", "memory"):
        for name in ("model", "cluster"):
            if not isinstance(settings.get(name), str):
                raise UserError(f"{name} is missing or no text; add a line '{name}: ...'")


def execute(kind: str, settings: Settings) -> Mapping[str, Any]:
    """Run it, quietly: what it warns of is known to whoever wrote the case."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with written(settings) as complete:
            return KINDS[kind](complete)
