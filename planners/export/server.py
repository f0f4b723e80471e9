"""What a plan starts: servers of an engine, how many of each, on which devices, with which command."""

from __future__ import annotations

import dataclasses
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hardware_profiles.errors import UserError
from hardware_profiles.schema import DeviceProfile
from planners.export.flags import check_flags, engines, release_of, version_of, without, without_defaults
from planners.export.memory import MemoryNeed, memory_need
from planners.export.options import trtllm_options
from planners.launch import separate_servers, vllm_commands
from planners.launch_techniques import NAMES, NOT_SERVED
from simulator.deployment import Deployment
from simulator.disaggregated import DisaggregatedDeployment

ENGINES = {"vllm-v1": "vllm", "vllm-v0": "vllm", "sglang": "sglang", "trtllm": "trtllm"}
"""Engine profile -> engine whose command starts it."""
PORT = 8000
COUNTS = (
    "count",
    "tp",
    "pp",
    "dp",
    "ep",
    "devices_per_node",
    "max_num_seqs",
    "max_num_batched_tokens",
    "max_model_len",
)
"""Fields of a server that are whole numbers of at least 1."""


def config_file_of(role: str) -> str:
    """Name of the file of options beside a command."""
    return "options.yaml" if role == "serve" else f"options-{role}.yaml"


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """``count`` equal servers: each one process group with one port."""

    role: str
    """serve, prefill, decode, or the type of device in a mix."""
    engine: str
    version: str
    model: str
    count: int
    tp: int
    pp: int
    dp: int
    """Replicas inside one server."""
    ep: int
    device: str
    """Name of the device's profile."""
    vendor: str
    kind: str = "gpu"
    """Of device: gpu, npu, cpu."""
    labels: tuple[str, ...]
    """Other names of the device, among them that of its driver."""
    devices_per_node: int
    max_num_seqs: int
    max_num_batched_tokens: int
    max_model_len: int
    words: tuple[str, ...]
    """The command in the words of the newest version known."""
    async_scheduling: bool
    old_scheduler: bool
    """vLLM's V0."""
    config: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Content of the file of options beside the command (TensorRT-LLM); empty: none."""
    weight_bytes: float
    """Of the whole model."""
    host_bytes: float
    """Host memory for offloaded weights and KV of one server [B]."""
    memory: MemoryNeed

    @property
    def command(self) -> tuple[str, ...]:
        """Words of the command in its version; the port is not among them."""
        words = without_defaults(self.engine, self.version, self.words)
        if self.engine != "vllm":
            return words
        if self.async_scheduling and (0, 10, 0) <= version_of(self.version) < (0, 14, 0):  # 0.14 made it the default
            words = (*words, "--async-scheduling")
        if engines()["vllm"].flags["--nnodes"].exists_in(self.version):
            words = without(words, "--distributed-executor-backend")  # processes find each other without Ray
        return words

    @property
    def env(self) -> tuple[tuple[str, str], ...]:
        """Environment that the engine needs to be the one that was simulated."""
        found = []
        if self.old_scheduler and (0, 8, 0) <= version_of(self.version) < (0, 11, 0):
            found.append(
                ("VLLM_USE_V1", "0")
            )  # V1 is the default from 0.8, V0 gone from 0.11 (release notes, from memory)
        if self.engine == "vllm" and self.role in ("prefill", "decode"):
            found.append(("VLLM_NIXL_SIDE_CHANNEL_PORT", "5600"))
        return tuple(found)

    @property
    def config_file(self) -> str:
        """Name of the file of ``config``."""
        return config_file_of(self.role)

    @property
    def devices(self) -> int:
        """Of one server."""
        return self.tp * self.pp * self.dp

    @property
    def nodes(self) -> int:
        """That one server spans."""
        return -(-self.devices // self.devices_per_node)

    @property
    def devices_on_node(self) -> int:
        """Of one server on each of its nodes."""
        return -(-self.devices // self.nodes)

    @property
    def dp_on_node(self) -> int:
        """Replicas of one server on each of its nodes."""
        return max(1, self.dp // self.nodes)


def servers_of(
    deployment: Deployment | DisaggregatedDeployment, version: str | None = None, role: str = "serve"
) -> tuple[Server, ...]:
    """The servers of a deployment, checked: flags known to the engine's version (``version`` instead of the plan's), memory
    enough. Raises UserError."""
    pools = deployment.pools if isinstance(deployment, DisaggregatedDeployment) else ((role, deployment),)
    lines = vllm_commands(deployment).splitlines()
    return tuple(_server(pool, name, line, version) for (name, pool), line in zip(pools, lines, strict=True))


def engine_of(profile: str, device: DeviceProfile) -> str:
    """The engine that a profile stands for. Raises UserError where nothing can be started."""
    engine = ENGINES.get(profile)
    if engine is None:
        raise UserError(f"--export: nobody ships the engine {profile} as a server; use --engine {', '.join(ENGINES)}")
    if device.dataflow is not None or (engine == "trtllm" and device.vendor != "NVIDIA"):
        raise UserError(f"--export: no server of {engine} runs on {device.name}; plan for a GPU that has one")
    return engine


def _server(pool: Deployment, role: str, line: str, version: str | None) -> Server:
    engine = engine_of(pool.engine.name, pool.cluster.device)
    if pool.model.model_type in NOT_SERVED:
        who = NAMES.get(engine, "vLLM")
        raise UserError(
            f"--export: {who} does not serve {pool.model.model_type} models; export a plan of another model"
        )
    version = release_of(engine, version or pool.engine.version)
    plan, node = pool.plan, pool.cluster.node
    words = tuple(shlex.split(line))
    together = engines()[engine].flags.get("--data-parallel-size")
    too_old = together is not None and not together.exists_in(version)
    sliced = "@" in pool.cluster.device.name  # a process sees one slice only
    pooled = role in ("prefill", "decode")  # their router picks servers, not replicas inside one
    apart = too_old or sliced or pooled or plan.num_devices > node.num_devices
    split = separate_servers(pool) or (plan.dp > 1 and not _experts_shared(pool) and apart)
    if split:
        words = without(words, "--data-parallel-size")
    dp = 1 if split else plan.dp
    config = trtllm_options(pool, role) if engine == "trtllm" else {}
    server = Server(
        role=role,
        engine=engine,
        version=version,
        model=pool.model.name,
        count=plan.dp if split else 1,
        tp=plan.tp,
        pp=plan.pp,
        dp=dp,
        ep=plan.ep,
        device=pool.cluster.device.name,
        vendor=pool.cluster.device.vendor,
        kind=pool.cluster.device.kind,
        labels=tuple(pool.cluster.device.aliases),
        devices_per_node=node.num_devices,
        max_num_seqs=pool.engine.max_num_seqs,
        max_num_batched_tokens=pool.engine.max_num_batched_tokens,
        max_model_len=pool.effective_max_model_len,
        words=(*words, "--extra_llm_api_options", config_file_of(role)) if config else words,
        async_scheduling=pool.engine.async_scheduling,
        old_scheduler=pool.engine.name == "vllm-v0",
        config=config,
        weight_bytes=pool.memory.weight_bytes * plan.tp * plan.pp,
        host_bytes=_host_bytes(pool) * dp,
        memory=memory_need(pool),
    )
    wrong = check_flags(engine, version, server.command)
    if wrong:
        raise UserError(
            f"--export: {wrong[0]}. Leave the setting out, or plan for another version (--engine NAME@VERSION)"
        )
    return server


def _experts_shared(pool: Deployment) -> bool:
    """The replicas of one server hold the experts together."""
    return pool.plan.ep > 1 and any(group.mlp.is_moe for group in pool.model.layers)


def _host_bytes(pool: Deployment) -> float:
    """Host memory of a replica for weights and KV [B]."""
    offload = pool.plan.techniques.offload
    weights = 0.0 if offload is None else offload.nbytes * pool.plan.devices_per_replica
    return weights + pool.kv_offload.host_bytes


def to_dict(server: Server) -> dict[str, Any]:
    """Plain values, for JSON."""
    return dataclasses.asdict(server)


def from_dict(data: Mapping[str, Any]) -> Server:
    """The server that :func:`to_dict` wrote. Raises TypeError or KeyError where it did not."""
    fields = dict(data)
    fields["memory"] = MemoryNeed(**fields["memory"])
    for name in ("labels", "words"):
        fields[name] = tuple(fields[name])
    if fields["engine"] not in engines():
        raise KeyError(fields["engine"])
    for name in COUNTS:
        if not isinstance(fields[name], int) or fields[name] < 1:
            raise ValueError(f"{name} is {fields[name]!r}")
    return Server(**fields)
