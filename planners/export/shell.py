"""Servers as shell scripts: all on one node, or one script to run on every node of a server that spans several."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

from planners.export.flags import without
from planners.export.server import PORT, Server
from planners.script import VISIBLE, Process, listen, script

RAY_PORT = 6379
DP_PORT = 13345
SGLANG_PORT = 20000


def multi_node_lines(server: Server, head: str, rank: str, port: int = PORT) -> tuple[str, str]:
    """Shell lines of the first and of every other node of a server; ``head`` and ``rank`` are variables of the shell.

    vLLM with a replica on several nodes joins its processes by --nnodes, before it had that by Ray; with whole replicas on
    every node each runs its own part of --data-parallel-size. SGLang's nodes differ in --node-rank. TensorRT-LLM's processes
    are MPI's (the words are from memory).
    """
    if server.engine == "sglang":
        words = (*server.command, *listen(server.engine), "--nnodes", str(server.nodes))
        line = f'exec {shlex.join(words)} --node-rank "${rank}" --dist-init-addr "${head}:{SGLANG_PORT}" --port {port}'
        return line, line
    if server.engine == "trtllm":
        line = f"exec trtllm-llmapi-launch {shlex.join((*server.command, *listen(server.engine)))} --port {port}"
        return line, line
    if server.dp > 1:
        local = ("--data-parallel-size-local", str(server.dp_on_node), "--data-parallel-rpc-port", str(DP_PORT))
        line = shlex.join((*without(server.command, "--distributed-executor-backend"), *local))
        first = f'exec {line} --data-parallel-address "${head}" --port {port}'
        start = f"$(({rank}*{server.dp_on_node}))"
        return first, f'exec {line} --data-parallel-address "${head}" --headless --data-parallel-start-rank {start}'
    if "--distributed-executor-backend" not in server.command:
        words = (*server.command, "--nnodes", str(server.nodes))
        line = f'exec {shlex.join(words)} --node-rank "${rank}" --master-addr "${head}"'
        return f"{line} --port {port}", f"{line} --headless"
    first = f"ray start --head --port={RAY_PORT} && exec {shlex.join(server.command)} --port {port}"
    return first, f'exec ray start --address="${head}:{RAY_PORT}" --block'


def one_node_script(servers: Sequence[Server], notes: Sequence[str]) -> str:
    """All servers on the devices of one node, each on a port of its own."""
    each = [server for server in servers for _ in range(server.count)]
    return script([_process(server, index) for index, server in enumerate(each)], notes, PORT)


def _process(server: Server, index: int) -> Process:
    return Process(
        command=shlex.join((*server.command, *listen(server.engine))),
        devices=server.devices,
        visible=(server.vendor, server.kind) in VISIBLE,
        env=tuple(_env_of(server, index)),
    )


def _env_of(server: Server, index: int) -> list[tuple[str, str]]:
    """Servers on one node need side channels of their own."""
    channel = "VLLM_NIXL_SIDE_CHANNEL_PORT"
    return [(name, str(int(value) + 100 * index) if name == channel else value) for name, value in server.env]


def node_script(server: Server, notes: Sequence[str]) -> str:
    """One server of this kind: on its one node, or to be run on each of its nodes with HEAD and NODE_RANK set."""
    lines = ["#!/bin/sh", *(f"# {note}" for note in notes)]
    lines.append(
        f"# {server.count} such server(s), each on {server.nodes} node(s) with {server.devices_on_node} devices."
    )
    lines += [f"export {name}={shlex.quote(value)}" for name, value in server.env]
    if server.nodes == 1:
        return (
            "\n".join(
                [*lines, f'exec {shlex.join((*server.command, *listen(server.engine)))} --port "${{PORT:-{PORT}}}"']
            )
            + "\n"
        )
    lines.append("# On every node of a server: HEAD=address of its first node NODE_RANK=0, 1, ... sh this-file")
    first, other = multi_node_lines(server, "HEAD", "NODE_RANK")
    if first == other:
        return "\n".join([*lines, first]) + "\n"
    return "\n".join([*lines, 'if [ "$NODE_RANK" = 0 ]; then', f"  {first}", "else", f"  {other}", "fi"]) + "\n"


def url_line(name: str, needed: bool) -> str:
    """Shell line that sets URL from the first argument; ``needed``: no one server on this machine gets all requests."""
    return f'URL="${{1:?sh {name} http://HOST:PORT}}"' if needed else f'URL="${{1:-http://127.0.0.1:{PORT}}}"'
