"""A prefill and a decode pool of vLLM as KServe's LLMInferenceService and as values of llm-d's modelservice chart.

Fields as in KServe's samples and its default configurations (docs/samples/llmisvc, config/llmisvcconfig: v1alpha2) and in the
chart's values.yaml and templates.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from planners.export.flags import engines, without
from planners.export.kubernetes import (
    GIB,
    LABELS,
    env_of,
    image_of,
    labels_of,
    name_of,
    node_selector,
    probes_of,
    product_of,
    resources_of,
)
from planners.export.server import PORT, Server

LAYOUT = ("--tensor-parallel-size", "--data-parallel-size", "--pipeline-parallel-size")
KSERVE = "serving.kserve.io/v1alpha2"
DECODE_PORT = 8200
"""Of vLLM behind the proxy that the chart puts into the decode pods; prefill servers answer at the service's port."""
ACCELERATORS = {"NVIDIA": "nvidia", "AMD": "amd", "Intel": "intel-gaudi"}


def are_pools(servers: Sequence[Server]) -> bool:
    """One kind of prefill and one of decode servers of vLLM."""
    return [server.role for server in servers] == ["prefill", "decode"] and {s.engine for s in servers} == {"vllm"}


def arguments_of(server: Server, *left_out: str) -> tuple[str, ...]:
    """Words of the command after the model, without some flags."""
    begin = len(engines()[server.engine].begin) + 1
    return without(server.command[begin:], *left_out)


def not_in_kserve(servers: Sequence[Server]) -> str | None:
    """Why KServe cannot have the pools (its webhook's rules on parallelism); None where it can."""
    for server in servers:
        if server.nodes > 1 and (server.pp > 1) == (server.dp > 1):
            words = "KServe spreads a server over nodes by its pipeline or by data parallelism, one of the two"
            return f"{words}; the {server.role} pool has neither or both"
    return None


def not_in_llmd(servers: Sequence[Server]) -> str | None:
    """Why llm-d's chart cannot have the pools; None where it can."""
    for server in servers:
        if server.nodes > 1 and server.dp == 1:
            return (
                f"llm-d's chart spreads a server over nodes by data parallelism alone; the {server.role} pool has none"
            )
    return None


def _parallelism(server: Server) -> dict[str, Any]:
    """Degrees by which the controller starts workers; on one node the arguments have them."""
    found: dict[str, Any] = {"tensor": server.tp}
    if server.nodes > 1:
        found |= {"pipeline": server.pp} if server.pp > 1 else {"data": server.dp, "dataLocal": server.dp_on_node}
        found |= {"expert": True} if server.ep > 1 else {}
    return found


def _kserve_pod(server: Server, image: str | None) -> dict[str, Any]:
    """A pod: on one node the layout is among the arguments, on several the controller's templates add it."""
    flags = arguments_of(server, *(LAYOUT if server.nodes > 1 else ()))
    env = [*env_of(server), {"name": "VLLM_ADDITIONAL_ARGS", "value": shlex.join(flags)}]
    container = {
        "name": "main",
        "image": image or image_of(server),
        "env": env,
        "resources": resources_of(server),
    }
    selector = node_selector(server)
    return {**({"nodeSelector": selector} if selector else {}), "containers": [container]}


def _kserve_workload(server: Server, image: str | None) -> dict[str, Any]:
    pod = _kserve_pod(server, image)
    found: dict[str, Any] = {"replicas": server.count, "parallelism": _parallelism(server), "template": pod}
    return found | ({"worker": pod} if server.nodes > 1 else {})


def inference_service_of(servers: Sequence[Server], image: str | None = None) -> dict[str, Any]:
    """LLMInferenceService: the decode pool is its main workload, the prefill pool beside it."""
    prefill, decode = servers
    return {
        "apiVersion": KSERVE,
        "kind": "LLMInferenceService",
        "metadata": {"name": name_of(decode).removesuffix("-decode"), "labels": labels_of(decode)},
        "spec": {
            "model": {"uri": f"hf://{decode.model}", "name": decode.model},
            **_kserve_workload(decode, image),
            "router": {"scheduler": {}, "route": {}, "gateway": {}},
            "prefill": _kserve_workload(prefill, image),
        },
    }


def _llmd_pool(server: Server, image: str | None) -> dict[str, Any]:
    """Values of a pool; model, port and the tensor and data degrees are added by the chart.

    No probes where a server spans nodes: all its pods are alike, and those that have no port would be ended."""
    container = {
        "name": "vllm",
        "image": image or image_of(server),
        "modelCommand": "vllmServe",
        "args": list(arguments_of(server, "--tensor-parallel-size", "--data-parallel-size")),
        "env": [entry for entry in env_of(server) if entry["name"] != "HF_TOKEN"],
        "resources": resources_of(server),
        **({} if server.nodes > 1 else probes_of(server, DECODE_PORT if server.role == "decode" else PORT)),
        "mountModelVolume": True,
        "volumeMounts": [{"name": "shm", "mountPath": "/dev/shm"}],
    }
    label, product = LABELS.get(server.vendor), product_of(server)
    pool: dict[str, Any] = {
        "create": True,
        "replicas": server.count,
        "parallelism": {
            "tensor": server.tp,
            "data": server.dp,
            "dataLocal": server.dp_on_node,
            "workers": server.nodes,
        },
        "containers": [container],
        "volumes": [{"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": "16Gi"}}],
    }
    if label is not None and product is not None:
        pool["acceleratorTypes"] = {"labelKey": label, "labelValues": [product]}
    return pool


def modelservice_values_of(servers: Sequence[Server], image: str | None = None) -> dict[str, Any]:
    """Values for ``helm install NAME llm-d-modelservice/llm-d-modelservice -f FILE``."""
    prefill, decode = servers
    size = -(-int(1.2 * decode.weight_bytes) // GIB)  # room for a fifth more than the weights: our choice
    name = name_of(decode).removesuffix("-decode")
    return {
        "modelArtifacts": {
            "name": decode.model,
            "uri": f"hf://{decode.model}",
            "size": f"{size}Gi",
            "authSecretName": "hf-token",
            "labels": {"llm-d.ai/model": name},  # beside the chart's own, whose names differ between its versions
        },
        "multinode": max(server.nodes for server in servers) > 1,
        "accelerator": {"type": ACCELERATORS[decode.vendor]},
        "routing": {"servicePort": PORT, "proxy": {"enabled": True, "connector": "nixlv2", "targetPort": DECODE_PORT}},
        "decode": _llmd_pool(decode, image),
        "prefill": _llmd_pool(prefill, image),
    }
