"""Values that describe hardware: devices, links, fitted efficiencies, nodes, clusters. Frozen, SI units."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

Pricing = Literal["on-demand", "spot", "reserved-1y", "reserved-3y", "owned"]
DeviceKind = Literal["gpu", "npu", "cpu", "fpga", "rdu", "nvme", "pim", "csd"]
Provenance = Literal["measured", "transferred", "datasheet"]
"""``measured``: fitted on kernels of this very device; ``transferred``: fitted on the nearest measured architecture;
``datasheet``: no measurement behind the efficiencies at all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """A path between devices or tiers. Bandwidth is one direction, per device [B/s]; latency per message [s]."""

    name: str
    bandwidth_bytes_per_s: float
    latency_s: float
    efficiency: float = 1.0
    """Share of the bandwidth that large transfers reach."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GemmFit:
    """t = ((flop / (compute * peak))^norm + (bytes / (memory * bandwidth))^norm)^(1/norm) + launch_s + quantise.

    The quantise term, ``m * k * (2 + bytes_per_activation) / (quantise * bandwidth)``, applies to GEMMs whose
    activations are quantised on the fly (fp8, nvfp4); 0 switches it off.
    """

    compute: float
    memory: float
    launch_s: float
    norm: float
    quantise: float = 0.0
    wave: float = 0.0
    """Share of the idle time of partly filled tiles and waves that the kernels do not hide; 0: all is hidden."""
    median_error: float | None = None
    p90_error: float | None = None
    """Absolute relative errors on shapes the fit has not seen."""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrefillAttentionFit:
    """t = (flop / (compute * peak) + pairs * heads * softmax_s) / occ + bytes / (memory * bandwidth) + launch_s,
    occ = u / (u + occupancy), u = sequences * heads * ceil(q / 128) / num_sms."""

    compute: float
    memory: float
    launch_s: float
    occupancy: float = 0.0
    softmax_s: float = 0.0
    """Exponential of one query-key pair of one head, as far as the matrix products do not hide it [s]."""
    cached_bytes: float = 0.0
    """Traffic of a layer that stays in the last-level cache [B]; bytes count above it."""
    tile_rows: float = 1.0
    """Query rows of a tile that is computed whole against the cached prefix (1: no padding)."""
    median_error: float | None = None
    p90_error: float | None = None
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class DecodeAttentionFit:
    """t = kv bytes / (memory * bandwidth) + launch_s + sequence_s * sequences, per layer. Linear in the context."""

    memory: float
    launch_s: float
    sequence_s: float = 0.0
    mixed_tile_rows: float = 0.0
    """Rows of a compute tile that one decode row fills in a kernel shared with a prefill chunk; 0: no interaction."""
    compute: float | None = None
    """Share of the peak that absorbed MLA decode reaches when bound by compute; None: that of prefill attention."""
    median_error: float | None = None
    p90_error: float | None = None
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class MoeFit:
    """Grouped GEMM over the experts hit: as GemmFit on padded rows, plus activation traffic.

    flop counts rows padded to ``row_pad`` per active expert; bytes are the weights of the expected active experts plus
    ``activation`` times the activation bytes (gather, intermediate, scatter). Sorting and summing the rows of all tokens
    that the rank sees adds ``routing`` passes over them.
    """

    compute: float
    memory: float
    launch_s: float
    norm: float
    row_pad: float = 1.0
    activation: float = 1.0
    routing: float = 0.0
    """Passes over the 16-bit rows of all (token, expert) pairs, whichever rank computes them, at memory speed."""
    median_error: float | None = None
    p90_error: float | None = None
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CollectiveFit:
    """Alpha-beta of one collective: the fastest of two or three algorithms and protocols.

    With V the bytes each rank must move (2(n-1)/n * S for all-reduce, (n-1)/n * S for the others):
    t = min(alpha1_s + alpha1_rank_s (n-1) + V max(1, n/2) / (bandwidth1 share(n)),
            alpha2_s + alpha2_rank_s (n-1) + V / (bandwidth2 share(n)), the same with 3).
    """

    alpha1_s: float
    alpha1_rank_s: float
    bandwidth1_bytes_per_s: float
    alpha2_s: float
    alpha2_rank_s: float
    bandwidth2_bytes_per_s: float
    alpha3_s: float = 0.0
    alpha3_rank_s: float = 0.0
    bandwidth3_bytes_per_s: float | None = None
    """None: two regimes."""
    share4: float = 1.0
    share8: float = 1.0
    """Bandwidth among 4, and among 8 and more, ranks as a share of that between two (PCIe switches and sockets, NVLink
    multicast). Between these numbers of ranks it is interpolated in the logarithms."""
    median_error: float | None = None
    p90_error: float | None = None
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Efficiency:
    """Fitted shares of the peaks, per kernel family. Keys of ``gemm`` and ``moe``: compute dtypes (bfloat16, fp8)."""

    provenance: Provenance
    gemm: Mapping[str, GemmFit]
    prefill_attention: Mapping[str, PrefillAttentionFit]
    """Key: dtype of the KV cache."""
    decode_attention: Mapping[str, DecodeAttentionFit]
    moe: Mapping[str, MoeFit] = field(default_factory=dict)
    collectives: Mapping[str, CollectiveFit] = field(default_factory=dict)
    """Key: all_reduce, all_gather, reduce_scatter, all_to_all."""
    layer_fixed_s: float = 0.0
    """Norms, rotary, activation, KV write and the gaps between kernels: per layer [s]."""
    layer_token_s: float = 0.0
    """The same, per token and layer, for a hidden size of 4096 while activations stay in the cache [s]."""
    elementwise_memory: float = 0.0
    """Share of the memory bandwidth those kernels reach once activations exceed the cache; 0: they never do."""
    cache_bytes: float = 0.0
    """Last-level cache that activations may stay in [B]."""
    step_fixed_s: float = 0.0
    """Embedding, final norm, sampler: per step [s]."""
    logits_row_s: float = 0.0
    """Sampler, per sequence that samples [s]."""
    transferred_from: str | None = None
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class PowerFit:
    """P = base_w + compute_w * MFU + memory_w * MBU while busy, capped at TDP; idle_w when nothing runs."""

    base_w: float
    compute_w: float
    memory_w: float
    limits_time: bool = False
    """Fitted on a device at its power limit: work that would need more than the TDP takes longer."""
    source: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dataflow:
    """A spatial design on a device that is laid out for the model (FPGA, processing in memory): what its pipeline sustains.

    A product takes as long as the slowest of its stages (simulator.physics.dataflow). ``dense_flop_per_s`` of the device is
    then that of the design: arrays times clock.
    """

    weight_elements_per_s: float
    """Weights that enter the arrays at most: lanes of the matrix-vector mode times clock [1/s]."""
    busy_share: float
    """Share of their cycles in which lanes and arrays do useful work, fitted; at most 1."""
    bandwidth_share: float
    """Share of the memory bandwidth that streaming reaches, fitted; at most 1."""
    design: str = ""
    """The published design these figures are of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Price:
    """Rent of one device [$/h]: on demand, and with commitments or interruptions where a provider offers them."""

    usd_per_hour: float
    """On demand."""
    provider: str
    date: str
    """ISO date (or year-month) of the quotation."""
    spot_usd_per_hour: float | None = None
    """Interruptible."""
    reserved_1y_usd_per_hour: float | None = None
    """Paid for every hour of one year."""
    reserved_3y_usd_per_hour: float | None = None
    """Paid for every hour of three years."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceProfile:
    """One device. Peaks are dense, bandwidth one-way, memory in bytes. ``sources`` says where each field is from."""

    name: str
    kind: DeviceKind
    vendor: str
    aliases: tuple[str, ...] = ()
    architecture: str = ""
    release_year: int | None = None
    dense_flop_per_s: Mapping[str, float] = field(default_factory=dict)
    """dtype -> peak [FLOP/s]; keys float32, tfloat32, bfloat16, float16, fp8, int8, int4, fp4."""
    num_sms: int = 0
    """Streaming multiprocessors / compute units (0: not applicable)."""
    memory_bytes: int = 0
    memory_bandwidth_bytes_per_s: float = 0.0
    write_bandwidth_bytes_per_s: float | None = None
    """Storage devices: sequential write [B/s]."""
    scaleup: Link | None = None
    """Link to the other devices of a node (NVLink, Infinity Fabric, PCIe peer-to-peer)."""
    scaleup_domain: int = 8
    """Devices that share the scale-up link at full speed (2 for NVLink bridges); more than a host holds: a rack of hosts."""
    host_link: Link | None = None
    """PCIe or C2C to host memory."""
    tdp_w: float | None = None
    idle_w: float | None = None
    min_cap_w: float | None = None
    max_clock_mhz: float | None = None
    """Clock of the cores at which the peaks hold (boost clock) [MHz]; locked clocks are shares of it."""
    base_clock_mhz: float | None = None
    """Clock that is sustained at the TDP [MHz]; shown only."""
    price: Price | None = None
    purchase_usd: float | None = None
    """What owning one device costs, its share of the server included [$]."""
    embodied_kgco2e: float | None = None
    """Of making one device."""
    max_devices_per_node: int = 8
    dataflow: Dataflow | None = None
    """Of devices that run a spatial design instead of kernels."""
    efficiency: Efficiency | None = None
    power: PowerFit | None = None
    sources: Mapping[str, str] = field(default_factory=dict)
    notes: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeSpec:
    """A host with its devices."""

    device: DeviceProfile
    num_devices: int
    host_memory_bytes: int
    """DRAM usable for KV swap and offload."""
    network: Link
    """Network to other nodes, per device [B/s one way]."""
    idle_w: float = 0.0
    """Power of the host without its accelerators [W]."""
    cpu_slowness: float = 1.0
    """Time of one thread of the host relative to a DGX H100 (Xeon Platinum 8480C): engines' host times scale with it."""
    embodied_kgco2e: float | None = None
    """Of making the host without its accelerators; None when unknown."""
    host_memory_bandwidth_bytes_per_s: float | None = None
    """Peak of the host's DRAM, all channels [B/s]; None when unknown: it is then never short."""
    host_flop_per_s: float | None = None
    """What the host's processors reach in matrix products [FLOP/s]; None when unknown: they are then never short."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """Where a cluster stands: what turns its energy into emissions and money."""

    pue: float = 1.56
    """Power usage effectiveness, energy of the site over that of its servers. Default: mean of the survey of the Uptime
    Institute, 2024 (https://uptimeinstitute.com/resources/research-and-reports/uptime-institute-global-data-center-survey-results-2024)."""
    grid: str = "world"
    """Name in ``grids.yaml``, or what the user calls it."""
    gco2_per_kwh: float = 473.0
    """Carbon intensity of the electricity, yearly mean [g CO2e/kWh]. Default: world in 2024, Ember, Global Electricity
    Review 2025."""
    usd_per_kwh: float = 0.0815
    """Price of electricity, paid by whoever owns the devices [$/kWh]. Default: mean of industrial customers in the USA in 2024,
    EIA Electric Power Monthly, table 5.3 (from memory)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """How the devices of a cluster are paid for."""

    pricing: Pricing = "on-demand"
    usd_per_gpu_hour: float | None = None
    """Replaces the profile's rent, whatever the pricing; not with ``owned``."""
    purchase_usd: float | None = None
    """Replaces what owning one device costs by its profile."""
    lifetime_years: float = 5.0
    """Over which purchase and manufacture are written off, evenly. Default: what Amazon and Meta depreciate servers over
    (annual reports 2024: 5 and 5.5 years)."""


LARGEST_HOST = 16
"""Most devices on one scale-up fabric inside a host (NVIDIA DGX-2: 16 V100); larger domains are racks of hosts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Identical nodes on one network. ``name`` is what the user typed (``h100-sxm:8x4``) or the YAML's name."""

    name: str
    node: NodeSpec
    num_nodes: int
    site: Site = field(default_factory=Site)
    """Where it stands: power usage effectiveness, grid, price of electricity."""
    terms: Terms = field(default_factory=Terms)
    """How it is paid for."""

    @property
    def device(self) -> DeviceProfile:
        """The accelerator of every node."""
        return self.node.device

    @property
    def num_devices(self) -> int:
        """Accelerators in the whole cluster."""
        return self.node.num_devices * self.num_nodes

    @property
    def scaleup_devices(self) -> int:
        """Devices on one scale-up link: no more than the node has, unless the link joins a rack of nodes (NVL72)."""
        device = self.device
        if device.scaleup is None:
            return 1
        within = device.scaleup_domain
        return max(1, within if within > LARGEST_HOST else min(within, self.node.num_devices))

    @property
    def devices_before_network(self) -> int:
        """Devices that reach each other without the network: those of a node, or of a rack on one scale-up link."""
        return max(self.node.num_devices, self.scaleup_devices)

    @property
    def usd_per_hour(self) -> float | None:
        """Rent of all devices on demand [$/h], whatever the terms; None when the profile has no price."""
        return None if self.device.price is None else self.device.price.usd_per_hour * self.num_devices
