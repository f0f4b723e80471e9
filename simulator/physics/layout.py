"""What one device of every pipeline stage holds once a model is cut by TP, PP and EP; and which cuts exist."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hardware_profiles.errors import UserError
from hardware_profiles.schema import Cluster
from simulator.physics.depth import deep_layers
from simulator.physics.kernel_counts import between_products, block_kernels
from simulator.physics.precision import KernelFormat, Precision
from simulator.physics.sums import in_order
from simulator.plan import ParallelPlan
from workloads.model import AttentionSpec, LayerGroup, Matrix, MlpSpec, ModelSpec

VOCAB_PAD = 64
"""vLLM pads the vocabulary to a multiple of 64 before it splits embedding and LM head over TP."""


FACTOR = ".factor"
"""Ending of the name of a low-rank factor that goes with a matrix: the other factor keeps the name."""
LLAMA_KERNELS = 10
"""Kernels of a Llama block under vLLM: four projections, two norms with residual, rotary, KV write, attention, activation;
all-reduces are not counted."""
LLAMA_NORMS = 2
MLP_KERNELS = 3
"""Of them, those of the MLP, dense or of experts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankMatrix:
    """A rank's share of a matrix: ``n`` outputs by ``k`` inputs."""

    name: str
    n: int
    k: int
    format: KernelFormat

    @property
    def weight_bytes(self) -> float:
        """Bytes in memory."""
        return self.n * self.k * self.format.weight_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RankExperts:
    """A rank's share of the routed experts of one layer."""

    num_experts: int
    experts_per_token: float
    """Experts that compute a token, on average."""
    choices: int
    """Experts that a token chooses, those without computation included."""
    compute_share: float
    """Choices that are computed."""
    local_experts: int
    """Experts a rank stores (rounded up)."""
    ep: int
    """Ranks the experts are spread over."""
    replicas: int
    """Data-parallel replicas whose tokens meet in these experts."""
    hidden: int
    intermediate: int
    """Width of one expert on this rank."""
    num_matrices: int
    format: KernelFormat
    sources: int
    """Ranks whose tokens are dealt to slots of their own: all that exchange, or 1 within TP."""

    @property
    def weight_bytes(self) -> float:
        """Bytes in memory."""
        per_expert = self.num_matrices * self.hidden * self.intermediate
        return self.local_experts * per_expert * self.format.weight_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class RankAttention:
    """Heads and widths of one rank; MLA keeps one latent for all heads on every rank."""

    spec: AttentionSpec
    num_heads: int
    num_kv_heads: int
    kv_elements_per_token: int
    state_elements: float
    query_share: float = 1.0
    """Tokens that this block computes."""
    key_share: float = 1.0
    """Tokens whose keys they meet."""
    stored_share: float = 1.0
    """Tokens whose keys and values this block keeps."""
    conv_elements: float = 0.0
    """The part of the state that is the tail of a convolution."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RankLayer:
    """One transformer block on one rank."""

    attention: RankAttention
    matrices: tuple[RankMatrix, ...]
    """Projections, dense MLP, shared experts, router: applied to every token."""
    experts: RankExperts | None
    unsplit_bytes: float
    """Norms, biases and the like, held by every rank [B]."""
    token_share: float = 1.0
    """Tokens that this block computes."""
    is_stored: bool = True
    """Whether its weights are its own, not those of an earlier pass."""
    launches: float = 1.0
    """Kernels that the host launches for the block, relative to a block of Llama."""
    elementwise: float = 1.0
    """Its kernels between the products, relative to those of a block of Llama."""
    sums_after: tuple[str, ...] = ("attention", "mlp")
    """Parts whose output projection leaves partial sums on the TP ranks."""
    sums_within: int = 0
    """Elements per token that ranks add up inside the block: step sizes, B and C of Mamba 1."""

    @property
    def weight_bytes(self) -> float:
        """Bytes of all weights of the block on one rank."""
        if not self.is_stored:
            return 0.0
        experts = 0.0 if self.experts is None else self.experts.weight_bytes
        return in_order(m.weight_bytes for m in self.matrices) + experts + self.unsplit_bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class StageLayout:
    """The blocks of one pipeline stage, as (block, how many)."""

    index: int
    layers: tuple[tuple[RankLayer, int], ...]
    is_first: bool
    is_last: bool

    @property
    def num_layers(self) -> int:
        """Blocks in the stage."""
        return sum(count for _, count in self.layers)

    @property
    def launches(self) -> float:
        """Kernels launched for all blocks, in blocks of Llama."""
        return in_order(layer.launches * count for layer, count in self.layers)


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """A model cut for a plan."""

    stages: tuple[StageLayout, ...]
    padded_vocab: int
    vocab_per_rank: int
    hidden: int


def _check_nodes(cluster: Cluster, plan: ParallelPlan) -> None:
    """Ranks of one TP group that fit into a node share one: collectives inside and across nodes differ too much."""
    node = cluster.devices_before_network
    if plan.tp > node:
        return
    nodes, rest = divmod(cluster.num_devices, node)
    groups = nodes * (node // plan.tp) + rest // plan.tp
    if plan.pp * plan.dp > groups:
        raise UserError(
            f"plan: tp={plan.tp} x pp={plan.pp} x dp={plan.dp} needs {plan.pp * plan.dp} groups of {plan.tp} devices; "
            f"{cluster.name} has room for {groups} that do not cross nodes of {node}. Lower pp or dp, or use a tp that "
            f"divides {node}"
        )


def check_plan(model: ModelSpec, cluster: Cluster, plan: ParallelPlan) -> None:
    """Raise UserError when the plan cannot be laid out: degrees, heads, layers, experts, number of devices."""
    for name in ("tp", "pp", "dp", "ep"):
        if getattr(plan, name) < 1:
            raise UserError(f"plan: {name} is {getattr(plan, name)}; it must be at least 1")
    try:
        model.check_tp(plan.tp)
    except UserError as error:
        raise UserError(f"plan: {error}") from None
    if plan.pp > model.num_layers:
        raise UserError(
            f"plan: pp={plan.pp} exceeds the {model.num_layers} layers of {model.name}. Use pp <= {model.num_layers}"
        )
    _check_ep(model, plan)
    if plan.num_devices > cluster.num_devices:
        raise UserError(
            f"plan: tp={plan.tp} x pp={plan.pp} x dp={plan.dp} needs {plan.num_devices} devices; {cluster.name} "
            f"has {cluster.num_devices}. Lower a degree or use a larger cluster"
        )
    _check_nodes(cluster, plan)


def _check_ep(model: ModelSpec, plan: ParallelPlan) -> None:
    if plan.ep == 1:
        return
    if not any(g.mlp.is_moe for g in model.layers):
        raise UserError(f"plan: ep={plan.ep} needs a mixture of experts; {model.name} is dense. Use ep=1")
    ranks = plan.tp * plan.dp
    experts = min(g.mlp.num_experts for g in model.layers if g.mlp.is_moe)
    valid = [
        e for e in range(1, ranks + 1) if ranks % e == 0 and (plan.tp % e == 0 or e % plan.tp == 0) and e <= experts
    ]
    if plan.ep not in valid:
        raise UserError(
            f"plan: ep={plan.ep} does not fit tp={plan.tp} x dp={plan.dp} of {model.name}. Valid ep: {_join(valid)}"
        )


def _join(values: Iterable[int]) -> str:
    return ", ".join(str(v) for v in values)


def _split(matrix: Matrix, tp: int, fmt: KernelFormat, prefix: str, extra_rows: int = 0) -> RankMatrix:
    """The rank's share of a matrix (rounded up when it does not divide)."""
    rows, cols = matrix.rows, matrix.cols
    if matrix.parallel == "column":
        rows = -(-rows // tp) + extra_rows
    elif matrix.parallel == "row":
        cols = -(-cols // tp)
    return RankMatrix(name=f"{prefix}.{matrix.name.removeprefix('shared_')}", n=rows, k=cols, format=fmt)


def _rank_attention(spec: AttentionSpec, tp: int) -> RankAttention:
    heads = spec.num_heads // tp
    if spec.kind == "mla":
        kv_heads, kv_elements = heads, spec.kv_elements_per_token
    elif not spec.reads_context:
        kv_heads, kv_elements = 0, 0
    else:
        kv_heads = max(1, spec.num_kv_heads // tp)
        kv_elements = kv_heads * (spec.head_dim + spec.v_head_dim)
    return RankAttention(
        spec=spec,
        num_heads=heads,
        num_kv_heads=kv_heads,
        kv_elements_per_token=kv_elements,
        state_elements=spec.state_elements / tp,
        conv_elements=spec.conv_elements / tp,
    )


def _attention_matrices(spec: AttentionSpec, tp: int, precision: Precision) -> list[RankMatrix]:
    """Projections of a rank; the first column-parallel one grows by the KV heads that a larger TP repeats."""
    repeated = 0
    if spec.kind == "gqa" and tp > spec.num_kv_heads:
        repeated = round((1 - spec.num_kv_heads / tp) * (spec.head_dim + spec.v_head_dim))
    matrices = []
    for matrix in spec.matrices:
        extra = repeated if matrix.parallel == "column" else 0
        repeated -= extra
        extra += spec.repeated_rows(matrix, tp)
        matrices.append(_split(matrix, tp, precision.linear, "attention", extra))
    return matrices


def _rank_experts(mlp: MlpSpec, plan: ParallelPlan, hidden: int, precision: Precision) -> RankExperts:
    split = max(1, plan.tp // plan.ep)
    down = [m.cols for m in mlp.matrices if m.parallel == "row"]
    params = sum(m.params for m in mlp.matrices)
    intermediate = down[0] if down else params // (3 * hidden)
    share = plan.techniques.moe.compute_share(mlp.num_experts)
    return RankExperts(
        num_experts=mlp.num_experts,
        experts_per_token=mlp.experts_per_token * share,
        choices=mlp.experts_per_token,
        compute_share=share,
        sources=plan.ep if plan.ep > plan.tp else 1,
        local_experts=-(-mlp.num_experts // plan.ep),
        ep=plan.ep,
        replicas=max(1, plan.ep // plan.tp),
        hidden=hidden,
        intermediate=-(-intermediate // split),
        num_matrices=max(1, round(params / (hidden * intermediate))),
        format=precision.experts,
    )


def _rank_layer(group: LayerGroup, model: ModelSpec, plan: ParallelPlan, precision: Precision) -> RankLayer:
    mlp = group.mlp
    matrices = _attention_matrices(group.attention, plan.tp, precision)
    experts = None
    unsplit = group.norm_params + group.attention.small_params
    if mlp.is_moe:
        if mlp.router is not None:
            matrices.append(_split(mlp.router, 1, precision.base, "moe"))
        matrices += [_split(m, plan.tp, precision.linear, "shared_experts") for m in mlp.shared_matrices]
        experts = _rank_experts(mlp, plan, model.hidden_size, precision)
        shared = mlp.small_params - mlp.expert_small_params * mlp.num_experts
        unsplit += shared + mlp.expert_small_params * experts.local_experts
    else:
        matrices += [_split(m, plan.tp, precision.linear, "mlp") for m in mlp.matrices]
        unsplit += mlp.small_params
    return RankLayer(
        attention=_rank_attention(group.attention, plan.tp),
        matrices=tuple(matrices),
        experts=experts,
        unsplit_bytes=unsplit * precision.element_bytes,
        launches=_launches(group, model.hidden_size, plan),
        **_parts(group),
    )


def _launches(group: LayerGroup, hidden: int, plan: ParallelPlan) -> float:
    """Kernels of a block relative to Llama's, beside those that all blocks have.

    Every norm is one; LayerNorm (twice the parameters) has its residual addition apart; biases of the output projections
    are added apart. Experts count as the MLP they replace, or as the plan says.
    """
    if (kernels := block_kernels(group)) is not None:
        return kernels / LLAMA_KERNELS
    norms = group.norm_params / hidden - LLAMA_NORMS
    biases = 2.0 if group.mlp.small_params and not group.mlp.is_moe else 0.0
    experts = plan.techniques.moe.kernels if group.mlp.is_moe else None
    more = 0 if experts is None else experts - MLP_KERNELS
    more += sum(m.name.endswith(FACTOR) for m in (*group.attention.matrices, *group.mlp.matrices))
    return (LLAMA_KERNELS + max(0.0, norms) + biases + more) / LLAMA_KERNELS


def _parts(group: LayerGroup) -> dict[str, Any]:
    """What a block does that not every block does."""
    spec, products = group.attention, group.mlp.matrices
    if spec.ssm is None and spec.kind != "none" and products:
        return {}
    sums = (*(("attention",) if spec.kind != "none" else ()), *(("mlp",) if products else ()))
    within = spec.ssm.dt_rank + 2 * spec.ssm.state if spec.ssm is not None and spec.ssm.version == 1 else 0
    return {"elementwise": between_products(group), "sums_after": sums, "sums_within": within}


def lay_out(model: ModelSpec, plan: ParallelPlan, precision: Precision) -> Layout:
    """Cut a model for a plan that ``check_plan`` accepts."""
    blocks = [_rank_layer(g, model, plan, precision) for g in model.layers]
    stages = []
    for index, part in enumerate(model.stage_layers(plan.pp)):
        layers = tuple((blocks[g], part.count(g)) for g in range(len(blocks)) if g in part)
        if plan.techniques.shape.recursion_depths:
            layers = deep_layers(blocks, part, plan)
        stages.append(StageLayout(index=index, layers=layers, is_first=index == 0, is_last=index == plan.pp - 1))
    padded = -(-model.vocab_size // VOCAB_PAD) * VOCAB_PAD
    return Layout(
        stages=tuple(stages), padded_vocab=padded, vocab_per_rank=-(-padded // plan.tp), hidden=model.hidden_size
    )
