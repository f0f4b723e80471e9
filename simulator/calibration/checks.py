"""Shipped fits against tables they were not fitted to: other projects' benchmarks, and prompts and decodes in one kernel."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np

from hardware_profiles.schema import DeviceProfile, Efficiency
from simulator.calibration import attention, gemm, moe, profiles
from simulator.calibration.devices import MEASURED
from simulator.calibration.dtypes import KV_BYTES
from simulator.calibration.tables import FloatColumn, Table
from simulator.physics.kernels import decode_attention_s, prefill_attention_flop, prefill_attention_s

BLIS, INFERSIM, MIXED = "kernel_bench_h100", "infersim_kernels_h800_h20", "mixed_attention_table"
BLIS_DEVICE = "h100-sxm"
TWINS: Mapping[str, str] = {"H800": "h100-sxm", "H20": "h20"}
"""Hardware of InferSim's tables -> device of the catalogue; an H800 is an H100 in arithmetic and memory."""
MIXED_DEVICES: Mapping[str, str] = {"RTX4090": "rtx-4090", "RTXPRO6000": "rtx-pro-6000"}
USUAL_CONTEXT = 65536.0
"""Tokens in all decode rows together that a device of 24 to 96 GB holds beside the weights of these models; the mixed
tables go up to two millions."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """Signed relative errors of one kernel on one device."""

    kernel: str
    source: str
    device: str
    error: FloatColumn


def independent_checks(
    tables: Mapping[str, Table], efficiencies: Mapping[str, Efficiency], devices: Mapping[str, DeviceProfile]
) -> list[Check]:
    """All checks whose table is there."""
    found: list[Check] = []
    if BLIS in tables and BLIS_DEVICE in efficiencies:
        found += _blis(tables[BLIS], devices[BLIS_DEVICE], efficiencies[BLIS_DEVICE])
    if INFERSIM in tables:
        for hardware, name in TWINS.items():
            if name in efficiencies:
                rows = tables[INFERSIM].select(hardware=hardware)
                found += _infersim(rows, hardware, devices[name], efficiencies[name])
    if MIXED in tables:
        for hardware, name in MIXED_DEVICES.items():
            if name in efficiencies:
                found += _mixed(tables[MIXED].select(hardware=hardware), devices[name], efficiencies[name])
    return [check for check in found if len(check.error)]


def _made(columns: Mapping[str, FloatColumn | float], count: int) -> Table:
    return Table("check", {k: np.broadcast_to(np.asarray(v, dtype=np.float64), count) for k, v in columns.items()})


def _against(predicted_s: FloatColumn, measured_us: FloatColumn) -> FloatColumn:
    return np.asarray(predicted_s / (measured_us * 1e-6) - 1.0, dtype=np.float64)


def _cache_bytes(device: DeviceProfile) -> float:
    return next((m.cache.l2_bytes for m in MEASURED if m.name == device.name), 50e6)


def _cold_decode(rows: Table, device: DeviceProfile, key: str) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """Contexts that cannot have stayed in the cache between repeats."""
    cold = attention.kv_bytes(rows, key) > attention.COLD_SHARE * _cache_bytes(device)
    return np.asarray(cold, dtype=bool)


def _decode(
    kernel: str,
    source: str,
    device: DeviceProfile,
    efficiency: Efficiency,
    shapes: Mapping[str, FloatColumn | float],
    us: FloatColumn,
    key: str,
) -> Check:
    rows = _made(shapes, len(us))
    error = _against(attention.predict_decode(rows, device, key, efficiency.decode_attention[key]), us)
    return Check(kernel=kernel, source=source, device=device.name, error=error[_cold_decode(rows, device, key)])


def _prefill(
    kernel: str,
    source: str,
    device: DeviceProfile,
    efficiency: Efficiency,
    shapes: Mapping[str, FloatColumn | float],
    us: FloatColumn,
) -> Check:
    """Whole prompts of one request."""
    whole = {"batch_size": 1.0, "prefix_len": 0.0, "window_size": 0.0, **shapes}
    fit = efficiency.prefill_attention["bfloat16"]
    error = _against(attention.predict_prefill(_made(whole, len(us)), device, "bfloat16", fit), us)
    return Check(kernel=kernel, source=source, device=device.name, error=error)


def _blis(table: Table, device: DeviceProfile, efficiency: Efficiency) -> Iterator[Check]:
    """Kernels of an H100 as the BLIS project measured them; heads are those of the whole model, divided by tp."""
    dense = table.select(kernel="gemm")
    plain = replace(efficiency.gemm["fp8"], quantise=0.0)  # up to 1286 TFLOP/s: fp8, and the products alone
    error = _against(gemm.predict(dense, device, "fp8", plain), dense["latency_us"])
    yield Check(kernel="GEMM fp8", source="BLIS", device=device.name, error=error)
    rows = table.select(kernel="mha_decode")
    shapes = {
        "batch_size": rows["batch_size"],
        "kv_len_minus_1": rows["kv_len"] - 1,
        "num_heads": rows["n_heads"] / rows["tp"],
        "num_key_value_heads": rows["n_kv_heads"] / rows["tp"],
        "head_dim": rows["head_dim"],
    }
    yield _decode("decode attention", "BLIS", device, efficiency, shapes, rows["latency_us"], "bfloat16")
    rows = table.select(kernel="mha_prefill")
    prompts = {
        "isl": rows["seq_len"],
        "num_heads": rows["n_heads"],
        "num_key_value_heads": rows["n_kv_heads"],
        "head_dim": rows["head_dim"],
    }
    yield _prefill("prefill attention", "BLIS", device, efficiency, prompts, rows["latency_us"])


def _numbers(shapes: list[str]) -> dict[str, FloatColumn]:
    """'q=32 kv=8 d=128' per row -> columns by letter."""
    parsed = [{name: float(v) for name, v in re.findall(r"(\w+)=(\d+)", shape)} for shape in shapes]
    return {name: np.array([p[name] for p in parsed]) for name in (parsed[0] if parsed else ())}


def _infersim(table: Table, hardware: str, device: DeviceProfile, efficiency: Efficiency) -> Iterator[Check]:
    source = f"InferSim, {hardware}"
    rows = table.select(kernel="gemm(DeepGEMM)")
    shapes = _made({"m": rows["m_or_batch"], **_numbers(rows["shape"].tolist())}, len(rows))
    error = _against(gemm.predict(shapes, device, "fp8_block", efficiency.gemm["fp8_block"]), rows["latency_us"])
    yield Check(kernel="GEMM fp8_block (DeepGEMM)", source=source, device=device.name, error=error)
    for dtype, key in (("bf16", "bfloat16"), ("fp8", "fp8")):
        rows = table.select(kernel="attn_decode(FlashInfer)", dtype=dtype)
        heads = _numbers(rows["shape"].tolist())
        if len(rows):
            decodes = {
                "batch_size": rows["m_or_batch"],
                "kv_len_minus_1": rows["kv_len_or_seq_or_tok_per_expert"] - 1,
                "num_heads": heads["q"],
                "num_key_value_heads": heads["kv"],
                "head_dim": heads["d"],
            }
            name = f"decode attention {key} (FlashInfer)"
            yield _decode(name, source, device, efficiency, decodes, rows["latency_us"], key)
    rows = table.select(kernel="attn_prefill(FA3)")
    if len(rows):
        heads = _numbers(rows["shape"].tolist())
        prompts = {
            "isl": rows["kv_len_or_seq_or_tok_per_expert"],
            "num_heads": heads["q"],
            "num_key_value_heads": heads["kv"],
            "head_dim": heads["d"],
        }
        yield _prefill("prefill attention (FA3)", source, device, efficiency, prompts, rows["latency_us"])
    yield _experts(table, source, device, efficiency)


def _experts(table: Table, source: str, device: DeviceProfile, efficiency: Efficiency) -> Check:
    """Both grouped products of one layer, rows dealt evenly to all local experts; without sorting and summing."""
    times: dict[tuple[str, str, float], dict[str, float]] = {}
    for row, kernel in enumerate(table["kernel"].tolist()):
        match = re.match(r"grouped_gemm_(\w+)_(up|down)", kernel)
        if match:
            at = (match[1], str(table["shape"][row]), float(table["kv_len_or_seq_or_tok_per_expert"][row]))
            times.setdefault(at, {})[match[2]] = float(table["latency_us"][row])
    whole = {at: sum(parts.values()) for at, parts in times.items() if len(parts) == 2 and at[2] >= 1}
    shapes = _numbers([shape for _, shape, _ in whole])
    rows = _made(
        {
            "num_tokens": np.array([each for *_, each in whole]),
            "hidden_size": shapes["h"],
            "inter_size": shapes["i"],
            "topk": shapes["local"],
            "num_experts": shapes["local"],
            **{"moe_tp_size": 1.0, "moe_ep_size": 1.0},
        },
        len(whole),
    )
    fit = replace(efficiency.moe["fp8_block"], routing=0.0)
    error = _against(moe.predict(rows, device, "fp8_block", fit), np.array(list(whole.values())))
    return Check(kernel="experts fp8_block (DeepGEMM)", source=source, device=device.name, error=error)


def _mixed(table: Table, device: DeviceProfile, efficiency: Efficiency) -> Iterator[Check]:
    """A prompt chunk and decode rows in one kernel: as the simulation adds them, and as two kernels would."""
    heads = np.array([profiles.HEADS[_full_name(m)] for m in table["model"].tolist()])
    q_heads, kv_heads = (heads / table["tp"][:, None]).T
    chunk, cached, seqs = table["prefill_chunk"], table["kv_prefill"], table["n_decode"]
    context = seqs * table["kv_decode"]
    together, apart = np.empty(len(table)), np.empty(len(table))
    prefill, decode = efficiency.prefill_attention["bfloat16"], efficiency.decode_attention["bfloat16"]
    peak, bandwidth = device.dense_flop_per_s["bfloat16"], device.memory_bandwidth_bytes_per_s
    for i in range(len(table)):
        width = {"num_heads": int(q_heads[i]), "head_dim": profiles.HEAD_DIM, "v_head_dim": profiles.HEAD_DIM}
        prompt_s = prefill_attention_s(
            1.0,
            chunk[i],
            chunk[i] * cached[i] + chunk[i] * (chunk[i] + 1) / 2,
            chunk[i] + cached[i],
            **width,
            num_kv_heads=int(kv_heads[i]),
            kv_bytes=KV_BYTES["bfloat16"],
            num_sms=device.num_sms,
            peak_flop_per_s=peak,
            bandwidth_bytes_per_s=bandwidth,
            fit=prefill,
        )
        entry = 2 * kv_heads[i] * profiles.HEAD_DIM * KV_BYTES["bfloat16"]
        own_s = decode_attention_s(
            context[i], seqs[i], kv_bytes_per_token=entry, bandwidth_bytes_per_s=bandwidth, fit=decode
        )
        tile_s = decode.mixed_tile_rows * (
            prefill_attention_flop(1.0, **width) / (prefill.compute * peak) + q_heads[i] * prefill.softmax_s
        )
        slope_s = max(entry / (decode.memory * bandwidth), float(tile_s))
        together[i] = prompt_s + slope_s * context[i] + decode.sequence_s * seqs[i]
        apart[i] = prompt_s + own_s
    measured, source = table["t_mixed_us"], "LLMServingSim"
    small = context <= USUAL_CONTEXT
    for kernel, predicted in (("prompt and decodes in one kernel", together), ("the same as two kernels", apart)):
        error = _against(predicted, measured)
        yield Check(kernel=kernel, source=source, device=device.name, error=error)
        yield Check(kernel=f"{kernel}, up to 64k of context", source=source, device=device.name, error=error[small])


def _full_name(model: str) -> str:
    return next(name for name in profiles.HEADS if name.split("/")[-1] == model)
