"""The command that starts what was planned, and what has to be done beside it."""

from __future__ import annotations

import json
import shlex
from dataclasses import replace
from typing import Any

from planners.launch_engines import COMMANDS, own_notes
from planners.launch_techniques import technique_flags, technique_notes
from planners.script import Process, chooses, listen, script, script_of_roles
from simulator.deployment import Deployment
from simulator.disaggregated import DisaggregatedDeployment

ONLINE_QUANTIZATION = frozenset({"fp8"})
"""Weight formats vLLM makes of a 16-bit checkpoint while loading; every other one needs a checkpoint in that format."""

_SETTINGS = (
    ("max_num_seqs", "--max-num-seqs"),
    ("max_num_batched_tokens", "--max-num-batched-tokens"),
)


DEFAULT_BLOCK_SIZE = 16
"""vLLM's own choice on NVIDIA devices; not given as a flag, since some attention backends (MLA) insist on another one."""


def separate_servers(deployment: Deployment) -> bool:
    """Whether the replicas cannot be one server with --data-parallel-size.

    Inside one server vLLM always splits the experts of a mixture over all tp * dp ranks; replicas with experts of their
    own are servers of their own. So are replicas of more than one node, and those of SGLang and TensorRT-LLM.
    """
    plan = deployment.plan
    if deployment.engine.name in COMMANDS:
        return plan.dp > 1
    is_moe = any(group.mlp.is_moe for group in deployment.model.layers)
    return plan.dp > 1 and ((is_moe and plan.ep < plan.tp * plan.dp) or spans_nodes(deployment))


def spans_nodes(deployment: Deployment) -> bool:
    """Whether one replica needs more devices than a node has."""
    return deployment.plan.devices_per_replica > deployment.cluster.node.num_devices


def command_of(deployment: Deployment) -> str:
    """What starts the deployment, in the words of its engine; vLLM's where those are not known."""
    return COMMANDS.get(deployment.engine.name, vllm_command)(deployment)


def vllm_command(deployment: Deployment) -> str:
    """``vllm serve`` with the layout and limits of the deployment; for replicas that are servers of their own, of one.

    --data-parallel-size starts the replicas of one server; --enable-expert-parallel has no degree, it is tp * dp.
    """
    plan, engine = deployment.plan, deployment.engine
    parts = ["vllm", "serve", deployment.model.name, "--tensor-parallel-size", str(plan.tp)]
    if plan.pp > 1:
        parts += ["--pipeline-parallel-size", str(plan.pp)]
    if plan.dp > 1 and not separate_servers(deployment):
        parts += ["--data-parallel-size", str(plan.dp)]
    if plan.ep > 1:
        parts.append("--enable-expert-parallel")
    if spans_nodes(deployment):
        parts += ["--distributed-executor-backend", "ray"]
    for name, flag in _SETTINGS:
        parts += [flag, str(getattr(engine, name))]
    if engine.block_size != DEFAULT_BLOCK_SIZE:
        parts += ["--block-size", str(engine.block_size)]
    parts += ["--gpu-memory-utilization", f"{engine.gpu_memory_utilization:g}"]
    parts += ["--max-model-len", str(deployment.effective_max_model_len)]
    if deployment.num_gpu_blocks_override is not None:
        parts += ["--num-gpu-blocks-override", str(deployment.num_gpu_blocks_override)]
    if plan.dtype != "auto":
        parts += ["--dtype", plan.dtype]
    if plan.quantization in ONLINE_QUANTIZATION:
        parts += ["--quantization", str(plan.quantization)]
    if plan.kv_cache_dtype != "auto":
        parts += ["--kv-cache-dtype", plan.kv_cache_dtype]
    if not engine.prefix_caching:
        parts.append("--no-enable-prefix-caching")
    if not engine.async_scheduling:
        parts.append("--no-async-scheduling")
    if engine.batching == "chunked" and engine.cuda_graphs == "none":
        parts.append("--enforce-eager")
    if deployment.speculative is not None:
        parts += ["--speculative-config", json.dumps(_speculative(deployment))]
    parts += technique_flags(deployment)
    return shlex.join(parts)


def _speculative(deployment: Deployment) -> dict[str, Any]:
    """vLLM's fields of --speculative-config; acceptance and the like are not settings but what comes out."""
    config, draft = deployment.speculative, deployment.draft
    assert config is not None
    named = config.model is not None and draft is not None
    fields = {
        "method": config.method,
        "model": draft.model.name if named and draft is not None else None,
        "num_speculative_tokens": config.num_speculative_tokens,
        "draft_tensor_parallel_size": config.draft_tensor_parallel_size,
        "quantization": config.quantization,
    }
    return {name: value for name, value in fields.items() if value is not None}


def _speculative_notes(deployment: Deployment) -> list[str]:
    config = deployment.speculative
    if config is None:
        return []
    notes = []
    if config.method in ("eagle", "eagle3") and config.model is None:
        notes.append('Add the checkpoint of the head to --speculative-config as "model"; the plan assumes one block.')
    if config.num_candidates is not None or config.draft_device is not None or config.draft_speedup != 1.0:
        notes.append("vLLM drafts in a line, one token after the other, on the target's devices; the plan does not.")
    return notes


def launch_notes(deployment: Deployment, places: bool = True) -> list[str]:
    """What the command alone does not say, one sentence each; ``places``: also which servers go where."""
    plan, node = deployment.plan, deployment.cluster.node
    own = deployment.engine.name in COMMANDS
    notes = own_notes(deployment, with_options=not places) if own else _speculative_notes(deployment)
    notes += technique_notes(deployment)
    if deployment.cluster.device.dataflow is not None:
        notes.append("vLLM does not run on this device: the command names layout and limits only.")
    if deployment.engine.batching != "chunked" and not own:
        notes.append(
            f"The plan is for {deployment.engine.name}; a current vLLM batches differently from what was simulated."
        )
    power = {"-pl": plan.power_cap_w, "-lgc": plan.gpu_clock_mhz}
    settings = [f"nvidia-smi {flag} {value:g}" for flag, value in power.items() if value is not None]
    if settings:
        notes.append(f"Set the devices first, as root on every node: {' and '.join(settings)}.")
    if separate_servers(deployment) and places:
        notes.append(
            f"Start {plan.dp} such servers, each on its own {plan.devices_per_replica} devices (CUDA_VISIBLE_DEVICES, "
            "--port), behind a load balancer."
        )
    if not places:
        pass
    elif spans_nodes(deployment):
        nodes = -(-plan.devices_per_replica // node.num_devices)
        notes.append(
            f"A server spans {nodes} nodes: run 'ray start' on each of them first (--head on the one you start from)."
        )
    elif plan.num_devices > node.num_devices and not separate_servers(deployment):
        local = node.num_devices // plan.devices_per_replica
        notes.append(
            f"The replicas span {-(-plan.dp // local)} nodes: add --data-parallel-size-local {local} "
            "--data-parallel-address HEAD_IP on every node, --headless --data-parallel-start-rank RANK on all but the first."
        )
    if plan.quantization is not None and plan.quantization not in ONLINE_QUANTIZATION:
        who = deployment.engine.name if own else "vLLM"
        notes.append(f"Serve a checkpoint quantised to {plan.quantization}; {who} does not make one while loading.")
    return notes


KV_CONNECTOR = {"kv_connector": "NixlConnector", "kv_role": "kv_both"}
"""vLLM's connector for pools whose KV goes over NVLink or RDMA (its documentation of disaggregated prefill); both sides."""


def vllm_commands(deployment: Deployment | DisaggregatedDeployment) -> str:
    """:func:`command_of`, or that of a prefill and a decode server, a line each."""
    if isinstance(deployment, Deployment):
        return command_of(deployment)
    return "\n".join(f"{command_of(pool)}{_role(pool, name)}" for name, pool in deployment.pools)


def _role(pool: Deployment, name: str) -> str:
    """Flags of a server of a pool."""
    if pool.engine.name == "sglang":
        return f" --disaggregation-mode {name}"
    if pool.engine.name == "trtllm":
        return ""
    return " " + shlex.join(["--kv-transfer-config", json.dumps(KV_CONNECTOR)])


def notes_of(deployment: Deployment | DisaggregatedDeployment, places: bool = True) -> list[str]:
    """:func:`launch_notes`, of two pools those of both."""
    if isinstance(deployment, Deployment):
        return launch_notes(deployment, places)
    notes = [
        "The first command is the prefill server, the second the decode server: each on its own devices and port, with a proxy "
        "in front that sends every request to the one and then to the other.",
        "vLLM's proxy takes the first token from the decode server; the plan counts it from the prefill server.",
    ]
    return notes + [
        f"{name.capitalize()}: {note}" for name, pool in deployment.pools for note in launch_notes(pool, places)
    ]


def script_of(deployment: Deployment | DisaggregatedDeployment) -> str:
    """A shell script: all servers where they fit on one node, else one server of the kind it is asked for; notes as comments.

    Unlike an export it shows the command of every device and engine, also of those that nobody ships a server for.
    """
    pools = [("", deployment)] if isinstance(deployment, Deployment) else list(deployment.pools)
    node, notes = pools[0][1].cluster.node, notes_of(deployment)
    started = [
        (name, *_started(pool, command))
        for (name, pool), command in zip(pools, vllm_commands(deployment).splitlines(), strict=True)
    ]
    if sum(process.devices * count for _, process, count in started) <= node.num_devices:
        return script([process for _, process, count in started for _ in range(count)], notes)
    found = {name: replace(process, devices=0) for name, process, _ in started}  # on devices that its node has left
    return script_of_roles(found, notes)


def _started(pool: Deployment, command: str) -> tuple[Process, int]:
    """A server of a pool, and how many such there are."""
    servers = pool.plan.dp if separate_servers(pool) else 1
    line = " ".join([command, *listen(pool.engine.name)])
    size = pool.plan.num_devices // servers
    return Process(command=line, devices=size, visible=chooses(pool.cluster.device)), servers
