"""Versions and inheritance of engine profiles: which fields a name stands for, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from hardware_profiles.cluster import parse_cluster
from hardware_profiles.errors import UserError
from simulator.engine import EngineProfile
from simulator.engine_loader import load_engine

H100 = parse_cluster("h100-sxm:1").device


def load(name: str | Path) -> EngineProfile:
    return load_engine(str(name), H100)


def write(folder: Path, name: str, text: str) -> Path:
    path = folder / name
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    ("version", "asynchronous", "whole_prompt", "share"),
    [
        ("0.8.0", False, False, 0.90),
        ("0.13.0rc2", False, False, 0.90),
        ("v0.14", True, False, 0.90),
        ("0.19.1.post1", True, True, 0.90),
        ("0.21", True, True, 0.92),
        ("1.0", True, True, 0.92),
    ],
)
def test_defaults_of_vllm_follow_its_version(
    version: str, asynchronous: bool, whole_prompt: bool, share: float
) -> None:
    engine = load(f"vllm@{version}")
    assert (engine.name, engine.version) == ("vllm-v1", version)
    assert engine.async_scheduling == asynchronous
    assert engine.reserve_full_prompt == whole_prompt
    assert engine.gpu_memory_utilization == share


def test_without_a_version_a_profile_stands_for_its_own() -> None:
    plain = load("vllm-v1")
    same = load(f"vllm-v1@{plain.version}")
    assert plain == same


def test_an_old_version_is_the_predecessors() -> None:
    assert load("vllm@0.6.3").name == load("vllm-v1@0.7").name == "vllm-v0"


def test_a_file_gives_only_what_differs_from_its_base(tmp_path: Path) -> None:
    path = write(
        tmp_path, "mine.yaml", "base: vllm@0.12\nname: mine\nblock_size: 32\nsources: {block_size: a choice}\n"
    )
    mine, base = load(path), load("vllm@0.12")
    assert (mine.name, mine.block_size, mine.async_scheduling) == ("mine", 32, False)
    assert mine.max_num_seqs == base.max_num_seqs
    assert mine.sources == {**base.sources, "block_size": "a choice"}


def test_a_base_may_be_a_file_beside_it_and_versions_are_not_inherited(tmp_path: Path) -> None:
    write(tmp_path, "below.yaml", 'base: vllm\nname: below\nversions: [{since: "2.0", block_size: 64}]\n')
    path = write(
        tmp_path, "above.yaml", 'base: below.yaml@2.1\nname: above\nversions: [{since: "0.9", watermark: 0.5}]\n'
    )
    assert (load(path).block_size, load(path).watermark) == (64, 0.5)
    assert load(f"{path}@0.9").version == "0.9"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("base: mine.yaml\nname: mine\n", ("base", "itself")),
        ("base: vllm\nname: [mine\nblock_size: 32\n", ("is not valid YAML at line 3",)),
        ("base: vllm\nblock_size: 16\nblock_size: 32\n", ("'block_size' is written twice",)),
        ("base: vlm\nname: mine\n", ("'vlm'", "Available")),
        ("base: 5\nname: mine\n", ("base is 5", "name of an engine")),
        ("base: vllm\n", ("name is missing",)),
        ("base: vllm\nname: mine\nversions: 3\n", ("versions is 3", "list")),
        ("base: vllm\nname: mine\nversions: [{since: 0.10}]\n", ("since is 0.1", "in quotes")),
        ("base: vllm\nname: mine\nversions: [{block_size: 8}]\n", ("since is None", "in quotes")),
        ('base: vllm\nname: mine\nversions: [{since: "2"}, {since: "1"}]\n', ("oldest first",)),
        ('base: vllm\nname: mine\nversions: [{since: "0", blok_size: 8}]\n', ("'blok_size'", "'block_size'")),
    ],
)
def test_a_wrong_file_is_refused_in_one_line(tmp_path: Path, text: str, words: tuple[str, ...]) -> None:
    path = write(tmp_path, "mine.yaml", text)
    with pytest.raises(UserError) as caught:
        load(path)
    message = str(caught.value)
    assert "\n" not in message and all(word in message for word in words), message


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("vllm@", ("without a version", "vllm@0.12")),
        ("vllm@9x", ("'9x' is not a version",)),
        ("vllm@new", ("'new' is not a version",)),
        ("vllm@0.1", ("oldest version of vllm-v0 is 0.2",)),
        ("orca@1", ("no versions", "@1")),
    ],
)
def test_a_wrong_version_is_refused(name: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as caught:
        load(name)
    assert all(word in str(caught.value) for word in words), str(caught.value)
