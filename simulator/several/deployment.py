"""Models of one cluster: which share devices, what memory each has, and how long its weights take to come."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from functools import cached_property

from hardware_profiles.errors import UserError
from hardware_profiles.loader import load_device
from hardware_profiles.schema import Cluster, DeviceProfile
from simulator.adapters.setup import refuse_loading
from simulator.deployment import Deployment
from simulator.physics.layout import lay_out
from simulator.physics.memory import stage_weight_bytes
from simulator.physics.offload import DRAM_SHARE
from simulator.several.settings import HOST_DRAM, Cascade, Switch


@dataclass(frozen=True, kw_only=True, eq=False)
class Member:
    """One model."""

    name: str
    deployment: Deployment
    share: float
    """Of the requests of a trace that names no models."""
    group: str = "shared"
    """Models of one group run on the same devices, one at a time on each replica's."""
    deadline_s: float = 1.0
    """From the arrival of a request until it should have begun [s]; for the policy ``deadline``."""


@dataclass(frozen=True, kw_only=True, eq=False)
class SeveralDeployment:
    """Members of a group have the same number of replicas, each on the same devices."""

    members: tuple[Member, ...]
    switch: Switch = field(default_factory=Switch)
    cascade: Cascade | None = None

    def __post_init__(self) -> None:
        needed = 0
        for group, members in self.groups.items():
            plans = {(m.deployment.plan.devices_per_replica, m.deployment.plan.dp) for m in members}
            if len(plans) > 1:
                raise UserError(
                    f"models of group '{group}' have different layouts ({_plans(members)}): they take turns on the same "
                    "devices; give them the same tp * pp and dp, or groups of their own"
                )
            needed += members[0].deployment.plan.num_devices
            if len(members) > 1:
                _check_shared(group, members)
        refuse_loading((m.deployment for m in self.members), "several models")
        if needed > self.cluster.num_devices:
            raise UserError(
                f"the groups need {needed} devices; {self.cluster.name} has {self.cluster.num_devices}. Use fewer replicas, "
                "one group or a larger cluster"
            )

    @property
    def cluster(self) -> Cluster:
        """Where all are."""
        return self.members[0].deployment.cluster

    @property
    def groups(self) -> dict[str, list[Member]]:
        """Members by group, in the order of the file."""
        found: dict[str, list[Member]] = {}
        for member in self.members:
            found.setdefault(member.group, []).append(member)
        return found

    @property
    def num_devices(self) -> int:
        """Devices of all groups."""
        return sum(members[0].deployment.plan.num_devices for members in self.groups.values())

    @property
    def name(self) -> str:
        """All models, briefly."""
        names = [member.name for member in self.members]
        return " + ".join(names if len(names) <= 4 else [*names[:3], f"{len(names) - 3} more"])

    @cached_property
    def served(self) -> tuple[Deployment, ...]:
        """Each member's deployment with the KV blocks that are left for it. UserError when weights leave too few."""
        return tuple(self._beside_others(member) for member in self.members)

    def _beside_others(self, member: Member) -> Deployment:
        """Blocks = (memory less all that is resident) / block, and with suspended models a share of that."""
        others = [m for m in self.groups[member.group] if m is not member]
        if not others:
            return member.deployment
        resident = min(self.switch.resident, len(others) + 1)
        beside = sum(sorted((m.deployment.memory.weight_bytes for m in others), reverse=True)[: resident - 1])
        memory = member.deployment.memory
        block_bytes = memory.kv_bytes_per_token * memory.block_size
        if not block_bytes:
            raise UserError(f"{member.name} has no KV cache; it cannot share devices yet: give it a group of its own")
        sharers = 1 if self.switch.on_switch == "drain" else len(others) + 1
        blocks = int((memory.kv_bytes - beside) // (block_bytes * sharers))
        longest = member.deployment.max_model_len
        if blocks * memory.block_size < max(longest or 0, memory.block_size):
            raise UserError(
                f"{member.name}: {resident} resident models leave {max(0.0, memory.kv_bytes - beside) / sharers / 1e9:.1f} GB "
                f"per device for its KV cache; lower switch.resident or max_model_len"
            )
        return dataclasses.replace(
            member.deployment, num_gpu_blocks_override=blocks, _cache=self._cache_of(member, blocks)
        )

    def _cache_of(self, member: Member, blocks: int) -> dict[str, object]:
        """Physics compiled once; copies of one model share it."""
        memory = member.deployment.memory
        fewer = dataclasses.replace(
            memory, num_blocks=blocks, kv_bytes=blocks * memory.block_size * memory.kv_bytes_per_token
        )
        return {"step_model": member.deployment.step_model, "memory": fewer}

    def load_s(self, member: Member) -> float:
        """Time to bring a member's weights to the devices of a replica, all of them at once [s]."""
        return member.deployment.memory.weight_bytes / self.load_rate

    @cached_property
    def load_rate(self) -> float:
        """Bytes per second and device: host link, DRAM or drive shared by the devices of a node; or as given."""
        if self.switch.load_bytes_per_s is not None:
            return self.switch.load_bytes_per_s
        cluster = self.cluster
        link, node = cluster.device.host_link, cluster.node
        if link is None:
            raise UserError(f"{cluster.device.name} has no host_link in its profile; give switch.load_bytes_per_s")
        sharers = min(node.num_devices, self.num_devices)
        rate = link.bandwidth_bytes_per_s * link.efficiency
        if self.switch.load_from != HOST_DRAM:
            drive = self._drive
            if drive.kind not in ("nvme", "csd"):
                raise UserError(
                    f"switch.load_from {drive.name} is a {drive.kind}; name dram or a drive, such as nvme-pcie4"
                )
            return min(rate, drive.memory_bandwidth_bytes_per_s / sharers)
        if node.host_memory_bandwidth_bytes_per_s is not None:
            rate = min(rate, DRAM_SHARE * node.host_memory_bandwidth_bytes_per_s / sharers)
        return rate

    @property
    def _drive(self) -> DeviceProfile:
        try:
            return load_device(self.switch.load_from)
        except UserError as error:
            raise UserError(f"switch.load_from: {error}") from None

    def check_memory(self) -> None:
        """UserError when a model does not fit its devices, or the weights of those that take turns the host."""
        for deployment in self.served:
            _ = deployment.memory, deployment.step_model
        turns = [m for members in self.groups.values() if len(members) > self.switch.resident for m in members]
        if not turns or self.switch.load_bytes_per_s is not None:
            return
        total = sum(_whole_bytes(m.deployment) for m in turns)
        is_dram = self.switch.load_from == HOST_DRAM
        room = self.cluster.node.host_memory_bytes if is_dram else self._drive.memory_bytes
        if total > room:
            remedy = "; use switch.load_from: nvme-pcie4" if is_dram else ""
            raise UserError(
                f"the weights of {len(turns)} models, {total / 1e9:.0f} GB, exceed the {room / 1e9:.0f} GB of "
                f"{'a host' if is_dram else self.switch.load_from}{remedy}"
            )


def _whole_bytes(deployment: Deployment) -> float:
    """Weights of a model on all devices of a replica [B]."""
    plan, precision = deployment.plan, deployment.step_model.precision
    layout = lay_out(deployment.model, plan, precision)
    return plan.tp * sum(stage_weight_bytes(stage, layout, deployment.model, precision) for stage in layout.stages)


def _plans(members: list[Member]) -> str:
    texts = [f"{m.name}: {m.deployment.plan.devices_per_replica} x {m.deployment.plan.dp}" for m in members]
    return ", ".join(texts[:3])


def _check_shared(group: str, members: list[Member]) -> None:
    """UserError for what devices that are shared do not model."""
    for member in members:
        d = member.deployment
        for name, on in (
            ("pp above 1", d.plan.pp > 1),
            ("speculative_config", d.speculative is not None),
            ("interference", d.interference is not None),
            (f"scheduling_policy {d.scheduling}", d.scheduling != "fcfs"),
            ("elasticity", d.elasticity is not None),
            ("sm_split", d.sm_split is not None),
            ("kv_offloading_size", bool(d.kv_offload.host_bytes)),
            ("preemption_mode swap", d.engine.preemption == "swap"),
            (f"batching {d.engine.batching}", d.engine.batching in ("orca", "static")),
        ):
            if on:
                raise UserError(
                    f"{member.name}: {name} does not go with models that share devices (group '{group}') yet; drop it or give "
                    "the model a group of its own"
                )
