"""From kernel tables to efficiency files: every measured device, then every device that borrows from one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hardware_profiles.efficiency import efficiency_to_yaml
from hardware_profiles.schema import DeviceProfile, Efficiency, PowerFit
from simulator.calibration import attention, collectives, gemm, moe, power, profiles
from simulator.calibration.checks import Check, independent_checks
from simulator.calibration.devices import MEASURED, MeasuredDevice
from simulator.calibration.mapping import POWER_FROM, TRANSFERS
from simulator.calibration.points import Points
from simulator.calibration.profiles import Overheads
from simulator.calibration.tables import EAGER_PROFILE_SOURCE, PROFILE_SOURCE, SOURCE, Table, joined, read_table
from simulator.calibration.transfer import Errors, Transfer, completed, left_out_errors, transferred

MLA_TABLE, MLA_TWIN = "infersim_kernels_h800_h20", "h100-sxm"
"""FlashMLA on an H800, whose arithmetic and memory are an H100's."""
COMMENT = "Written by `python -m simulator.calibration`; do not edit. Method and errors: docs/calibration.md"


@dataclass(frozen=True, slots=True)
class Calibration:
    """Everything that came out."""

    efficiencies: dict[str, Efficiency]
    powers: dict[str, PowerFit]
    points: list[Points]
    errors: Errors
    checks: list[Check]
    """Against tables that no fit has seen."""


def calibrate(data_dir: Path, out_dir: Path, devices: Mapping[str, DeviceProfile]) -> Calibration:
    """Fit all devices of the catalogue that can be fitted and write one YAML file each to ``out_dir``.

    ``data_dir`` holds the folder ``kernels``. Devices of the tables that the catalogue lacks are left out.
    """
    tables = {path.stem: read_table(path) for path in sorted((data_dir / "kernels").glob("*.csv"))}
    result = fit_everything(tables, devices)
    out_dir.mkdir(parents=True, exist_ok=True)
    for name in sorted({*result.efficiencies, *result.powers}):
        text = efficiency_to_yaml(result.efficiencies.get(name), result.powers.get(name), comment=COMMENT)
        (out_dir / f"{name}.yaml").write_text(text, encoding="utf-8")
    return result


def fit_everything(tables: Mapping[str, Table], devices: Mapping[str, DeviceProfile]) -> Calibration:
    """The same without files."""
    overheads = measured_overheads(tables["profiles_summary"])
    own: dict[str, Efficiency] = {}
    points: list[Points] = []
    for measured in MEASURED:
        if measured.name in devices:
            own[measured.name], seen = fit_device(measured, devices[measured.name], tables, overheads, devices)
            points += seen
    errors = left_out_errors(points, own, devices)
    for measured in MEASURED:
        lender = measured.completed_from
        if measured.name in own and lender in own:
            transfer = Transfer(lender, "same generation", "families its own tables lack")
            lent = transferred(own[lender], devices[lender], devices[measured.name], transfer, errors)
            own[measured.name] = completed(own[measured.name], lent)
    everything = dict(own)
    for name, transfer in TRANSFERS.items():
        if name in devices and transfer.source in own:
            source = devices[transfer.source]
            everything[name] = transferred(own[transfer.source], source, devices[name], transfer, errors)
    checks = independent_checks(tables, everything, devices)
    return Calibration(everything, fit_powers(tables["op_power"], devices), points, errors, checks)


def fit_device(
    measured: MeasuredDevice,
    device: DeviceProfile,
    tables: Mapping[str, Table],
    overheads: Mapping[str, tuple[Overheads, float]],
    devices: Mapping[str, DeviceProfile],
) -> tuple[Efficiency, list[Points]]:
    """All families of one measured device."""
    if measured.table is not None:
        rows = {name: tables[name].select(gpu=measured.table) for name in _OPERATOR_TABLES}
        experts, seen_experts = moe.fit_moes(rows["moe"], device, measured.cache)
        links, seen_links = collectives.fit_collectives(rows["collectives"], device)
        gemms, prefills, decodes = rows["gemm"], rows["attention_prefill"], rows["attention_decode"]
        if measured.profile is not None:
            of_device = tables["profiles_summary"].select(hardware=measured.profile)
            prefills = joined(prefills, profiles.attention_table(of_device, "attn_prefill"))
            decodes = joined(decodes, profiles.attention_table(of_device, "attn_decode"))
        source = SOURCE
    else:
        assert measured.profile is not None
        of_device = tables["profiles_summary"].select(hardware=measured.profile)
        experts, seen_experts, links, seen_links = {}, [], {}, []
        gemms = profiles.gemm_table(of_device)
        prefills, decodes = (profiles.attention_table(of_device, kind) for kind in ("attn_prefill", "attn_decode"))
        source = PROFILE_SOURCE if measured.profile in profiles.BANDWIDTH else EAGER_PROFILE_SOURCE
    gemm_fits, seen_gemms = gemm.fit_gemms(gemms, device, measured.cache, measured.gemm_waves)
    prefill_fits, seen_prefills = attention.fit_prefill(
        prefills, device, measured.prefill_tile_rows, measured.prefill_cached_bytes
    )
    decode_fits, seen_decodes = attention.fit_decode(decodes, device, measured.cache, measured.mixed_tile_rows)
    if measured.mla is not None and MLA_TABLE in tables and MLA_TWIN in devices:
        rows_mla = tables[MLA_TABLE].select(hardware=measured.mla)
        decode_fits["mla_bfloat16"] = attention.fit_mla(rows_mla, devices[MLA_TWIN], decode_fits["bfloat16"])
    between = nearest_overheads(measured, device, overheads)
    efficiency = Efficiency(
        provenance="measured",
        gemm=gemm_fits,
        prefill_attention=prefill_fits,
        decode_attention=decode_fits,
        moe=experts,
        collectives=links,
        layer_fixed_s=between.layer_fixed_s,
        layer_token_s=between.layer_token_s,
        elementwise_memory=between.elementwise_memory,
        cache_bytes=measured.cache.l2_bytes,
        step_fixed_s=between.step_fixed_s,
        logits_row_s=between.logits_row_s,
        source=f"{source}; between kernels: {between.source}",
    )
    return efficiency, [*seen_gemms, *seen_prefills, *seen_decodes, *seen_experts, *seen_links]


_OPERATOR_TABLES = ("gemm", "attention_prefill", "attention_decode", "moe", "collectives")


def measured_overheads(table: Table) -> dict[str, tuple[Overheads, float]]:
    """Overheads of the profiled devices, with the bandwidth they were measured at [B/s]."""
    cache = {m.profile: m.cache.l2_bytes for m in MEASURED if m.profile is not None}
    return {
        hardware: (profiles.fit_overheads(table.select(hardware=hardware), bandwidth, cache[hardware]), bandwidth)
        for hardware, bandwidth in profiles.BANDWIDTH.items()
        if hardware in table.distinct("hardware")
    }


def nearest_overheads(
    measured: MeasuredDevice, device: DeviceProfile, overheads: Mapping[str, tuple[Overheads, float]]
) -> Overheads:
    """A device's own overheads, or the mean of the profiled ones with traffic scaled by bandwidth."""
    own = overheads.get(measured.profile or "")
    if own is not None:
        return own[0]
    bandwidth = device.memory_bandwidth_bytes_per_s
    return profiles.mean([profiles.scaled(known, at, bandwidth) for known, at in overheads.values()])


def fit_powers(table: Table, devices: Mapping[str, DeviceProfile]) -> dict[str, PowerFit]:
    """Power lines of the measured devices, and of those that borrow one as shares of TDP."""
    own: dict[str, PowerFit] = {}
    for measured in MEASURED:
        if measured.name in devices and measured.table is not None:
            found = power.fit_power(table.select(gpu=measured.table), devices[measured.name])
            if found is not None:
                own[measured.name] = found
    own.update({name: line for name, line in power.SERVING.items() if name in devices})
    powers = dict(own)
    for name, source in POWER_FROM.items():
        if name in devices and source in own:
            line = power.scaled(own[source], devices[source], devices[name])
            if line is not None:
                powers[name] = line
    return powers
