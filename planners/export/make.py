"""An export from a deployment and its workload."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from hardware_profiles.errors import UserError
from planners.export.benchmark import EXPECTED, Benchmark, benchmark_of, expected_of
from planners.export.bundle import Export
from planners.export.disaggregated import are_pools, not_in_kserve, not_in_llmd
from planners.export.server import Server, servers_of
from planners.launch import notes_of
from planners.pools import AnyDeployment
from simulator.deployment import Deployment
from simulator.disaggregated import DisaggregatedDeployment
from workloads.slo import Slo
from workloads.trace import Trace


def export_of(
    deployment: AnyDeployment,
    trace: Trace,
    slo: Slo | None = None,
    seed: int = 0,
    planned: Mapping[str, Any] | None = None,
) -> Export:
    """What starts a deployment, and the benchmark that verifies it, simulated. Raises UserError for what no server does.

    ``planned``: figures of the deployment under ``trace``."""
    servers = servers_of(deployment)
    runs: list[tuple[Benchmark, Mapping[str, Any]]] = []
    notes = [*_notes_on_weights(deployment), *notes_of(deployment, places=False), *_notes(servers)]
    notes += _notes_on_requests(deployment)
    if sends_text(deployment):
        benchmark = benchmark_of(deployment.model.name, trace, slo, seed)
        runs.append((benchmark, _expected(benchmark, deployment, slo, notes)))
    else:
        notes.append("No benchmark: vllm bench serve sends random prompts, this model takes other requests.")
    return Export(
        servers=servers,
        notes=tuple(notes),
        benchmarks=tuple(benchmark for benchmark, _ in runs),
        expected=tuple(figures for _, figures in runs),
        planned={name: value for name, value in (planned or {}).items() if name in EXPECTED},
    )


def export_of_mix(
    deployments: Mapping[str, tuple[Deployment, Trace | None]],
    slo: Slo,
    seed: int,
    planned: Mapping[str, Any],
    routes: Sequence[Mapping[str, Any]],
) -> Export:
    """The same of a mix: per type of instance all its instances, and the requests that go to them.

    A benchmark sends to all instances of a type, behind one address, what the plan sends there. ``routes``: per size
    of requests the shares of the types."""
    servers: list[Server] = []
    notes: list[str] = []
    runs: list[tuple[Benchmark, Mapping[str, Any]]] = []
    for name, (deployment, trace) in deployments.items():
        role = role_of(name)
        mine = servers_of(deployment, role=role)
        servers += mine
        notes += [f"{role}: {note}" for note in (*notes_of(deployment, places=False), *_notes(mine))]
        if trace is not None and sends_text(deployment):
            benchmark = benchmark_of(deployment.model.name, trace, slo, seed, role)
            runs.append((benchmark, _expected(benchmark, deployment, slo, notes)))
    if len(deployments) > 1:
        notes.append(
            "Requests go to types by their size, as in routes.json: give that to the router in front of the Services."
        )
    return Export(
        servers=tuple(servers),
        notes=tuple(notes),
        benchmarks=tuple(benchmark for benchmark, _ in runs),
        expected=tuple(figures for _, figures in runs),
        planned=planned,
        routes=tuple(routes),
    )


def sends_text(deployment: AnyDeployment) -> bool:
    """Whether requests are prompts of text with answers: neither embeddings nor speech."""
    return not deployment.model.pooling and deployment.model.encoder is None


def role_of(name: str) -> str:
    """Name of a type of instance as part of file names and of Kubernetes' names."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def _notes_on_weights(deployment: AnyDeployment) -> list[str]:
    """A configuration of one's own does not say where its weights are."""
    model = deployment.model
    if model.source.startswith(("http:", "https:")):
        return []
    return [
        f"The model is the configuration {model.source or model.name}: put the place of its weights for {model.name}."
    ]


def _notes_on_requests(deployment: AnyDeployment) -> list[str]:
    """Where the text of the benchmark's prompts matters, which is random."""
    pools = [pool for _, pool in deployment.pools] if isinstance(deployment, DisaggregatedDeployment) else [deployment]
    if any(pool.speculative is not None for pool in pools):
        return [
            "Drafts of random text are accepted at another rate than planned: benchmark with prompts of your own as well."
        ]
    return []


def _expected(benchmark: Benchmark, deployment: AnyDeployment, slo: Slo | None, notes: list[str]) -> Mapping[str, Any]:
    """Figures of the benchmark; none, and a note, where the plan rests on what it cannot send (priorities)."""
    try:
        return expected_of(benchmark, deployment, slo)
    except UserError as error:
        notes.append(f"The benchmark has no expected figures: {error}.")
        return {}


def _notes(servers: tuple[Server, ...]) -> list[str]:
    """What the files leave open."""
    reasons = [not_in_kserve(servers), not_in_llmd(servers)] if are_pools(servers) else []
    notes = [f"{reason}." for reason in reasons if reason is not None]
    if [server.role for server in servers] == ["prefill", "decode"] and (None not in reasons):
        notes.append("No manifest has the router that sends a request to a prefill server and then to a decode server.")
    if any(server.engine == "trtllm" and server.role == "prefill" for server in servers):
        notes.append(
            "Start 'trtllm-serve disaggregated -c FILE' in front, with the URLs of both pools in FILE (from memory)."
        )
    if any("@" in server.device for server in servers):
        notes.append("Slices are named by UUID: put those of nvidia-smi -L into CUDA_VISIBLE_DEVICES.")
    return notes
