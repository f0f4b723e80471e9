"""Small models, devices and clusters for physics tests, written out by hand."""

from __future__ import annotations

from dataclasses import replace

from hardware_profiles.schema import Cluster, DeviceProfile, Link, NodeSpec
from simulator.engine import EngineProfile
from simulator.physics.shape import StepShape
from workloads.model import AttentionSpec, LayerGroup, Matrix, MlpSpec, ModelSpec

GIB = 1024**3

H100 = DeviceProfile(
    name="h100-test",
    kind="gpu",
    vendor="NVIDIA",
    dense_flop_per_s={"float32": 67e12, "bfloat16": 989.4e12, "float16": 989.4e12, "fp8": 1978.9e12, "int8": 1978.9e12},
    num_sms=132,
    memory_bytes=80 * GIB,
    memory_bandwidth_bytes_per_s=3.35e12,
    scaleup=Link(name="NVLink4", bandwidth_bytes_per_s=450e9, latency_s=1e-6),
    host_link=Link(name="PCIe5", bandwidth_bytes_per_s=63e9, latency_s=2e-6),
    tdp_w=700.0,
)
A100 = replace(
    H100,
    name="a100-test",
    dense_flop_per_s={"float32": 19.5e12, "bfloat16": 312e12, "float16": 312e12, "int8": 624e12},
    num_sms=108,
    memory_bandwidth_bytes_per_s=2.039e12,
    tdp_w=400.0,
)
V100 = replace(H100, name="v100-test", dense_flop_per_s={"float32": 15.7e12, "float16": 125e12}, num_sms=80)
CPU = DeviceProfile(
    name="cpu-test",
    kind="cpu",
    vendor="x",
    dense_flop_per_s={"float32": 7e12},
    memory_bytes=512 * GIB,
    memory_bandwidth_bytes_per_s=300e9,
)
NETWORK = Link(name="InfiniBand NDR", bandwidth_bytes_per_s=50e9, latency_s=3e-6)


def cluster(device: DeviceProfile = H100, devices: int = 8, nodes: int = 1) -> Cluster:
    node = NodeSpec(device=device, num_devices=devices, host_memory_bytes=1024 * GIB, network=NETWORK)
    return Cluster(name=f"{device.name}:{devices}x{nodes}", node=node, num_nodes=nodes)


ENGINE = EngineProfile(
    name="vllm-test",
    version="0",
    batching="chunked",
    max_num_seqs=256,
    max_num_batched_tokens=2048,
    gpu_memory_utilization=0.9,
    block_size=16,
    step_fixed_s=1e-3,
    step_seq_s=5e-6,
    step_token_s=1e-8,
    non_kv_reserve_bytes=0.36 * GIB,
)


def gqa(hidden: int, heads: int, kv_heads: int, head_dim: int, window: int | None = None) -> AttentionSpec:
    return AttentionSpec(
        kind="gqa",
        num_heads=heads,
        num_kv_heads=kv_heads,
        head_dim=head_dim,
        v_head_dim=head_dim,
        sliding_window=window,
        matrices=(
            Matrix(name="qkv_proj", rows=(heads + 2 * kv_heads) * head_dim, cols=hidden),
            Matrix(name="o_proj", rows=hidden, cols=heads * head_dim, parallel="row"),
        ),
    )


def gated(hidden: int, intermediate: int) -> tuple[Matrix, Matrix]:
    return (
        Matrix(name="gate_up_proj", rows=2 * intermediate, cols=hidden),
        Matrix(name="down_proj", rows=hidden, cols=intermediate, parallel="row"),
    )


def dense(
    name: str, layers: int, hidden: int, heads: int, kv_heads: int, head_dim: int, intermediate: int, vocab: int
) -> ModelSpec:
    group = LayerGroup(
        count=layers,
        attention=gqa(hidden, heads, kv_heads, head_dim),
        mlp=MlpSpec(matrices=gated(hidden, intermediate)),
        norm_params=2 * hidden,
    )
    return ModelSpec(
        name=name,
        model_type="llama",
        hidden_size=hidden,
        vocab_size=vocab,
        layers=(group,),
        tie_word_embeddings=False,
        max_position_embeddings=131072,
        other_params=hidden,
    )


LLAMA_8B = dense("llama-3.1-8b", 32, 4096, 32, 8, 128, 14336, 128256)
LLAMA_70B = dense("llama-3.1-70b", 80, 8192, 64, 8, 128, 28672, 128256)
CODELLAMA_34B = dense("codellama-34b", 48, 8192, 64, 8, 128, 22016, 32000)

MIXTRAL = ModelSpec(
    name="mixtral-8x7b",
    model_type="mixtral",
    hidden_size=4096,
    vocab_size=32000,
    layers=(
        LayerGroup(
            count=32,
            attention=gqa(4096, 32, 8, 128),
            mlp=MlpSpec(
                matrices=gated(4096, 14336),
                num_experts=8,
                experts_per_token=2,
                router=Matrix(name="gate", rows=8, cols=4096, parallel="replicated"),
            ),
            norm_params=2 * 4096,
        ),
    ),
    tie_word_embeddings=False,
    max_position_embeddings=32768,
    other_params=4096,
)

_MLA = AttentionSpec(
    kind="mla",
    num_heads=128,
    num_kv_heads=128,
    head_dim=192,
    v_head_dim=128,
    q_lora_rank=1536,
    kv_lora_rank=512,
    qk_rope_head_dim=64,
    matrices=(
        Matrix(name="fused_qkv_a_proj", rows=1536 + 576, cols=7168, parallel="replicated"),
        Matrix(name="q_b_proj", rows=128 * 192, cols=1536),
        Matrix(name="kv_b_proj", rows=128 * 256, cols=512),
        Matrix(name="o_proj", rows=7168, cols=128 * 128, parallel="row"),
    ),
)
DEEPSEEK_V3 = ModelSpec(
    name="deepseek-v3",
    model_type="deepseek_v3",
    hidden_size=7168,
    vocab_size=129280,
    layers=(
        LayerGroup(count=3, attention=_MLA, mlp=MlpSpec(matrices=gated(7168, 18432)), norm_params=2 * 7168),
        LayerGroup(
            count=58,
            attention=_MLA,
            mlp=MlpSpec(
                matrices=gated(7168, 2048),
                num_experts=256,
                experts_per_token=8,
                shared_matrices=gated(7168, 2048),
                router=Matrix(name="gate", rows=256, cols=7168, parallel="replicated"),
            ),
            norm_params=2 * 7168,
        ),
    ),
    tie_word_embeddings=False,
    max_position_embeddings=163840,
)

WINDOWED = replace(
    LLAMA_8B,
    name="windowed",
    layers=(
        replace(LLAMA_8B.layers[0], count=16),
        replace(LLAMA_8B.layers[0], count=16, attention=gqa(4096, 32, 8, 128, window=1024)),
    ),
)
HYBRID = replace(
    LLAMA_8B,
    name="hybrid",
    layers=(
        replace(LLAMA_8B.layers[0], count=8),
        replace(
            LLAMA_8B.layers[0],
            count=24,
            attention=AttentionSpec(
                kind="linear",
                num_heads=32,
                num_kv_heads=32,
                head_dim=128,
                v_head_dim=128,
                matrices=gqa(4096, 32, 32, 128).matrices,
                state_elements=32 * 128 * 128,
            ),
        ),
    ),
)


def decode_shape(seqs: int, context: int, window: int | None = None) -> StepShape:
    """``seqs`` decode rows with ``context`` tokens each."""
    near = context if window is None else min(context, window)
    return StepShape(decode_seqs=seqs, context_tokens=seqs * context, window_tokens=seqs * near, logits_rows=seqs)


def prefill_shape(tokens: int, cached: int = 0, seqs: int = 1, completes: bool = True) -> StepShape:
    """``seqs`` chunks of ``tokens`` new tokens after ``cached`` ones (full attention)."""
    pairs = tokens * cached + tokens * (tokens + 1) // 2
    return StepShape(
        prefill_tokens=seqs * tokens,
        prefill_pairs=seqs * pairs,
        window_pairs=seqs * pairs,
        prefill_seqs=seqs,
        prefill_context=seqs * cached,
        logits_rows=seqs if completes else 0,
    )


def mixed_shape(decodes: StepShape, prefill: StepShape) -> StepShape:
    """Both in one step."""
    return StepShape(*(a + b for a, b in zip(decodes, prefill, strict=True)))
