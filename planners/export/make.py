"""An export from a deployment and its workload."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hardware_profiles.errors import UserError
from planners.export.benchmark import EXPECTED, benchmark_of, expected_of
from planners.export.bundle import Export
from planners.export.kubernetes import can_deploy, node_selector
from planners.export.server import Server, servers_of
from planners.launch import notes_of
from planners.pools import AnyDeployment
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
    notes = [*notes_of(deployment), *_notes(servers)]
    benchmark = None if deployment.model.pooling else benchmark_of(deployment.model.name, trace, slo, seed)
    expected: Mapping[str, Any] = {}
    if benchmark is not None:
        try:
            expected = expected_of(benchmark, deployment, slo)
        except UserError as error:  # the plan rests on what the benchmark cannot send, such as priorities
            notes.append(f"The benchmark has no expected figures: {error}.")
    return Export(
        servers=servers,
        notes=tuple(notes),
        benchmark=benchmark,
        expected=expected,
        planned={name: value for name, value in (planned or {}).items() if name in EXPECTED},
    )


def _notes(servers: tuple[Server, ...]) -> list[str]:
    """What the manifests leave open."""
    notes = []
    for server in servers:
        if "@" in server.device:
            notes.append("Slices are named by UUID: put those of nvidia-smi -L into CUDA_VISIBLE_DEVICES.")
        reason = can_deploy(server)
        if reason is not None:
            notes.append(f"No Kubernetes manifest: {reason}.")
        elif not node_selector(server):
            notes.append(
                f"The manifest selects no nodes: the label of {server.device} is not known; add a nodeSelector."
            )
    return notes
