"""A type of instance and how it serves the model."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from hardware_profiles.schema import Cluster
from planners.fleet.problem import GpuType
from simulator.build import build_deployment
from simulator.deployment import Deployment
from workloads.model import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Candidate:
    """A type of instance and how it serves the model."""

    kind: GpuType
    cluster: Cluster
    """One instance: a node whose devices are one tensor-parallel group; with the terms of its price and its site."""

    @property
    def tp(self) -> int:
        """Devices of an instance."""
        return self.cluster.num_devices


@dataclass(frozen=True, slots=True, kw_only=True)
class Serving:
    """What all instances run."""

    model: ModelSpec
    engine: str
    settings: dict[str, Any]

    def deployment(self, candidate: Candidate, count: int) -> Deployment:
        """``count`` instances of a type, one replica each."""
        name = f"{candidate.cluster.device.name}:{candidate.tp}x{count}"
        cluster = replace(candidate.cluster, name=name, num_nodes=count)
        return build_deployment(self.model, cluster, engine=self.engine, tp=candidate.tp, dp=count, **self.settings)
