"""Techniques of a deployment as flags of ``vllm serve``, and those that no flag of it turns on."""

from __future__ import annotations

from simulator.deployment import Deployment
from simulator.hybrid import hybrid_labels
from simulator.moe_settings import moe_labels
from simulator.shape_settings import shape_labels
from simulator.techniques import GIB, HOST_DRAM

NAMES = {"sglang": "SGLang", "trtllm": "TensorRT-LLM"}
"""Engine -> its name in sentences; vLLM else."""
NOT_IN_VLLM = frozenset({"t5", "bart", "vit"})
"""Architectures without an implementation in vLLM's own tree (from memory; Whisper and BERT have one)."""


def technique_flags(deployment: Deployment) -> list[str]:
    """Flags for what vLLM does as simulated."""
    on, parts = deployment.plan.techniques, []
    if on.offload is not None and on.offload.backend == "uva":
        parts += ["--cpu-offload-gb", f"{on.offload.nbytes / GIB:g}"]
    if deployment.kv_offload.host_bytes:
        parts += ["--kv-offloading-size", f"{deployment.kv_offload.host_bytes / GIB:g}"]
    if deployment.scheduling == "priority":
        parts += ["--scheduling-policy", "priority"]
    if on.lora is not None:
        parts += ["--enable-lora", "--max-loras", str(on.lora.slots), "--max-lora-rank", str(on.lora.rank)]
        if on.lora.adapters > on.lora.slots:
            parts += ["--max-cpu-loras", str(on.lora.adapters)]
    if on.ssm_dtype != "auto":
        parts += ["--mamba-ssm-cache-dtype", on.ssm_dtype]
    if deployment.model.pooling:
        parts += ["--runner", "pooling"]
    return parts


def technique_notes(deployment: Deployment) -> list[str]:
    """One sentence for each technique that vLLM has no such flag for."""
    on, engine, notes = deployment.plan.techniques, deployment.engine, []
    offload, who = on.offload, NAMES.get(engine.name, "vLLM")
    if offload is not None and offload.source != HOST_DRAM:
        notes.append(
            f"{who} does not offload weights to a drive; the plan reads {offload.nbytes / GIB:g} GiB from one."
        )
    elif offload is not None and offload.backend == "prefetch":
        notes.append(
            f"The plan copies {offload.nbytes / GIB:g} GiB of weights per device ahead of their use: choose "
            "--offload-group-size and --offload-num-in-group so that as much is offloaded."
        )
    elif offload is not None and offload.backend != "uva":
        notes.append(
            f"{who} has no offloading as {offload.backend}; the plan keeps {offload.nbytes / GIB:g} GiB below."
        )
    simulated = {
        "collectives under other work": engine.comm_overlap > 0,
        "nano-batches": engine.nano_batch_tokens > 0,
        "fused experts": engine.fused_moe,
        "sparse attention": on.attention is not None,
        "a compressed KV cache": on.kv_compression < 1,
        "sparse activations": on.activation_sparsity > 0,
        "prompts and tokens at once on divided devices": deployment.sm_split is not None,
        "instances that hold each other's KV": deployment.pair_instances,
    }
    notes += [f"The plan has {name}; no flag of {who} turns that on." for name, used in simulated.items() if used]
    notes += _cache_notes(deployment)
    labels = moe_labels(on.moe) + shape_labels(on.shape) + hybrid_labels(on.expert_cache, on.attention_device)
    notes += [f"The plan has {label}; no flag of {who} turns that on." for label in labels]
    if deployment.model.model_type in NOT_IN_VLLM:
        notes.append(f"vLLM does not serve {deployment.model.model_type} models; the command shows the layout alone.")
    return notes


def _cache_notes(deployment: Deployment) -> list[str]:
    """Tiers, routing and order of service that the engine's own flags do not give."""
    tiers, notes, who = deployment.kv_offload, [], NAMES.get(deployment.engine.name, "vLLM")
    if tiers.disk_bytes:
        how = f"set that up for {who}"
        if who == "vLLM":
            how = "vLLM needs a connector such as LMCache for that, in --kv-transfer-config"
        notes.append(f"The plan keeps prefixes on a disk ({tiers.disk_bytes / GIB:g} GiB per replica): {how}.")
    if tiers.eviction != "lru":
        notes.append(f"The plan evicts by {tiers.eviction}; {who}'s own cache evicts what was least recently used.")
    if deployment.scheduling not in ("fcfs", "priority"):
        notes.append(f"The plan serves in the order {deployment.scheduling}; no flag of {who} turns that on.")
    if deployment.plan.dp > 1 and deployment.routing != "round-robin":
        notes.append(f"The plan routes by {deployment.routing}: that is for the router in front of the replicas.")
    if deployment.engine.preemption == "swap":
        how = "current vLLM computes them again" if who == "vLLM" else f"no flag of {who} turns that on"
        notes.append(f"The plan swaps preempted requests to host memory; {how}.")
    return notes
