"""Slices of a device: parts add up to no more than the whole, and behave as devices of their own."""

from __future__ import annotations

import pytest

import apex_sim as apex
from hardware_profiles.cluster import parse_cluster
from hardware_profiles.errors import UserError
from hardware_profiles.loader import load_device
from hardware_profiles.mig import profiles

ALL = [(device, name) for device, found in profiles().items() for name in found]


@pytest.mark.parametrize(("device", "name"), ALL)
def test_all_instances_of_a_profile_fit_into_the_device(device: str, name: str) -> None:
    whole, part = load_device(device), load_device(f"{device}@{name}")
    each = profiles()[device][name].instances
    assert each * part.num_sms <= whole.num_sms
    assert each * part.memory_bytes <= whole.memory_bytes
    assert each * part.memory_bandwidth_bytes_per_s <= whole.memory_bandwidth_bytes_per_s
    assert part.dense_flop_per_s["bfloat16"] == pytest.approx(
        whole.dense_flop_per_s["bfloat16"] * part.num_sms / whole.num_sms
    )
    gigabytes = float(name.split(".")[1].removesuffix("gb"))
    assert part.memory_bytes / 2**30 == pytest.approx(gigabytes, rel=0.1)


def test_a_clusters_slices_have_their_part_of_the_host_and_the_price() -> None:
    whole, parts = parse_cluster("h100-sxm:1"), parse_cluster("h100-sxm@3g.40gb:2")
    assert parts.usd_per_hour == pytest.approx(whole.usd_per_hour)
    assert parts.node.host_memory_bytes == whole.node.host_memory_bytes
    assert parts.node.idle_w == pytest.approx(whole.node.idle_w)
    assert parts.node.network.bandwidth_bytes_per_s == pytest.approx(whole.node.network.bandwidth_bytes_per_s / 2)
    assert parse_cluster("h100-sxm@1g.10gb:56").num_devices == 56


def test_slices_serve_slower_than_the_device_but_no_slower_than_their_part() -> None:
    shape = {"decode_seqs": 8, "context_tokens": 16_000, "window_tokens": 16_000, "logits_rows": 8}
    from simulator.physics.shape import StepShape

    def seconds(cluster: str) -> float:
        built = apex.build_deployment("llama-3.1-8b", cluster)
        return built.step_model.step(StepShape(*(shape.get(name, 0) for name in StepShape._fields)))[0]

    whole, half = seconds("h100-sxm"), seconds("h100-sxm@3g.40gb")
    assert 1.5 * whole < half < 2.0 * whole


@pytest.mark.parametrize(
    ("cluster", "settings", "words"),
    [
        ("h100-sxm@5g.40gb", {}, "4g.40gb"),
        ("l4@1g.10gb", {}, "no MIG profiles"),
        ("h100-sxm@3g.40gb:2", {"tp": 2}, "--dp"),
        ("h100-sxm@3g.40gb", {"power_cap": 300.0}, "whole device"),
        ("h100-sxm@3g.40gb:17", {}, "at most 16"),
    ],
)
def test_what_slices_cannot_do_is_said_in_one_line(cluster: str, settings: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words) as error:
        apex.build_deployment("llama-3.2-1b", cluster, **settings)  # type: ignore[arg-type]
    assert "\n" not in str(error.value)
