"""Calibration: fits find what made the data, hold shapes out, leave cached rows out, and borrow with care."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("scipy")

from hardware_profiles.errors import UserError
from hardware_profiles.loader import load_device
from hardware_profiles.schema import CollectiveFit, DecodeAttentionFit, GemmFit, MoeFit, PrefillAttentionFit
from simulator.calibration import attention, collectives, fitting, gemm, moe, power, profiles
from simulator.calibration.devices import MEASURED, Cache
from simulator.calibration.dtypes import RULES
from simulator.calibration.fitting import Bound, halves, rounded
from simulator.calibration.mapping import POWER_FROM, TRANSFERS
from simulator.calibration.tables import Table, read_table
from simulator.calibration.transfer import LEFT_OUT, Transfer, adapted, completed, transferred
from simulator.physics import kernels

H100 = load_device("h100-sxm")
NO_CACHE = Cache(0.0)


def grid(**columns: list[float] | list[str]) -> Table:
    """All combinations of the columns' values."""
    axes = np.meshgrid(*(np.arange(len(v)) for v in columns.values()), indexing="ij")
    flat = [a.ravel() for a in axes]
    return Table("made.csv", {n: np.array(v)[i] for (n, v), i in zip(columns.items(), flat, strict=True)})


def with_time(table: Table, seconds: np.ndarray) -> Table:
    """The table with a column of measured milliseconds."""
    return Table(table.name, {**table.columns, "latency_ms": seconds * 1e3})


def close(found: object, truth: object, fields: tuple[str, ...], rel: float = 0.02) -> None:
    """Every field of the fit is that of the truth."""
    assert {f: getattr(found, f) for f in fields} == pytest.approx({f: getattr(truth, f) for f in fields}, rel=rel)


def test_a_gemm_fit_finds_the_parameters_that_made_the_data() -> None:
    truth = GemmFit(compute=0.7, memory=0.8, launch_s=5e-6, norm=3.0, quantise=0.4)
    table = grid(
        framework=["vllm"],
        version=["1"],
        m=[1.0, 16.0, 128.0, 512.0, 2048.0, 8192.0],
        n=[4096.0, 6144.0, 28672.0],
        k=[4096.0, 8192.0, 14336.0],
    )
    table = with_time(table, gemm.predict(table, H100, "fp8", truth))
    found, seen = gemm.fit_gemm(table, H100, RULES["fp8"], "vllm")
    close(found, truth, ("compute", "memory", "launch_s", "norm", "quantise"))
    assert found.p90_error is not None and found.p90_error < 0.01
    assert np.abs(seen.error).max() < 0.02


def test_the_other_framework_lends_efficiencies_but_not_its_launch() -> None:
    truth = GemmFit(compute=0.7, memory=0.8, launch_s=4e-6, norm=3.0)
    shapes = {"m": [1.0, 64.0, 1024.0, 8192.0], "n": [4096.0, 8192.0, 28672.0], "k": [4096.0, 8192.0]}
    table = grid(framework=["vllm", "trtllm"], version=["1"], **shapes)
    seconds = gemm.predict(table, H100, "bfloat16", truth) + np.where(table["framework"] == "trtllm", 1e-5, 0.0)
    found, _ = gemm.fit_gemm(with_time(table, seconds), H100, RULES["bfloat16"], "vllm")
    close(found, truth, ("compute", "memory", "launch_s"))


def test_gemms_that_ran_from_the_cache_are_left_out_unless_compute_bound() -> None:
    table = grid(framework=["vllm"], m=[1.0, 8192.0], n=[1024.0, 16384.0], k=[4096.0])
    used = gemm.usable_rows(table, H100, RULES["bfloat16"], Cache(50e6))
    assert sorted(zip(used["m"].tolist(), used["n"].tolist(), strict=True)) == [
        (1.0, 16384.0),
        (8192.0, 1024.0),
        (8192.0, 16384.0),
    ]


def test_attention_fits_find_the_parameters_that_made_the_data() -> None:
    heads = {"num_heads": [8.0, 32.0, 64.0], "num_key_value_heads": [8.0], "head_dim": [128.0]}
    names = {"framework": ["vllm"], "version": ["1"], "kernel_source": ["fa"]}
    prefill = PrefillAttentionFit(compute=0.6, memory=0.5, launch_s=1e-5, occupancy=0.8)
    table = grid(
        **names,
        **heads,
        batch_size=[1.0, 8.0],
        isl=[64.0, 512.0, 4096.0, 16384.0],
        prefix_len=[0.0, 2048.0],
        window_size=[0.0],
    )
    table = with_time(table, attention.predict_prefill(table, H100, "bfloat16", prefill))
    close(
        attention.fit_prefill_rows(table, H100, "bfloat16")[0], prefill, ("compute", "memory", "launch_s", "occupancy")
    )
    decode = DecodeAttentionFit(memory=0.85, launch_s=1.2e-5, sequence_s=5e-8)
    table = grid(**names, **heads, batch_size=[1.0, 8.0, 64.0, 256.0], kv_len_minus_1=[127.0, 1023.0, 16383.0])
    table = with_time(table, attention.predict_decode(table, H100, "bfloat16", decode))
    found, _ = attention.fit_decode_rows(table, H100, "bfloat16", 57.0)
    close(found, decode, ("memory", "launch_s", "sequence_s"))
    assert found.mixed_tile_rows == 57.0


def test_decode_rows_whose_kv_stays_in_the_cache_are_left_out() -> None:
    shape = {"num_heads": [8.0], "num_key_value_heads": [1.0], "head_dim": [128.0], "batch_size": [1.0]}
    table = grid(**shape, kv_len_minus_1=[127.0, 32767.0, 262143.0])  # 64 KiB, 16 MiB, 128 MiB
    assert attention.cold_rows(table, Cache(50e6), "bfloat16")["kv_len_minus_1"].tolist() == [127.0, 262143.0]


def test_an_expert_fit_finds_the_parameters_that_made_the_data() -> None:
    truth = MoeFit(compute=0.5, memory=0.8, launch_s=3e-5, norm=3.0, row_pad=8.0, routing=0.7)
    table = grid(
        framework=["vllm"],
        version=["1"],
        model=["m"],
        num_tokens=[1.0, 8.0, 64.0, 512.0, 8192.0],
        hidden_size=[2048.0, 4096.0, 7168.0],
        inter_size=[768.0, 2048.0],
        topk=[8.0],
        num_experts=[128.0],
        moe_tp_size=[1.0, 4.0],
        moe_ep_size=[1.0, 8.0],
    )
    table = with_time(table, moe.predict(table, H100, "bfloat16", truth))
    found, _ = moe.fit_moe(table, H100, "bfloat16")
    close(found, truth, ("compute", "memory", "launch_s"), rel=0.05)
    assert found.p90_error is not None and found.p90_error < 0.02


def test_a_collective_fit_predicts_what_made_the_data() -> None:
    truth = CollectiveFit(
        alpha1_s=4e-6,
        alpha1_rank_s=3e-7,
        bandwidth1_bytes_per_s=2.6e11,
        alpha2_s=1.5e-5,
        alpha2_rank_s=4e-7,
        bandwidth2_bytes_per_s=3.3e11,
    )
    table = grid(
        kernel_source=["k"], version=["1"], num_gpus=[2.0, 4.0, 8.0], bytes=[float(2**e) for e in range(10, 29)]
    )
    table = with_time(table, collectives.predict(table, H100, "all_reduce", truth))
    found, _ = collectives.fit_collective("all_reduce", table, H100, 4.5e11)
    assert found.p90_error is not None and found.p90_error < 0.05
    assert kernels.collective_s("all_reduce", 2.0**28, 8, found) == pytest.approx(
        kernels.collective_s("all_reduce", 2.0**28, 8, truth), rel=0.02
    )


def test_power_is_cut_at_the_limit() -> None:
    rng = np.random.default_rng(1)
    busy = {"compute_util_of_spec": rng.uniform(0, 0.8, 80), "hbm_util_of_spec": rng.uniform(0, 0.9, 80)}
    watts = np.minimum(200 + 500 * busy["compute_util_of_spec"] + 250 * busy["hbm_util_of_spec"], 600)
    constant = {"framework": np.full(80, "vllm"), "version": np.full(80, "1"), "latency_s": np.full(80, 1e-3)}
    table = Table("op_power.csv", {**constant, **busy, "power_w": watts, "power_limit_w": np.full(80, 600.0)})
    found = power.fit_power(table, H100)
    assert found is not None
    assert (found.base_w, found.compute_w, found.memory_w) == pytest.approx((200, 500, 250), rel=0.01)


def test_halves_split_groups_evenly_and_do_not_depend_on_the_order_of_rows() -> None:
    groups = [f"{n}/{k}" for n in range(5) for k in range(5) for _ in range(3)]
    chosen = halves(groups)
    assert len({g for g, c in zip(groups, chosen, strict=True) if c}) == 13
    assert halves(groups[::-1]).tolist() == chosen.tolist()[::-1]


def test_parameters_keep_four_significant_digits() -> None:
    assert [rounded(v) for v in (0.123456, 1.23456e-7, 98765.4)] == [0.1235, 1.235e-07, 98770.0]


def test_borrowed_efficiencies_keep_shares_and_scale_with_the_target_device() -> None:
    assert H100.efficiency is not None
    target = load_device("a100-sxm-80gb")
    carried = transferred(H100.efficiency, H100, target, Transfer("h100-sxm", "other generation", "test"), {})
    assert carried.provenance == "transferred" and carried.transferred_from == "h100-sxm"
    assert set(carried.gemm) == {"bfloat16"}, "an A100 has no fp8 arithmetic"
    assert carried.gemm["bfloat16"].compute == H100.efficiency.gemm["bfloat16"].compute
    assert carried.gemm["bfloat16"].median_error is None
    assert target.scaleup is not None and H100.scaleup is not None
    links = target.scaleup.bandwidth_bytes_per_s / H100.scaleup.bandwidth_bytes_per_s
    assert carried.collectives["all_reduce"].bandwidth2_bytes_per_s == pytest.approx(
        H100.efficiency.collectives["all_reduce"].bandwidth2_bytes_per_s * links, rel=1e-3
    )


def test_where_products_are_slower_their_share_is_higher() -> None:
    """H20: the multiprocessors of an H200 with a quarter of its tensor rate; DeepGEMM reaches 85-95 % of its peak."""
    h20, h200 = load_device("h20"), load_device("h200-sxm")
    fit = GemmFit(compute=0.62, memory=0.8, launch_s=5e-6, norm=3.0)
    found = adapted(fit, "gemm", "fp8_block", h200, h20, "same generation")
    assert 0.85 < found.compute < 0.9 and found.memory == fit.memory
    assert adapted(fit, "gemm", "fp8_block", h200, H100, "same generation").compute == pytest.approx(0.62, abs=1e-3)
    assert adapted(fit, "gemm", "fp8_block", h200, h20, "other generation") == fit


def test_balanced_routing_deals_experts_out() -> None:
    shape = {"topk": [4.0], "num_experts": [128.0], "moe_ep_size": [1.0, 8.0]}
    table = grid(num_tokens=[1.0, 8.0, 32.0, 512.0], distribution=["balanced"], **shape)
    assert moe.active_experts(table).tolist() == [4, 0.5, 32, 4, 128, 16, 128, 16]
    chosen = grid(num_tokens=[32.0], **shape)
    assert moe.active_experts(chosen)[0] == pytest.approx(128 * (1 - (1 - 4 / 128) ** 32))


def test_several_starts_keep_the_best() -> None:
    x = np.array([1.0, 2.0, 4.0])
    far, near = ({"a": Bound(start, low, high)} for start, low, high in ((9.0, 8.0, 10.0), (2.0, 1.0, 4.0)))
    assert fitting.fit(lambda p, rows: p["a"] * x[rows], 3.0 * x, x > 0, [far, near])["a"] == pytest.approx(3.0)


def test_own_fits_win_over_borrowed_ones() -> None:
    assert H100.efficiency is not None
    own = dataclasses.replace(H100.efficiency, moe={}, source="own")
    both = completed(own, dataclasses.replace(H100.efficiency, gemm={"int4_wo": H100.efficiency.gemm["bfloat16"]}))
    assert both.moe == H100.efficiency.moe and set(both.gemm) == {*own.gemm, "int4_wo"} and both.source == "own"


def test_every_device_named_in_the_calibration_exists() -> None:
    names = {m.name for m in MEASURED} | set(TRANSFERS) | {t.source for t in TRANSFERS.values()}
    names |= set(POWER_FROM) | set(POWER_FROM.values()) | {d for ps in LEFT_OUT.values() for pair in ps for d in pair}
    assert {load_device(name).name for name in names} == names


@pytest.mark.parametrize("name", [*(m.name for m in MEASURED), *TRANSFERS])
def test_shipped_efficiencies_are_plausible(name: str) -> None:
    """Shares of peaks stay near or below one, launches between 1 and 100 us, and errors and sources are stated."""
    efficiency = load_device(name).efficiency
    assert efficiency is not None
    assert efficiency.provenance == ("transferred" if name in TRANSFERS else "measured")
    assert efficiency.gemm and efficiency.prefill_attention and efficiency.decode_attention
    for fits in (efficiency.gemm, efficiency.prefill_attention, efficiency.decode_attention, efficiency.moe):
        for fit in fits.values():
            assert 0.1 < fit.memory <= 1.1 and 1e-6 <= fit.launch_s < 1e-4
            compute = getattr(fit, "compute", None)
            assert compute is None or 0.1 < compute <= 1.2
            assert fit.source and fit.median_error is not None and fit.p90_error is not None
            assert fit.median_error < 0.4
    assert 5e-6 < efficiency.layer_fixed_s < 2e-5 and 1e-5 < efficiency.step_fixed_s < 1e-4


def test_a_table_without_a_column_and_a_missing_table_are_user_mistakes(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"made.csv: has no column 'k'"):
        grid(m=[1.0])["k"]
    with pytest.raises(UserError, match=r"gemm.csv: cannot be read .*--data"):
        read_table(tmp_path / "gemm.csv")


def test_columns_are_numeric_only_when_every_value_is(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("a,b,c\n1,x,2\n,2,3\n", encoding="utf-8")
    table = read_table(path)
    assert np.isnan(table["a"][1]) and table["b"].tolist() == ["x", "2"] and table["c"].tolist() == [2.0, 3.0]


def test_overheads_are_lines_in_the_tokens_while_activations_stay_in_the_cache() -> None:
    tokens = [1.0, 16.0, 256.0, 2048.0]
    rows: list[tuple[str, float, float]] = []
    for t in tokens:
        rows += [("layernorm", t, 2 + 0.01 * t), ("rotary_emb", t, 2 + 0.01 * t), ("act_fn", t, 2 + 0.04 * t)]
        rows += [("embedding", t, 3.0), ("final_layernorm", t, 2.0), ("sampler", t, 20 + 0.5 * t)]
    layer, count, time = (np.array(c) for c in zip(*rows, strict=True))
    full = {"model": profiles.MODEL, "kind": "nongemm", "source": "s", "hardware": "h"}
    columns = {name: np.full(len(rows), value) for name, value in full.items()}
    table = Table(
        "p.csv", {**columns, "tp": np.ones(len(rows)), "layer": layer, "tokens_or_seqs": count, "time_us": time}
    )
    found = profiles.fit_overheads(table, bandwidth_bytes_per_s=1e12, cache_bytes=1e9)
    values = (found.layer_fixed_s, found.layer_token_s, found.step_fixed_s, found.logits_row_s)
    assert values == pytest.approx((8e-6, 7e-8, 25e-6, 5e-7), rel=0.01)
