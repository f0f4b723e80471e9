"""Which layouts the planner considers."""

from __future__ import annotations

import itertools

from hardware_profiles.cluster import parse_cluster
from planners.space import Candidate, SearchSpace, enumerate_layouts
from workloads.catalog import load_model


def layouts(model: str, cluster: str, **space: object) -> list[Candidate]:
    return enumerate_layouts(load_model(model), parse_cluster(cluster), SearchSpace(**space))  # type: ignore[arg-type]


def test_every_number_of_replicas_up_to_eight() -> None:
    found = {c.dp for c in layouts("llama-3.1-8b", "h100-sxm:8") if c.tp == c.pp == 1}
    assert found == set(range(1, 9))


def test_large_clusters_take_steps_and_use_all_devices() -> None:
    found = sorted({c.dp for c in layouts("llama-3.1-8b", "h100-sxm:8x4") if c.tp == c.pp == 1})
    assert found[:8] == list(range(1, 9))
    assert found[-1] == 32
    assert all(b / a <= 1.26 for a, b in itertools.pairwise(found[7:]))


def test_nothing_needs_more_devices_than_there_are_and_tp_stays_in_a_node() -> None:
    for candidate in layouts("llama-3.1-405b", "h100-sxm:8x3"):
        assert candidate.num_devices <= 24
        assert candidate.tp <= 8


def test_three_nodes_are_a_pipeline_of_three() -> None:
    assert any((c.tp, c.pp) == (8, 3) for c in layouts("llama-3.1-405b", "h100-sxm:8x3"))


def test_tp_divides_heads_whatever_their_number() -> None:
    """Qwen2.5-7B has 28 heads: 7 splits them but not its 4 KV heads."""
    assert {c.tp for c in layouts("Qwen/Qwen2.5-7B", "h100-sxm:8")} == {1, 2, 4}


def test_experts_are_split_over_a_replica_or_over_all_ranks() -> None:
    found = {c.ep for c in layouts("mixtral-8x7b", "h100-sxm:8") if (c.tp, c.pp, c.dp) == (2, 1, 4)}
    assert found == {1, 2, 8}
    assert {c.ep for c in layouts("llama-3.1-8b", "h100-sxm:8")} == {1}


def test_formats_multiply_the_layouts() -> None:
    plain = layouts("llama-3.1-8b", "h100-sxm:2")
    both = layouts("llama-3.1-8b", "h100-sxm:2", quantizations=(None, "fp8"), kv_cache_dtypes=("auto", "fp8"))
    assert len(both) == 4 * len(plain)
