"""Techniques of a deployment as flags of ``vllm serve``, and those that no flag of it turns on."""

from __future__ import annotations

from simulator.deployment import Deployment
from simulator.hybrid import hybrid_labels
from simulator.moe_settings import moe_labels
from simulator.shape_settings import shape_labels
from simulator.techniques import GIB, HOST_DRAM

NAMES = {"sglang": "SGLang", "trtllm": "TensorRT-LLM"}
"""Engine -> its name in sentences; vLLM else."""
NOT_SERVED = frozenset({"t5", "bart", "vit"})
"""Architectures that neither vLLM's own tree nor SGLang nor trtllm-serve has (from memory; vLLM has Whisper and BERT)."""


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
    who = NAMES.get(engine.name, "vLLM")
    notes += _offload_notes(deployment, who)
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
    if deployment.model.model_type in NOT_SERVED:
        notes.append(f"{who} does not serve {deployment.model.model_type} models; the command shows the layout alone.")
    return notes


def _offload_notes(deployment: Deployment, who: str) -> list[str]:
    """Weights that are kept elsewhere in another way than by the command's flag; TensorRT-LLM has notes of its own."""
    offload = deployment.plan.techniques.offload
    if offload is None or deployment.engine.name == "trtllm":
        return []
    amount = f"{offload.nbytes / GIB:g} GiB"
    if offload.source != HOST_DRAM:
        return [f"{who} does not offload weights to a drive; the plan reads {amount} from one."]
    if offload.backend == "prefetch":
        instead = " in place of --cpu-offload-gb" if who == "SGLang" else ""
        return [
            f"The plan copies {amount} of weights per device ahead of their use: choose {who}'s --offload-group-size and "
            f"--offload-num-in-group{instead} so that as much is offloaded."
        ]
    if offload.backend != "uva":
        return [f"{who} has no offloading as {offload.backend}; the plan keeps {amount} below."]
    return []


def _cache_notes(deployment: Deployment) -> list[str]:
    """Tiers, routing and order of service that the engine's own flags do not give."""
    tiers, notes, who = deployment.kv_offload, [], NAMES.get(deployment.engine.name, "vLLM")
    if tiers.disk_bytes:
        how = f"set that up for {who}"
        if who == "vLLM":
            how = "vLLM needs a connector such as LMCache for that, in --kv-transfer-config"
        notes.append(f"The plan keeps prefixes on a disk ({tiers.disk_bytes / GIB:g} GiB per replica): {how}.")
    if tiers.eviction != "lru":
        unless = ", unless --radix-eviction-policy says otherwise" if who == "SGLang" else ""
        notes.append(
            f"The plan evicts by {tiers.eviction}; {who}'s own cache evicts what was least recently used{unless}."
        )
    if deployment.scheduling not in ("fcfs", "priority"):
        notes.append(f"The plan serves in the order {deployment.scheduling}; no flag of {who} turns that on.")
    if deployment.plan.dp > 1 and deployment.routing != "round-robin":
        notes.append(f"The plan routes by {deployment.routing}: that is for the router in front of the replicas.")
    if deployment.engine.preemption == "swap":
        how = "current vLLM computes them again" if who == "vLLM" else f"no flag of {who} turns that on"
        notes.append(f"The plan swaps preempted requests to host memory; {how}.")
    return notes
