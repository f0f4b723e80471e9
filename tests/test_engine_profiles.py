"""Engine profiles: what is refused, with the file, the field and the value."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import pytest

from hardware_profiles.cluster import parse_cluster
from hardware_profiles.errors import UserError
from simulator.engine_loader import engine_names, load_engine

H100, A100, L4 = (parse_cluster(f"{name}:1").device for name in ("h100-sxm", "a100-sxm-80gb", "l4"))
ORCA = resources.files("simulator").joinpath("engines", "orca.yaml").read_text("utf-8")


@pytest.mark.parametrize("name", engine_names())
def test_the_shipped_profiles_load(name: str) -> None:
    assert load_engine(name, H100).name == name


def test_limits_follow_the_device() -> None:
    limits = [(p.max_num_seqs, p.max_num_batched_tokens) for d in (H100, A100, L4) if (p := load_engine("vllm-v1", d))]
    assert limits == [(1024, 8192), (256, 2048), (256, 2048)]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("preemption: recompute", "preemption: swop", ("preemption", "'swop'", "'swap'")),
        ("batching: orca", "batching: orka", ("batching", "'orka'", "'orca'")),
        ("batching: orca", "batching: [orca]", ("batching", "text")),
        ("block_size: 16", "block_size: 16\nsampling: gready", ("sampling", "'gready'", "'greedy'")),
        ("block_size: 16", "block_size: 16\nwatermark: 1.5", ("watermark is 1.5", "at most 1")),
        ("block_size: 16", "block_size: 16.5", ("block_size is 16.5", "int")),
        ("block_size: 16", "blok_size: 16", ("'blok_size'", "'block_size'")),
        ("block_size: 16", "", ("block_size is missing",)),
        ("block_size: 16", "block_size: 16\nstep_fixed_s: -1.0", ("step_fixed_s is -1.0", "negative")),
        ("block_size: 16", "block_size: 16\nstep_fixed_s: .inf", ("step_fixed_s is inf", "finite")),
        ("gpu_memory_utilization: 0.90", "gpu_memory_utilization: .nan", ("gpu_memory_utilization is nan", "finite")),
        ("gpu_memory_utilization: 0.90", "gpu_memory_utilization: 90", ("gpu_memory_utilization is 90", "at most 1")),
        ("non_kv_reserve_bytes: 387_000_000", "non_kv_reserve_bytes: 4e8", ("'4e8'", "1.0e+6")),
        ("async_scheduling: false", "async_scheduling: 0", ("async_scheduling is 0", "true or false")),
        ("name: orca", "name: 5", ("name is 5", "text")),
        (", max_num_batched_tokens: 8192}", "}", ("defaults", "no max_num_batched_tokens")),
        ("defaults:\n  - ", "defaults: ", ("defaults is", "list of mappings")),
        ("sources:", "sources: 5\nx:", ("sources is 5", "mapping")),
    ],
)
def test_a_wrong_field_is_named(tmp_path: Path, old: str, new: str, words: tuple[str, ...]) -> None:
    assert old in ORCA
    path = tmp_path / "mine.yaml"
    path.write_text(ORCA.replace(old, new, 1))
    with pytest.raises(UserError) as caught:
        load_engine(str(path), H100)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    assert all(word in message for word in words), message


def test_a_version_may_look_like_a_number(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(ORCA.replace("version: OSDI'22", "version: 0.11"))
    assert load_engine(str(path), H100).version == "0.11"


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UserError, match="not UTF-8"):
        load_engine(str(path), H100)
