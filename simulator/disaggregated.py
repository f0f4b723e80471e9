"""Prefill and decode on different devices: two pools of replicas and the link that KV takes between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from hardware_profiles.errors import UserError
from hardware_profiles.schema import Link
from simulator.adapters.setup import refuse_loading
from simulator.architecture import check_pools
from simulator.batching import RESERVING
from simulator.deployment import Deployment
from simulator.elastic.settings import Elasticity
from simulator.physics.collectives import P2P_S, link_share
from simulator.physics.layout import StageLayout, lay_out
from simulator.physics.memory import kv_bytes_per_token
from simulator.ports import KvPath
from simulator.run import ReplicaSetup
from workloads.model import ModelSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class DisaggregatedDeployment:
    """Two deployments of one model: the first computes prompts and the first token, the second all further tokens.

    Each has its devices, layout, engine settings and router. They may share a cluster; its devices must then be enough for
    both.
    """

    prefill: Deployment
    decode: Deployment
    link: Link | None = None
    """What KV goes over, per device of a replica, one way; None: :meth:`kv_link`."""
    overlap: bool = False
    """KV of a layer is sent while later layers compute: only what that leaves is sent after the prompt."""
    elasticity: Elasticity | None = None
    """How replicas of both pools come and go; None: all serve all the time."""

    def __post_init__(self) -> None:
        check_pools(self.prefill.model)
        refuse_loading((self.prefill, self.decode), "--disaggregate")
        if self.prefill.sm_split is not None or self.decode.sm_split is not None:
            raise UserError(
                "--sm-split runs both phases on one device, --disaggregate each on its own; drop one of them"
            )
        if self.prefill.pair_instances or self.decode.pair_instances:
            raise UserError("--pair-instances changes roles, --disaggregate fixes them; drop one of them")
        if self.prefill.model != self.decode.model:
            raise UserError(
                f"prefill serves {self.prefill.model.name}, decode {self.decode.model.name}; KV can only go between "
                "replicas of one model"
            )
        for name, pool in self.pools:
            if pool.engine.batching in RESERVING:
                raise UserError(
                    f"engine {pool.engine.name} of the {name} pool reserves memory for whole requests (batching "
                    f"{pool.engine.batching}) and cannot hand KV over; use vllm-v1, sglang or trtllm"
                )
        if any(getattr(pool, "elasticity", None) is not None for _, pool in self.pools):
            raise UserError("replicas of two pools come and go together; give elasticity to the pair, not to a pool")
        if self.elasticity is not None:
            self.elasticity.check_pools(self.prefill.plan.dp, self.decode.plan.dp)
        if self.shared and self.num_devices > self.prefill.cluster.num_devices:
            raise UserError(
                f"prefill needs {self.prefill.plan.num_devices} devices and decode {self.decode.plan.num_devices}; "
                f"{self.prefill.cluster.name} has {self.prefill.cluster.num_devices}. Use fewer replicas or a larger cluster"
            )
        link = self.kv_link()
        if not link.bandwidth_bytes_per_s > 0 or link.latency_s < 0:
            raise UserError(
                f"KV link {link.name!r} has {link.bandwidth_bytes_per_s:g} B/s and {link.latency_s:g} s; prefill and decode "
                "need a link with a bandwidth above 0. Give --kv-link, for example 50GB/s"
            )

    @property
    def pools(self) -> tuple[tuple[str, Deployment], tuple[str, Deployment]]:
        """Both pools with their names."""
        return ("prefill", self.prefill), ("decode", self.decode)

    @property
    def model(self) -> ModelSpec:
        """What both serve."""
        return self.prefill.model

    @property
    def shared(self) -> bool:
        """Both pools are parts of one cluster."""
        return self.prefill.cluster == self.decode.cluster

    @property
    def num_devices(self) -> int:
        """Devices of both pools."""
        return self.prefill.plan.num_devices + self.decode.plan.num_devices

    @property
    def effective_max_model_len(self) -> int:
        """The longest request that both pools hold [tokens]."""
        return min(self.prefill.effective_max_model_len, self.decode.effective_max_model_len)

    def check_memory(self) -> None:
        """UserError when the model does not fit one of the pools, or their KV formats differ."""
        for name, pool in self.pools:
            try:
                _ = pool.memory, pool.step_model
            except UserError as error:
                raise UserError(f"{name} pool: {error}") from None
        ours, theirs = (pool.step_model.precision.kv_bytes for _, pool in self.pools)
        if ours != theirs:
            raise UserError(
                f"prefill keeps KV in {8 * ours:g} bits, decode in {8 * theirs:g}: nobody converts it. Give both the same "
                "--kv-cache-dtype"
            )

    def kv_link(self) -> Link:
        """The link given; without one that of a shared scale-up domain or host where all devices are in one, else the slower
        of both networks per device."""
        if self.link is not None:
            return self.link
        cluster = self.prefill.cluster
        device = cluster.device
        if self.shared and device.scaleup is not None and self.num_devices <= cluster.scaleup_devices:
            return device.scaleup
        if self.shared and device.host_link is not None and self.num_devices <= cluster.node.num_devices:
            return device.host_link
        networks = [pool.cluster.node.network for _, pool in self.pools]
        return min(networks, key=lambda link: link.bandwidth_bytes_per_s * link_share(link))

    def port_bytes_per_s(self, pool: Deployment) -> float:
        """What a replica of a pool can send or receive: all its devices at once, each its part of the KV [B/s]."""
        if self.link is not None:
            per_device = self.link.bandwidth_bytes_per_s * self.link.efficiency
        else:
            link = self.kv_link()
            per_device = link.bandwidth_bytes_per_s * link_share(link)
        return per_device * pool.plan.devices_per_replica

    @property
    def latency_s(self) -> float:
        """From the decision to transfer until the first byte moves [s]."""
        return self.kv_link().latency_s + (P2P_S if self.link is None else 0.0)

    @property
    def kv_token_bytes(self) -> float:
        """KV of one token on all devices of a decode replica [B]: heads that several of them keep are sent to each."""
        precision = self.decode.step_model.precision
        return self._per_replica(lambda stage: kv_bytes_per_token(stage, precision))

    @property
    def state_bytes(self) -> float:
        """Constant states of linear-attention layers of one request [B]."""
        element_bytes = self.decode.step_model.precision.element_bytes
        return self._per_replica(
            lambda stage: sum(layer.attention.state_elements * count for layer, count in stage.layers) * element_bytes
        )

    def _per_replica(self, per_device: Callable[[StageLayout], float]) -> float:
        pool = self.decode
        layout = lay_out(pool.model, pool.plan, pool.step_model.precision)
        return pool.plan.tp * sum(per_device(stage) for stage in layout.stages)

    def kv_path(self) -> KvPath:
        """What the event loop needs of the link; with overlap the last layer's share is sent after the prompt."""
        return KvPath(
            token_bytes=self.kv_token_bytes,
            request_bytes=self.state_bytes,
            send_bytes_per_s=self.port_bytes_per_s(self.prefill),
            receive_bytes_per_s=self.port_bytes_per_s(self.decode),
            latency_s=self.latency_s,
            exposed_share=1.0 / self.model.num_layers if self.overlap else 1.0,
        )

    def setups(self) -> tuple[ReplicaSetup, ReplicaSetup]:
        """What the event loop needs of a replica of either pool; both refuse what is too long for one."""
        self.check_memory()
        longest = self.effective_max_model_len
        first, second = (pool.replica_setup() for _, pool in self.pools)
        return (
            replace(first, limits=replace(first.limits, max_model_len=longest), response_s=second.response_s),
            replace(second, limits=replace(second.limits, max_model_len=longest), prefix_caching=False),
        )
