"""A deployment: which model on which devices, in which layout, under which engine settings, behind which router."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hardware_profiles.errors import UserError, unknown_name
from hardware_profiles.schema import Cluster
from simulator.adapters.setup import adapter_setup, check_adapters, kv_tokens_beside_adapters
from simulator.architecture import check_architecture
from simulator.batching import BATCHING, RESERVING
from simulator.cold import ColdStart
from simulator.core import CoreLimits
from simulator.costs import StepModelLike
from simulator.elastic.settings import Elasticity
from simulator.engine import EngineProfile
from simulator.hybrid_checks import check_hybrid
from simulator.offloading import KvOffload, check_offload, copy_times, kv_tiers
from simulator.physics.encoder_model import step_model_of
from simulator.physics.memory import MemoryPlan, memory_plan, state_slots
from simulator.physics.moe import ExpertRouting
from simulator.physics.step_model import StepModel
from simulator.plan import ParallelPlan
from simulator.prefix_order import ORDERS
from simulator.routing import BY_PREFIX, parse_routing
from simulator.run import ReplicaSetup
from simulator.scheduling.setup import parse_scheduling
from simulator.sharing.setup import check_sharing, rates_of, split_physics
from simulator.sharing.split import SmSplit
from simulator.sharing.tenants import Interference
from simulator.speculative.acceptance import Draws
from simulator.speculative.config import SpeculativeConfig
from simulator.speculative.counters import Speculation
from simulator.speculative.draft import Draft, check_engine, draft_of, with_draft
from simulator.speculative.setup import max_seqs, speculative_step_model
from workloads.model import ModelSpec

DEFAULT_SWAP_BYTES = 4.0 * 2**30
"""Host memory per device for swapped KV blocks (vLLM v0's default --swap-space, 4 GiB)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """Everything that serves: model, cluster, plan, engine profile (with the user's settings), router."""

    model: ModelSpec
    cluster: Cluster
    plan: ParallelPlan
    engine: EngineProfile
    max_model_len: int | None = None
    """Longest request [tokens]; None: as long as model and KV memory allow."""
    num_gpu_blocks_override: int | None = None
    swap_space_bytes: float = DEFAULT_SWAP_BYTES
    """Host memory for swapped KV blocks, per device [B]."""
    swap_overlap: float = 0.0
    """Share of the copies of swapped KV that runs beside the step they belong to, as far as that lasts."""
    routing: str = "round-robin"
    scheduling: str = "fcfs"
    """In which order a replica serves its requests: see :mod:`simulator.scheduling`."""
    order: str = "arrival"
    """Of requests that arrive together: arrival, or prefix-groups."""
    kv_offload: KvOffload = field(default_factory=KvOffload)
    """Memory below the devices' for cached prefixes."""
    moe_skew: float = 0.0
    expert_routing: ExpertRouting | None = None
    """Loads and traffic measured under a placement of experts (planners.experts); None: random routing."""
    cold_start: bool = False
    """The servers have just started: first uses of MoE kernels wait for their compiler."""
    speculative: SpeculativeConfig | None = None
    """How tokens are drafted; None: they are not."""
    interference: Interference | None = None
    """Co-tenants of the devices and hosts. The cluster is as slow already as those make it that are always there."""
    pair_instances: bool = False
    """Replicas in pairs that hold each other's KV and change roles."""
    sm_split: SmSplit | None = None
    """How prompts and tokens share every device at the same time; None: they share steps."""
    elasticity: Elasticity | None = None
    """How replicas come and go; None: all of the plan serve all the time."""
    _cache: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        engine = self.engine
        check_architecture(self)
        if self.elasticity is not None:
            self.elasticity.check(self.plan.dp)
        if self.speculative is not None:
            check_engine(self.speculative, engine, self.plan)
        check_offload(self.kv_offload, engine.prefix_caching, engine.batching)
        check_adapters(self)
        check_sharing(self)
        parse_scheduling(self.scheduling, engine.batching)
        self._check_swap_overlap()
        check_hybrid(self)
        if self.order not in ORDERS:
            raise unknown_name("order of requests (--order)", self.order, ORDERS)
        if self.order == "prefix-groups" and not engine.prefix_caching:
            raise UserError("--order prefix-groups brings equal prefixes together; it needs --enable-prefix-caching")
        if parse_routing(self.routing)[0] in BY_PREFIX and not engine.prefix_caching:
            raise UserError(f"--routing {self.routing} looks for cached prefixes; it needs --enable-prefix-caching")
        for name, value in (
            ("max_num_seqs", engine.max_num_seqs),
            ("max_num_batched_tokens", engine.max_num_batched_tokens),
            ("block_size", engine.block_size),
        ):
            if value < 1:
                raise UserError(f"{name} is {value}; it must be at least 1")
        if engine.batching == "chunked" and engine.max_num_batched_tokens < engine.max_num_seqs:
            raise UserError(
                f"max_num_batched_tokens ({engine.max_num_batched_tokens}) is less than max_num_seqs "
                f"({engine.max_num_seqs}); the engine needs a token for every sequence. Use --max-num-seqs "
                f"{engine.max_num_batched_tokens} or less, or --max-num-batched-tokens {engine.max_num_seqs} or more"
            )
        if not 0 < engine.gpu_memory_utilization <= 1:
            raise UserError(
                f"gpu_memory_utilization is {engine.gpu_memory_utilization}; it must be in (0, 1], for example 0.9"
            )

    def _check_swap_overlap(self) -> None:
        share = self.swap_overlap
        if not share:
            return
        if share > 1:
            raise UserError(f"--swap-overlap is {share:g}; it is a share from 0 to 1, for example 1")
        if self.engine.preemption != "swap":
            raise UserError("--swap-overlap hides copies of swapped KV; add --preemption-mode swap")
        if self.plan.pp > 1 or self.speculative is not None:
            raise UserError("--swap-overlap goes with one pipeline stage and without drafts; drop one of them")

    @property
    def step_model(self) -> StepModel:
        """Physics of one replica, compiled once."""
        if "step_model" not in self._cache:
            self._cache["step_model"] = step_model_of(
                self.model,
                self.cluster,
                self.plan,
                self.engine,
                moe_skew=self.moe_skew,
                expert_routing=self.expert_routing,
            )
            if self.interference is not None:  # MFU counts against what the devices can do, not what is left of it
                self._cache["step_model"].peak_flop_per_s *= self.interference.constant.compute
        model: StepModel = self._cache["step_model"]
        return model

    @property
    def draft(self) -> Draft | None:
        """What drafts, if that takes time or memory."""
        if self.speculative is None:
            return None
        if "draft" not in self._cache:
            self._cache["draft"] = draft_of(self.speculative, self.model, self.cluster, self.plan)
        draft: Draft | None = self._cache["draft"]
        return draft

    @property
    def memory(self) -> MemoryPlan:
        """Bytes and KV blocks per device. Raises UserError when the model does not fit."""
        if "memory" not in self._cache:
            self._cache["memory"] = memory_plan(
                self.model,
                self.cluster,
                self.plan,
                self.engine,
                max_model_len=self.max_model_len,
                num_gpu_blocks_override=self.num_gpu_blocks_override,
            )
            if self.draft is not None and not self.draft.apart:
                fixed = self.num_gpu_blocks_override is not None
                self._cache["memory"] = with_draft(
                    self._cache["memory"],
                    self.draft,
                    self.engine.gpu_memory_utilization,
                    self.engine.utilization_of,
                    fixed,
                )
        plan: MemoryPlan = self._cache["memory"]
        return plan

    @property
    def effective_max_model_len(self) -> int:
        """The longest request the deployment serves [tokens]."""
        capacity = kv_tokens_beside_adapters(self)
        if self.max_model_len is not None:
            return self.max_model_len
        return min(self.model.max_position_embeddings, capacity)

    def replica_setup(self) -> ReplicaSetup:
        """What the event loop needs of one replica."""
        engine = self.engine
        blocks = self.memory.num_blocks
        kv_token_bytes = self.memory.kv_bytes_per_token
        host_link = self.cluster.device.host_link
        limits = CoreLimits(
            num_blocks=blocks,
            block_size=engine.block_size,
            max_num_seqs=self._places(),
            max_num_batched_tokens=engine.max_num_batched_tokens,
            max_model_len=self.effective_max_model_len,
            reserve_full_prompt=engine.reserve_full_prompt,
            swap=engine.preemption == "swap",
            host_blocks=int(self.swap_space_bytes // (kv_token_bytes * engine.block_size)) if kv_token_bytes else 0,
            watermark_blocks=int(engine.watermark * blocks),
            fixed_reservation=self.effective_max_model_len if engine.batching in RESERVING else None,
            hold_finished=engine.batching == "static",
            max_prefill_tokens=engine.max_prefill_tokens,
            output_reserve=engine.output_reserve,
        )
        if engine.preemption == "swap" and host_link is None:
            raise UserError(f"{self.cluster.device.name} has no host_link in its profile; swapping needs one")
        slowness = self.cluster.node.cpu_slowness
        copies = copy_times(self)
        return ReplicaSetup(
            limits=limits,
            step_model=self.served_model,
            batching=BATCHING[engine.batching],
            stages=self.plan.pp,
            async_scheduling=engine.async_scheduling and self.plan.pp == 1,
            prefix_caching=engine.prefix_caching,
            request_fixed_s=engine.request_fixed_s * slowness,
            request_token_s=engine.request_token_s * slowness,
            response_s=engine.response_s * slowness,
            stream_token_s=engine.stream_token_s * slowness,
            swap_token_s=copies.token_s(engine.block_size) if copies is not None else 0.0,
            swap_overlap=self.swap_overlap,
            order=self.order,
            tiers=kv_tiers(self),
            adapters=adapter_setup(self),
            cold=self._cold(),
            counts_steps=self.plan.techniques.expert_cache is not None,
            speculation=self._speculation(),
            rates=rates_of(self),
            split=split_physics(self),
        )

    def _places(self) -> int:
        """Sequences that a replica runs at once: --max-num-seqs, or fewer where their constant states do not fit."""
        places = max_seqs(self.speculative, self.engine)
        slots = state_slots(self.model, self.cluster, self.plan, self.engine)
        return places if slots is None else min(places, slots)

    def _speculation(self) -> Speculation | None:
        config = self.speculative
        return None if config is None else Speculation(draws=Draws(config.rates), queries=config.queries)

    @property
    def served_model(self) -> StepModelLike:
        """Physics of a step, its drafts included."""
        if self.speculative is None:
            return self.step_model
        if "served_model" not in self._cache:
            self._cache["served_model"] = speculative_step_model(
                self.speculative, self.step_model, self.draft, self.engine, self.cluster
            )
        served: StepModelLike = self._cache["served_model"]
        return served

    def _cold(self) -> ColdStart | None:
        """What a fresh server compiles while it serves: Triton kernels of experts in 16 bits."""
        experts = [g.mlp.experts_per_token for g in self.model.layers if g.mlp.is_moe]
        engine = self.engine
        if not (self.cold_start and engine.moe_compile_s and experts):
            return None
        if self.step_model.precision.experts.weight_bytes < self.step_model.precision.element_bytes:
            return None  # quantised experts run kernels that come compiled
        return ColdStart(
            compile_s=engine.moe_compile_s,
            experts_per_token=max(experts),
            captured_tokens=engine.max_cudagraph_capture_size if engine.cuda_graphs != "none" else 0,
            profiled_tokens=engine.max_num_batched_tokens,
        )
