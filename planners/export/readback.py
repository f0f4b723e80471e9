"""The self-check of an export: every command and manifest is read back, and must say what the plan says."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from planners.export.benchmark import Benchmark
from planners.export.bundle import Export, from_json_values
from planners.export.disaggregated import LAYOUT, are_pools
from planners.export.flags import check_flags, engines, parse, without_harmless
from planners.export.kubernetes import name_of, node_selector, resource_of
from planners.export.memory import check_memory
from planners.export.server import Server

NODE_FLAGS = ("--distributed-executor-backend",)
"""Left out where the nodes of a server find each other without it."""
LIMITS = ("max_num_seqs", "max_num_batched_tokens", "max_model_len")


class Mismatch(AssertionError):
    """A file of the export does not say what the plan says: a fault of the exporter, not of the user."""


def check_export(export: Export, files: Mapping[str, str]) -> None:
    """Read everything back. Raises UserError where memory does not suffice, Mismatch where files and plan differ."""
    for server in export.servers:
        _check_command(server, server.command, name_of(server))
    for name in {*files, *(benchmark.file for benchmark in export.benchmarks)}:
        check_file(export, name, files[name])


def check_file(export: Export, name: str, text: str) -> None:
    """The same for one file. Raises ValueError too, where it cannot be read."""
    if name == "serve.sh" and export.on_one_node:
        _check_script([server for server in export.servers for _ in range(server.count)], name, text)
    elif name.startswith("serve"):
        server = next(s for s in export.servers if f"serve-{name_of(s)}.sh" == name and not export.on_one_node)
        _check_script([server] * (2 if _differs(server) else 1), name, text)
    elif name.endswith(".yaml"):
        _check_yaml(export, name, text)
    elif name.startswith("bench"):
        _check_benchmark(next(bench for bench in export.benchmarks if bench.file == name), text)
    elif name == "export.json":
        _same(from_json_values(json.loads(text), name), export, name)


def _same(found: Any, wanted: Any, where: str) -> None:
    if found != wanted:
        raise Mismatch(f"{where}: {found!r} instead of {wanted!r}")


def _differs(server: Server) -> bool:
    """Both the first and the other nodes of a server run a command of the engine, in words of their own."""
    return server.nodes > 1 and server.engine == "vllm" and "--distributed-executor-backend" not in server.command


def _commands(name: str, text: str) -> Iterator[tuple[str, ...]]:
    """Commands of engines in a script, without what the shell adds."""
    for line in text.splitlines():
        words = shlex.split(line, comments=True)
        begin = next((i for i in range(len(words)) for e in engines().values() if _begins(words[i:], e.begin)), None)
        if begin is not None:
            end = words.index("&") if "&" in words else len(words)
            yield tuple(words[begin:end])


def _begins(words: Sequence[str], begin: Sequence[str]) -> bool:
    return list(words[: len(begin)]) == list(begin)


def _check_script(wanted: Sequence[Server], name: str, text: str) -> None:
    """A script has one command for each of these servers, in order, with all its flags."""
    found = list(_commands(name, text))
    _same(len(found), len(wanted), f"{name}: commands")
    for server, words in zip(wanted, found, strict=True):
        _check_command(server, words, name)
        ours, theirs = (
            parse(server.engine, _plain(without_harmless(server.engine, w)))["flags"] for w in (server.command, words)
        )
        _same(
            {flag: theirs.get(flag) for flag in ours if flag not in NODE_FLAGS},
            {flag: value for flag, value in ours.items() if flag not in NODE_FLAGS},
            name,
        )


def _check_command(server: Server, words: Sequence[str], where: str) -> None:
    """Flags known to the version, the plan's layout and limits, and memory that suffices at the command's utilisation."""
    words = without_harmless(server.engine, words)
    _same(check_flags(server.engine, server.version, words), [], where)
    read = parse(server.engine, _plain(words))
    _same(read.get("model"), server.model, f"{where}: model")
    _check_layout(server, read, where)
    for name in LIMITS:
        _same(read.get(name), getattr(server, name), f"{where}: {name}")
    if server.engine == "vllm":
        check_memory(server.memory, read.get("utilization"), where)
    else:
        check_memory(server.memory, None, where)


def _plain(words: Sequence[str]) -> list[str]:
    """Words with a number for each of the shell's variables."""
    return ["0" if word.startswith("$") else word for word in words]


def _check_layout(server: Server, read: Mapping[str, Any], where: str) -> None:
    for name in ("tp", "pp", "dp"):
        _same(read.get(name, 1), getattr(server, name), f"{where}: {name}")
    experts = read.get("ep")  # vLLM's flag has no degree: all ranks of the server
    if server.engine == "vllm":
        _same(bool(experts), server.ep > 1, f"{where}: experts spread")
    else:
        _same(1 if experts is None else experts, server.ep, f"{where}: ep")


def _check_yaml(export: Export, name: str, text: str) -> None:
    import yaml

    documents = list(yaml.safe_load_all(text))
    if name in ("kserve.yaml", "llm-d-values.yaml") and not are_pools(export.servers):
        raise StopIteration
    if name == "kserve.yaml":
        spec = documents[0]["spec"]
        prefill, decode = export.servers
        for server, workload in ((prefill, spec["prefill"]), (decode, spec)):
            _check_kserve(server, workload)
    elif name == "llm-d-values.yaml":
        for server in export.servers:
            _check_llmd(server, documents[0], documents[0][server.role])
    elif name.startswith("options"):
        server = next(s for s in export.servers if s.config_file == name)
        _same(documents[0], dict(server.config), name)
        _same(server.config["kv_cache_config"]["free_gpu_memory_fraction"], server.memory.utilization, name)
    elif name.startswith("kubernetes-"):
        server = next(s for s in export.servers if f"kubernetes-{name_of(s)}.yaml" == name)
        _check_kubernetes(server, documents)


def _check_pod(server: Server, pod: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    """Devices and nodes of a pod; returns its container."""
    container: Mapping[str, Any] = pod["containers"][0]
    _same(container["resources"]["limits"][resource_of(server)], str(server.devices_on_node), f"{where}: devices")
    _same(pod.get("nodeSelector", {}), node_selector(server), f"{where}: nodeSelector")
    return container


def _check_kubernetes(server: Server, documents: Sequence[Mapping[str, Any]]) -> None:
    where = f"kubernetes-{name_of(server)}.yaml"
    kinds = {document["kind"]: document for document in documents}
    for kind in (workload := "LeaderWorkerSet" if server.nodes > 1 else "Deployment", "Service"):
        if kind not in kinds:
            raise Mismatch(f"{where}: has no {kind}")
    spec = kinds[workload]["spec"]
    _same(spec["replicas"], server.count, f"{where}: replicas")
    group = spec.get("leaderWorkerTemplate")
    pod = (spec["template"] if group is None else group["leaderTemplate"]).get("spec")
    _same(1 if group is None else group["size"], server.nodes, f"{where}: nodes")
    container = _check_pod(server, pod, where)
    if group is None:
        words = tuple(w.removeprefix("/etc/apex-sim/") for w in (*container["command"], *container["args"]))
    else:
        words = next(iter(_commands(where, container["args"][0])))
    _check_command(server, words, where)
    selector = kinds["Service"]["spec"]["selector"]
    template = spec["template"] if group is None else group["leaderTemplate"]
    _same(selector.items() <= template["metadata"]["labels"].items(), True, f"{where}: the Service's selector")


def _check_kserve(server: Server, workload: Mapping[str, Any]) -> None:
    where = f"kserve.yaml, {server.role}"
    _same(workload["replicas"], server.count, f"{where}: replicas")
    container = _check_pod(server, workload["template"], where)
    text = next(entry["value"] for entry in container["env"] if entry["name"] == "VLLM_ADDITIONAL_ARGS")
    degrees = workload["parallelism"]
    words = [*engines()[server.engine].begin, server.model, *shlex.split(text)]
    if server.nodes > 1:
        words += _degrees(degrees["tensor"], degrees.get("data", 1), degrees.get("pipeline", 1))
    _check_command(server, words, where)
    _same(degrees["tensor"], server.tp, f"{where}: parallelism")


def _check_llmd(server: Server, values: Mapping[str, Any], pool: Mapping[str, Any]) -> None:
    where = f"llm-d-values.yaml, {server.role}"
    _same(pool["replicas"], server.count, f"{where}: replicas")
    degrees, container = pool["parallelism"], pool["containers"][0]
    words = [*engines()[server.engine].begin, values["modelArtifacts"]["name"], *container["args"]]
    _check_command(server, words + _degrees(degrees["tensor"], degrees["data"], 1), where)
    _same(degrees["dataLocal"] * degrees["workers"], max(server.dp, degrees["workers"]), f"{where}: dataLocal")
    _same(container["resources"]["limits"][resource_of(server)], str(server.devices_on_node), f"{where}: devices")


def _degrees(tensor: int, data: int, pipeline: int) -> list[str]:
    """Flags that a chart or controller adds for the degrees of a pool."""
    degrees = zip(LAYOUT, (tensor, data, pipeline), strict=True)
    return [word for flag, degree in degrees if degree > 1 for word in (flag, str(degree))]


def _check_benchmark(benchmark: Benchmark, text: str) -> None:
    commands = list(_commands(benchmark.file, text))
    _same(len(commands), 1, f"{benchmark.file}: commands")
    read = parse("vllm-bench", commands[0])
    for name in ("model", "input_tokens", "output_tokens", "concurrency", "num_requests", "seed"):
        _same(read.get(name), getattr(benchmark, name), f"{benchmark.file}: {name}")
    _same(read.get("spread"), 0.0, f"{benchmark.file}: spread of lengths")
    rate = read["rate_per_s"]
    _same(None if rate == float("inf") else rate, benchmark.rate_per_s, f"{benchmark.file}: rate")
