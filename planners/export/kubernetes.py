"""Servers as Kubernetes objects: Deployment and Service, LeaderWorkerSet where a server spans nodes."""

from __future__ import annotations

import re
from typing import Any

from planners.export.flags import engines, release_of, version_of
from planners.export.server import PORT, Server
from planners.export.shell import multi_node_lines
from planners.script import listen

RESOURCES = {
    ("NVIDIA", "gpu"): "nvidia.com/gpu",
    ("AMD", "gpu"): "amd.com/gpu",
    ("Intel", "npu"): "habana.ai/gaudi",
}
"""Vendor and kind of device -> extended resource of its device plugin (values of llm-d's chart name the same)."""
LABELS = {"NVIDIA": "nvidia.com/gpu.product", "AMD": "amd.com/gpu.product-name"}
"""Vendor -> label that its feature discovery puts on nodes; AMD's from memory."""
PRODUCT = re.compile(r"(NVIDIA|Tesla|AMD Instinct)[ -].+")
PRODUCTS = {"a100-sxm-40gb": "NVIDIA-A100-SXM4-40GB"}
"""Devices whose profile does not have the driver's name."""
LOAD_BYTES_PER_S = 1e8
"""At which weights are sure to arrive at a node: a slow download, our choice."""
START_S = 600
"""For compilation and graphs after that: our choice, a large model takes some minutes."""
GIB = 2**30
SHM_GIB_PER_DEVICE = 2
"""Shared memory of NCCL and the engine's queues per device; vLLM's Kubernetes guide gives a pod 2 GiB."""
HOST_GIB_PER_DEVICE = 16
"""Host memory of a process beside its pinned buffers: our choice."""


def can_deploy(server: Server, image: str | None = None) -> str | None:
    """Why there is no manifest; None where there is one. ``image``: the user's own."""
    if (server.vendor, server.kind) not in RESOURCES:
        return f"no device plugin is known for {server.device} of {server.vendor}"
    if server.engine == "trtllm" and server.nodes > 1:
        return "trtllm-serve on several nodes is started by MPI"
    if image is None and not image_of(server):
        return (
            f"no image of {server.engine} {server.version} for {server.vendor} is known; "
            "give yours: apex-sim export export.json --image NAME --out DIR"
        )
    return None


def resource_of(server: Server) -> str:
    """Extended resource of the device; a slice has one of its own."""
    _, _, profile = server.device.partition("@")
    return f"nvidia.com/mig-{profile}" if profile else RESOURCES[server.vendor, server.kind]


def product_of(server: Server) -> str | None:
    """The device as its feature discovery labels nodes: the driver's name with dashes for blanks."""
    name, _, profile = server.device.partition("@")
    if profile:
        return None
    known = PRODUCTS.get(name) or next((label for label in server.labels if PRODUCT.fullmatch(label)), None)
    return None if known is None else known.replace(" ", "-")


def node_selector(server: Server) -> dict[str, str]:
    """Nodes with the device; nothing where its label is not known."""
    product, label = product_of(server), LABELS.get(server.vendor)
    return {} if product is None or label is None else {label: product}


def image_of(server: Server) -> str:
    """The engine's own image of the version for the vendor's devices; empty where none is known."""
    image, first = engines()[server.engine].images.get(server.vendor, ("", "0"))
    version = release_of(server.engine, server.version)
    return image.format(version=version) if version_of(first) <= version_of(version) else ""


def name_of(server: Server, limit: int = 50) -> str:
    """A name that Services may have (RFC 1035: begins with a letter) for the model and the role."""
    text = re.sub(r"[^a-z0-9]+", "-", server.model.rstrip("/").rpartition("/")[2].lower()).strip("-")
    role = re.sub(r"[^a-z0-9]+", "-", server.role.lower()).strip("-")
    text = text if text[:1].isalpha() else f"model-{text}"
    return f"{text[: limit - len(role) - 1].rstrip('-')}-{role}"


def labels_of(server: Server) -> dict[str, str]:
    """Labels of the objects of a server."""
    return {"app.kubernetes.io/name": name_of(server), "app.kubernetes.io/component": server.engine}


def env_of(server: Server) -> list[dict[str, Any]]:
    """Environment of a container."""
    secret = {"name": "hf-token", "key": "HF_TOKEN", "optional": True}
    env: list[dict[str, Any]] = [{"name": "HF_TOKEN", "valueFrom": {"secretKeyRef": secret}}]
    if server.role in ("prefill", "decode") and server.engine == "vllm":
        address = {"fieldRef": {"fieldPath": "status.podIP"}}
        env.append({"name": "VLLM_NIXL_SIDE_CHANNEL_HOST", "valueFrom": address})
    return env + [{"name": name, "value": value} for name, value in server.env]


def resources_of(server: Server) -> dict[str, Any]:
    """Devices and host memory of a pod."""
    devices = server.devices_on_node
    host = -(-int(server.host_bytes / server.nodes) // GIB) + HOST_GIB_PER_DEVICE * devices
    count = {resource_of(server): str(devices)}
    return {"limits": dict(count), "requests": {**count, "memory": f"{host}Gi"}}


def probes_of(server: Server, port: str | int = "http") -> dict[str, Any]:
    """Probes of a server's container; the first waits for download, compilation and graphs."""
    start_s = START_S + server.weight_bytes / LOAD_BYTES_PER_S
    return {
        "startupProbe": _probe(10, -(-int(start_s) // 10), port),
        "readinessProbe": _probe(5, 3, port),
        "livenessProbe": _probe(10, 6, port),
    }


def _probe(period_s: int, failures: int, port: str | int) -> dict[str, Any]:
    check = {"path": "/health", "port": port}
    return {"httpGet": check, "periodSeconds": period_s, "timeoutSeconds": 5, "failureThreshold": failures}


def container_of(server: Server, image: str | None) -> dict[str, Any]:
    """The container of a server on one node."""
    begin = len(engines()[server.engine].begin)
    mounts = [{"name": "shm", "mountPath": "/dev/shm"}, {"name": "cache", "mountPath": "/root/.cache/huggingface"}]
    if server.config:
        mounts.append({"name": "options", "mountPath": "/etc/apex-sim"})
    words = [
        f"/etc/apex-sim/{word}" if server.config and word == server.config_file else word for word in server.command
    ]
    return {
        "name": "server",
        "image": image or image_of(server),
        "command": words[:begin],
        "args": [*words[begin:], "--port", str(PORT), *listen(server.engine)],
        "env": env_of(server),
        "ports": [{"name": "http", "containerPort": PORT}],
        "resources": resources_of(server),
        **probes_of(server),
        "volumeMounts": mounts,
    }


def volumes_of(server: Server) -> list[dict[str, Any]]:
    """Shared memory, where downloads go, and the file of options."""
    size = f"{SHM_GIB_PER_DEVICE * server.devices_on_node}Gi"
    volumes: list[dict[str, Any]] = [
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": size}},
        {"name": "cache", "emptyDir": {}},
    ]
    if server.config:
        volumes.append({"name": "options", "configMap": {"name": f"{name_of(server)}-options"}})
    return volumes


def _pod(server: Server, container: dict[str, Any]) -> dict[str, Any]:
    selector = node_selector(server)
    spec: dict[str, Any] = {"nodeSelector": selector} if selector else {}
    return {
        "metadata": {"labels": labels_of(server)},
        "spec": {**spec, "containers": [container], "volumes": volumes_of(server)},
    }


def deployment_of(server: Server, image: str | None) -> dict[str, Any]:
    """Deployment: a pod per server. An update stops a server before it starts the next, as both need the devices."""
    rolling = {"maxSurge": 0, "maxUnavailable": 1}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name_of(server), "labels": labels_of(server)},
        "spec": {
            "replicas": server.count,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": rolling},
            "selector": {"matchLabels": labels_of(server)},
            "template": _pod(server, container_of(server, image)),
        },
    }


def leader_worker_set_of(server: Server, image: str | None) -> dict[str, Any]:
    """LeaderWorkerSet: a group of pods per server, one on each of its nodes; the first has the port."""
    first, other = multi_node_lines(server, "LWS_LEADER_ADDRESS", "LWS_WORKER_INDEX")
    leader = container_of(server, image) | {"command": ["sh", "-c"], "args": [first]}
    worker = {name: value for name, value in leader.items() if not name.endswith("Probe") and name != "ports"}
    head = _pod(server, leader)
    head["metadata"]["labels"] = labels_of(server) | {"apex-sim/leader": "true"}
    return {
        "apiVersion": "leaderworkerset.x-k8s.io/v1",
        "kind": "LeaderWorkerSet",
        "metadata": {"name": name_of(server), "labels": labels_of(server)},
        "spec": {
            "replicas": server.count,
            "leaderWorkerTemplate": {
                "size": server.nodes,
                "restartPolicy": "RecreateGroupOnPodRestart",
                "leaderTemplate": head,
                "workerTemplate": _pod(server, worker | {"args": [other]}),
            },
        },
    }


def service_of(server: Server) -> dict[str, Any]:
    """Service in front of all servers of a kind."""
    leader = {"apex-sim/leader": "true"} if server.nodes > 1 else {}
    ports = [{"name": "http", "port": 80, "targetPort": "http"}]
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name_of(server), "labels": labels_of(server)},
        "spec": {"selector": labels_of(server) | leader, "ports": ports},
    }


def objects_of(server: Server, image: str | None = None) -> list[dict[str, Any]]:
    """All objects of one kind of server."""
    workload = leader_worker_set_of if server.nodes > 1 else deployment_of
    objects = [workload(server, image), service_of(server)]
    if server.config:
        import yaml

        data = {server.config_file: yaml.safe_dump(dict(server.config), sort_keys=False)}
        metadata = {"name": f"{name_of(server)}-options", "labels": labels_of(server)}
        objects.insert(0, {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": data})
    return objects
