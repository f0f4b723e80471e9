"""README.md of an exported folder: servers, files, next steps, what is left to do, expected figures."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from planners.export.bundle import Export
    from planners.export.place import Place

WHAT = {
    "serve": "starts the servers (`sh {name}`); notes on top",
    "kubernetes": "Deployment, or LeaderWorkerSet where a server spans nodes, and Service (`kubectl apply -f {name}`)",
    "kserve": "KServe LLMInferenceService of both pools (`kubectl apply -f {name}`)",
    "llm-d": "values of llm-d's modelservice chart (`helm install NAME llm-d-modelservice/llm-d-modelservice -f {name}`)",
    "options": "options of trtllm-serve that are no flags",
    "bench": "the benchmark that verifies the plan (`sh {name} http://HOST:8000`)",
    "replay": "replays the plan's own trace (`sh {name} http://HOST:8000`; `planned` in expected.json is what to expect)",
    "trace": "that trace, in Mooncake's format",
    "expected": "the simulator's figures for that benchmark and for the plan's own workload",
    "routes": "which share of the requests of a size goes to which type",
    "export": "all of it as JSON; `apex-sim export` reads it",
}
"""Begin of a file's name -> what it is."""


def readme_of(export: Export, names: list[str], image: str | None, place: Place | None = None) -> str:
    """What is in the folder, and what nobody can put in a file."""
    from planners.export.bundle import address_notes, manifest_notes
    from planners.export.place import Place, place_notes

    place = place or Place()
    lines = ["# How to start this plan", ""]
    lines += [
        f"* {server.count} x {server.engine} {server.version}, {server.role}: {server.model} on {server.devices} "
        f"{server.device} each (tp={server.tp} pp={server.pp} dp={server.dp} ep={server.ep}); per device of "
        f"{server.memory.budget_bytes / 1e9:.1f} GB: weights {server.memory.weight_bytes / 1e9:.1f} GB, KV cache "
        f"{server.memory.kv_bytes / 1e9:.1f} GB (the longest request {server.memory.longest_request_bytes / 1e9:.1f} GB)"
        for server in export.servers
    ]
    lines += ["", "| File | What it is |", "|---|---|"]
    lines += [f"| `{name}` | {_what(name)} |" for name in names]
    lines += [*_next_steps(export, names, place.namespace), ""]
    notes = [*export.notes, *address_notes(export), *manifest_notes(export.servers, image)]
    notes += place_notes(place, export.servers, names)
    lines += [f"* {note}" for note in notes]
    for benchmark, expected in zip(export.benchmarks, export.expected, strict=True):
        lines += ["", f"| `{benchmark.file}` | expected | four in five measured |", "|---|---|---|"]
        lines += [f"| {name} | {_figure(value)} | {_range(expected, name)} |" for name, value in figures_of(expected)]
    return "\n".join(lines) + "\n"


def _next_steps(export: Export, names: list[str], namespace: str | None) -> list[str]:
    """What to do with the files, in order."""
    scripts = [name for name in names if name.startswith("serve")]
    manifests = [name for name in names if name.startswith(("kubernetes-", "kserve"))]
    steps = [f"Start the servers: {' and '.join(f'`sh {name}`' for name in scripts)} on the machines with the devices."]
    if manifests:
        apply = " ".join(f"-f {name}" for name in manifests)
        there = "" if namespace is None else f" -n {namespace}"
        secret = f"`kubectl create secret generic hf-token --from-literal=HF_TOKEN=...{there}`"
        steps[0] += f" Or in a cluster: `kubectl apply {apply}` (for gated models first {secret})."
    steps.append("Wait until `curl -f http://HOST:8000/health` succeeds.")
    for benchmark in export.benchmarks:
        result = f"measured{'-' * bool(benchmark.target)}{benchmark.target}.json"
        steps.append(
            f"Measure: `sh {benchmark.file} http://HOST:8000`; then `apex-sim export --check . --measured {result}` "
            "shows expected beside measured."
        )
    steps.append("After editing a file, `apex-sim export --check .` says whether it still is the plan.")
    return ["", "Next:", "", *(f"{i}. {step}" for i, step in enumerate(steps, start=1))]


def _what(name: str) -> str:
    return next(words for begin, words in WHAT.items() if name.startswith(begin)).format(name=name)


def _figure(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, int | float) else "-"


def figures_of(expected: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """Expected figures without their bounds."""
    return [(name, value) for name, value in expected.items() if not name.endswith(("_low", "_high"))]


def _range(expected: Mapping[str, Any], name: str) -> str:
    low, high = expected.get(f"{name}_low"), expected.get(f"{name}_high")
    return "" if low is None or high is None else f"{_figure(low)} to {_figure(high)}"
