"""Everything an export consists of, as plain values for JSON and as the text of its files."""

from __future__ import annotations

import dataclasses
import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from hardware_profiles.errors import UserError
from planners.export.benchmark import SINCE, Benchmark
from planners.export.benchmark import from_dict as benchmark_from
from planners.export.disaggregated import (
    are_pools,
    inference_service_of,
    modelservice_values_of,
    not_in_kserve,
    not_in_llmd,
)
from planners.export.flags import check_flags, release_of
from planners.export.kubernetes import can_deploy, name_of, node_selector, objects_of
from planners.export.place import Place, placed
from planners.export.server import PORT, Server, from_dict, to_dict
from planners.export.shell import node_script, one_node_script, url_line

FORMAT = 1
"""Of the JSON; goes up when a reader would misread an older one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """What a plan starts, and how to verify it."""

    servers: tuple[Server, ...]
    notes: tuple[str, ...]
    benchmarks: tuple[Benchmark, ...]
    """One, or one for each type of device of a mix."""
    expected: tuple[Mapping[str, Any], ...]
    """The simulator's figures for each of them."""
    planned: Mapping[str, Any] = field(default_factory=dict)
    """Its figures for the workload of the plan."""
    routes: tuple[Mapping[str, Any], ...] = ()
    """Of a mix: which share of the requests of a size goes to which type."""

    @property
    def on_one_node(self) -> bool:
        """All servers fit on one node together."""
        total = sum(server.count * server.devices for server in self.servers)
        return len({s.device for s in self.servers}) == 1 and total <= self.servers[0].devices_per_node


def address_notes(export: Export) -> list[str]:
    """What has the one address that requests go to, where no server has it."""
    count = sum(server.count for server in export.servers)
    front = "a load balancer in front of them, or Kubernetes' Service"
    if any(benchmark.target for benchmark in export.benchmarks):
        return [
            f"There are {server.count} servers: bench-{server.role}.sh needs the address of {front}."
            for server in export.servers
            if server.count > 1
        ]
    if count == 1:
        return []
    if len({server.role for server in export.servers}) > 1:
        return [f"bench.sh needs the address of the proxy in front of the pools{_ports(export, count)}."]
    return [f"There are {count} servers{_ports(export, count)}: bench.sh needs the address of {front}."]


def _ports(export: Export, count: int) -> str:
    return f" (serve.sh: ports {PORT} to {PORT + count - 1})" if export.on_one_node else ""


def manifest_notes(servers: Sequence[Server], image: str | None) -> list[str]:
    """Why there is no Kubernetes manifest, or no choice of nodes in it."""
    notes = []
    for server in servers:
        reason = can_deploy(server, image)
        if reason is not None:
            notes.append(f"No Kubernetes manifest: {reason}.")
        elif not node_selector(server):
            notes.append(
                f"The manifest selects no nodes: the label of {server.device} is not known; add a nodeSelector."
            )
    return list(dict.fromkeys(notes))


def to_json_values(export: Export) -> dict[str, Any]:
    """Plain values."""
    return {
        "format": FORMAT,
        "servers": [to_dict(server) for server in export.servers],
        "notes": list(export.notes),
        "benchmarks": [dataclasses.asdict(benchmark) for benchmark in export.benchmarks],
        "expected": [dict(figures) for figures in export.expected],
        "planned": dict(export.planned),
        "routes": [dict(route) for route in export.routes],
    }


def from_json_values(data: Any, place: str) -> Export:
    """The export that :func:`to_json_values` wrote. Raises UserError where it is something else."""
    if not isinstance(data, Mapping) or data.get("format") != FORMAT:
        raise UserError(
            f"{place}: has no 'export' of format {FORMAT}; write the plan anew with this version of apex-sim"
        )
    try:
        export = Export(
            servers=tuple(from_dict(server) for server in data["servers"]),
            notes=tuple(data["notes"]),
            benchmarks=tuple(benchmark_from(benchmark) for benchmark in data["benchmarks"]),
            expected=tuple(dict(figures) for figures in data["expected"]),
            planned=dict(data["planned"]),
            routes=tuple(dict(route) for route in data["routes"]),
        )
        if not export.servers:
            raise ValueError("it has no servers")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{place}: 'export' is damaged ({error}); write the plan anew") from None
    return export


def at_version(export: Export, version: str) -> Export:
    """The same servers in another version of their engine. Raises UserError for a flag that it does not have."""
    servers = []
    for server in export.servers:
        moved = dataclasses.replace(server, version=release_of(server.engine, version))
        wrong = check_flags(server.engine, moved.version, moved.command)
        if wrong:
            raise UserError(f"--engine-version: {wrong[0].replace('the plan is for', 'not')}; choose another version")
        servers.append(moved)
    planned = {server.version for server in export.servers} - {server.version for server in servers}
    notes = export.notes
    if planned:
        notes += (
            f"The expected figures are those of version {' and '.join(sorted(planned))}, for which it was planned.",
        )
    return dataclasses.replace(export, servers=tuple(servers), notes=notes)


def files_of(export: Export, image: str | None = None, place: Place | None = None) -> dict[str, str]:
    """Name -> text of every file; ``image``: the user's own; ``place``: of the manifests."""
    files, addresses = {}, address_notes(export)
    if export.on_one_node:
        files["serve.sh"] = one_node_script(export.servers, [*export.notes, *addresses])
    else:
        for server in export.servers:
            files[f"serve-{name_of(server)}.sh"] = node_script(server, [*export.notes, *addresses])
    files |= {server.config_file: _yaml([server.config]) for server in export.servers if server.config}
    if all(can_deploy(server, image) is None for server in export.servers):
        files |= _manifests(export.servers, image, place or Place())
    for benchmark, expected in zip(export.benchmarks, export.expected, strict=True):
        files[benchmark.file] = _bench_script(benchmark, expected, addresses)
    if export.benchmarks:
        runs = [
            {"script": benchmark.file, **dataclasses.asdict(benchmark), "expected": dict(expected)}
            for benchmark, expected in zip(export.benchmarks, export.expected, strict=True)
        ]
        files["expected.json"] = _json({"benchmarks": runs, "planned": dict(export.planned)})
    if export.routes:
        files["routes.json"] = _json([dict(route) for route in export.routes])
    files["export.json"] = _json(to_json_values(export))
    return files


def _manifests(servers: Sequence[Server], image: str | None, place: Place) -> dict[str, str]:
    documents: dict[str, Sequence[Mapping[str, Any]]] = {}
    if are_pools(servers):
        if not_in_kserve(servers) is None:
            documents["kserve.yaml"] = [inference_service_of(servers, image)]
        if not_in_llmd(servers) is None:
            documents["llm-d-values.yaml"] = [modelservice_values_of(servers, image)]
    documents = documents or {f"kubernetes-{name_of(server)}.yaml": objects_of(server, image) for server in servers}
    return {name: _yaml(placed(objects, place)) for name, objects in documents.items()}


def _bench_script(benchmark: Benchmark, expected: Mapping[str, Any], addresses: Sequence[str]) -> str:
    """``addresses``: why there is no address to fall back on."""
    lines = [
        "#!/bin/sh",
        f"# Sends the plan's rate and mean lengths to a running server (with vLLM {SINCE} or later): "
        + f"sh {benchmark.file} http://HOST:8000",
    ]
    wanted = ("request_throughput", "median_ttft_ms", "p95_ttft_ms", "median_tpot_ms", "p95_tpot_ms", "median_e2el_ms")
    found = [f"{name} {expected[name]:.4g}" for name in wanted if expected.get(name) is not None]
    lines += [f"# The simulator expects: {', '.join(found)} (all in expected.json)"] if found else []
    words = " ".join('"$URL"' if word == "$URL" else shlex.quote(word) for word in benchmark.command)
    return "\n".join([*lines, url_line(benchmark.file, bool(addresses or benchmark.target)), f"exec {words}"]) + "\n"


def _json(data: Any) -> str:
    return json.dumps(data, indent=2, allow_nan=False) + "\n"


def _yaml(documents: Sequence[Any]) -> str:
    import yaml

    class Plain(yaml.SafeDumper):
        """Values that occur twice are written twice, not as anchor and alias."""

        def ignore_aliases(self, data: Any) -> bool:
            return True

    return str(yaml.dump_all(documents, Dumper=Plain, sort_keys=False, width=4096))
