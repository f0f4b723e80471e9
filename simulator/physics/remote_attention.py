"""Decode attention where the KV cache lives: on the host's processors, in storage, or read from a drive."""

from __future__ import annotations

from dataclasses import dataclass

from hardware_profiles.errors import UserError
from hardware_profiles.loader import load_device
from hardware_profiles.schema import Cluster, DeviceProfile
from simulator.hybrid import CPU, AttentionDevice
from simulator.physics.layout import StageLayout
from simulator.physics.offload import HostCompute, host_compute, sharers_of
from simulator.physics.shape import DecodeLine, StepShape
from simulator.physics.stage import Stage
from simulator.physics.sums import in_order
from simulator.plan import ParallelPlan

ELEMENT_BYTES = 2.0
"""Queries, new keys and values, and outputs cross the link in 16 bits."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteKv:
    """Where one accelerator's KV cache is, and how fast attention passes over it."""

    device: AttentionDevice
    reads: HostCompute
    """What reads it: the host's processors, storage inside, or the way to the accelerator."""
    writes_bytes_per_s: float
    link_bytes_per_s: float
    link_latency_s: float
    shares_dram: bool
    """Weights that are streamed from DRAM take their part of the same memory."""
    on_accelerator: bool
    """The drive only stores: KV crosses the link and the accelerator attends to it."""


def remote_kv(cluster: Cluster, plan: ParallelPlan) -> RemoteKv | None:
    """The path of attention outside the accelerator, or None. UserError for devices that cannot do it."""
    device = plan.techniques.attention_device
    if device is None:
        return None
    link = cluster.device.host_link
    if link is None:
        raise UserError(f"{cluster.device.name} has no host_link in its profile; --attention-device needs one")
    rate = link.bandwidth_bytes_per_s * link.efficiency
    sharers = sharers_of(cluster, plan)
    if device.name == CPU:
        reads = host_compute(cluster, plan, "--attention-device cpu")
        writes = min(rate, reads.bytes_per_s)
    else:
        drive = _drive(device)
        inside = drive.memory_bandwidth_bytes_per_s * device.count / sharers
        written = drive.write_bandwidth_bytes_per_s
        writes = min(rate, inside if written is None else written * device.count / sharers)
        if drive.kind == "nvme":
            own = drive.host_link
            path = inside if own is None else own.bandwidth_bytes_per_s * own.efficiency * device.count / sharers
            inside = min(inside, path, rate)
        reads = HostCompute(bytes_per_s=inside)
    return RemoteKv(
        device=device,
        reads=reads,
        writes_bytes_per_s=writes,
        link_bytes_per_s=rate,
        link_latency_s=link.latency_s,
        shares_dram=device.name == CPU,
        on_accelerator=device.name != CPU and _drive(device).kind == "nvme",
    )


def _drive(device: AttentionDevice) -> DeviceProfile:
    drive = load_device(device.name)
    if drive.kind not in ("csd", "nvme"):
        raise UserError(
            f"--attention-device {device.name} is a {drive.kind}; use cpu, a computational storage drive such as instcsd, or "
            "a drive such as nvme-pcie4"
        )
    return drive


def kv_room(cluster: Cluster, plan: ParallelPlan) -> float | None:
    """Bytes for one accelerator's KV cache outside of it, or None. UserError when there are not as many."""
    device = plan.techniques.attention_device
    if device is None:
        return None
    sharers, node = sharers_of(cluster, plan), cluster.node
    if device.name == CPU:
        offload, room = plan.techniques.offload, float(node.host_memory_bytes)
        if offload is not None and offload.source == "dram":
            room -= offload.nbytes * sharers
        where = f"the host memory of a node of {cluster.name}" + (
            "" if offload is None else ", less offloaded weights,"
        )
    else:
        room = float(_drive(device).memory_bytes * device.count)
        where = f"{device.count} x {device.name}"
    room /= sharers
    wanted = room if device.nbytes is None else device.nbytes
    if wanted > room:
        raise UserError(
            f"--attention-device-gb is {wanted / 2**30:.4g}; {where} has {room / 2**30:.4g} GiB for each of {sharers} "
            f"device(s). Use at most {room / 2**30:.4g}"
        )
    return wanted


def message_elements(stage: StageLayout) -> float:
    """Elements per token that cross the link: queries and outputs of all heads, and the new entry of the KV cache."""
    total = 0.0
    for layer, count in stage.layers:
        a = layer.attention
        if a.kv_elements_per_token:
            width = a.spec.head_dim + a.spec.v_head_dim
            total += count * (a.num_heads * width + a.kv_elements_per_token)
    return total


def attending_layers(stage: StageLayout) -> int:
    """Layers with a KV cache."""
    return sum(count for layer, count in stage.layers if layer.attention.kv_elements_per_token)


def link_s(kv: RemoteKv, nbytes: float) -> float:
    """What weights that cross the host link meanwhile add to a KV cache that comes over it too [s].

    While KV comes at its rate r the link has the share 1 - r / link for the weights, so that they add r / link of their own
    time: all of it where the link bounds both, (KV + weights) / link.
    """
    return (
        nbytes * min(kv.reads.bytes_per_s, kv.link_bytes_per_s) / kv.link_bytes_per_s**2 if kv.on_accelerator else 0.0
    )


def remote_line(stage: Stage, kv: RemoteKv, shape: StepShape, dram_bytes: float) -> DecodeLine:
    """Seconds of attention outside the accelerator as a line in the context; joules are left to the caller.

    Per layer a message each way, then KV bytes / bandwidth (or FLOP, where the processors' are known). New keys and values
    are written, those before a chunk of a prompt are read over the link. ``dram_bytes``: weights read from the same DRAM
    meanwhile.
    """
    seqs, layers, entry_bytes = shape.decode_seqs, attending_layers(stage.layout), 0.0
    context_s = window_s = 0.0
    for c in stage.attention:
        if not c.decode_bytes:
            continue
        entry_bytes += c.decode_seq_bytes
        slope_s = kv.reads.seconds(c.decode_bytes, c.decode_flop)
        if kv.on_accelerator:
            slope_s = max(slope_s, c.decode_context_s)
        if c.window is None:
            context_s += slope_s
        else:
            window_s, context_s = window_s + slope_s, context_s + c.selection * slope_s
    base_s = entry_bytes * (shape.prefill_tokens + seqs) / kv.writes_bytes_per_s
    base_s += entry_bytes * shape.prefill_context / min(kv.link_bytes_per_s, kv.reads.bytes_per_s)
    if seqs:
        if not kv.on_accelerator:
            base_s += message_elements(stage.layout) * seqs * ELEMENT_BYTES / kv.link_bytes_per_s
        base_s += 2 * layers * kv.link_latency_s
    if kv.shares_dram:
        base_s += dram_bytes / kv.reads.bytes_per_s
    return DecodeLine(base_s, context_s, window_s, 0.0, 0.0, 0.0)


def resident_line(stage: Stage, seqs: int, mixed: bool) -> DecodeLine:
    """Attention that stays on the accelerator beside a remote KV cache: that of layers with a constant state."""
    seconds = in_order(
        (c.mixed_fixed_s if mixed else c.decode_fixed_s) + c.decode_seq_s * seqs
        for c in stage.attention
        if not c.decode_bytes
    )
    return DecodeLine(seconds if seqs else 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
