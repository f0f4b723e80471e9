"""The shell script that starts servers on the devices of one node: that of plans and that of exports."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from hardware_profiles.schema import DeviceProfile

FIRST_PORT = 8000
STOP = ("pids=", "trap 'kill $pids 2>/dev/null; wait; exit 143' INT TERM")
"""Lines of a script that starts several servers: they end with it (Ctrl-C, TERM)."""
VISIBLE = {("NVIDIA", "gpu"), ("AMD", "gpu")}
"""Vendor and kind of devices that CUDA_VISIBLE_DEVICES chooses (ROCm reads it as well)."""
ANSWER_THEIR_OWN = {"sglang", "trtllm"}
"""Engines that answer their own machine alone unless they are told to; vLLM answers all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One server on one node."""

    command: str
    """In words of the shell, without the port."""
    devices: int
    """That it is given; 0: it takes those that it finds."""
    visible: bool
    """Whether CUDA_VISIBLE_DEVICES chooses among them."""
    env: tuple[tuple[str, str], ...] = ()


def listen(engine: str) -> tuple[str, ...]:
    """Words by which an engine answers other machines."""
    return ("--host", "0.0.0.0") if engine in ANSWER_THEIR_OWN else ()


def chooses(device: DeviceProfile) -> bool:
    """Whether CUDA_VISIBLE_DEVICES chooses among devices of this kind."""
    return (device.vendor, device.kind) in VISIBLE


def script(processes: Sequence[Process], notes: Sequence[str], first_port: int = FIRST_PORT) -> str:
    """All processes, on consecutive devices and ports; notes as comments.

    One takes the place of the shell; several are ended with it.
    """
    lines, many, first = ["#!/bin/sh", *(f"# {note}" for note in notes)], len(processes) > 1, 0
    lines += STOP if many else ()
    for port, process in enumerate(processes, first_port):
        line = _line(process, first, port)
        first += process.devices
        lines.append(f'{line} & pids="$pids $!"' if many else _alone(line))
    return "\n".join([*lines, *(["wait"] if many else [])]) + "\n"


def script_of_roles(processes: Mapping[str, Process], notes: Sequence[str], port: int = FIRST_PORT) -> str:
    """One process, of several the one whose role is the first argument: for servers on nodes of their own."""
    lines = ["#!/bin/sh", *(f"# {note}" for note in notes)]
    starts = {role: _alone(_line(process, 0, port)) for role, process in processes.items()}
    if len(starts) == 1:
        return "\n".join([*lines, *starts.values()]) + "\n"
    usage = f"${{1:?say which: {' or '.join(starts)}}}"
    cases = [f"  {role}) {start} ;;" for role, start in starts.items()]
    wrong = f'  *) echo "$1: say {" or ".join(starts)}" >&2; exit 2 ;;'
    return "\n".join([*lines, f'case "{usage}" in', *cases, wrong, "esac"]) + "\n"


def _line(process: Process, first: int, port: int) -> str:
    chosen = ",".join(str(device) for device in range(first, first + process.devices))
    env = [f"CUDA_VISIBLE_DEVICES={chosen}"] if process.visible and chosen else []
    env += [f"{name}={shlex.quote(value)}" for name, value in process.env]
    return " ".join([*env, process.command, f"--port {port}"])


def _alone(line: str) -> str:
    """The process in the place of the shell."""
    return f"exec {'env ' if '=' in line.partition(' ')[0] else ''}{line}"
