"""Points of a sweep: designs, conditions, constraints, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from apex_sim.sweeps.design import points_of
from apex_sim.sweeps.spec import load_sweep
from hardware_profiles.errors import UserError

FIXED = {"model": "llama-3.1-8b", "cluster": "h100-sxm:8"}


def chosen(**content: Any) -> list[dict[str, Any]]:
    return [point.chosen for point in points_of(load_sweep({"fixed": FIXED, **content}))]


def refused(text: str, content: Any) -> None:
    with pytest.raises(UserError, match=text) as caught:
        points_of(load_sweep(content))
    assert "\n" not in str(caught.value)


def test_a_grid_has_every_combination_with_the_last_setting_fastest() -> None:
    assert chosen(vary={"tp": [1, 2], "dp": [1, 2]}) == [
        {"tp": 1, "dp": 1},
        {"tp": 1, "dp": 2},
        {"tp": 2, "dp": 1},
        {"tp": 2, "dp": 2},
    ]


def test_constraints_read_defaults_and_the_size_of_a_cluster() -> None:
    found = chosen(vary={"tp": [1, 2, 4, 8], "dp": [1, 2, 4, 8]}, constraints=["tp * pp * dp == devices(cluster)"])
    assert [(p["tp"], p["dp"]) for p in found] == [(1, 8), (2, 4), (4, 2), (8, 1)]


def test_a_setting_whose_condition_does_not_hold_varies_nothing() -> None:
    vary = {
        "preemption-mode": ["recompute", "swap"],
        "swap_space": {"values": [4, 16], "when": "preemption_mode == 'swap'"},
    }
    assert [p["swap_space"] for p in chosen(vary=vary)] == [None, 4, 16]


def test_cases_set_several_settings_at_once_and_dots_lead_into_mappings() -> None:
    sweep = load_sweep(
        {
            "vary": {
                "where": {"cases": {"one": {**FIXED, "tp": 4}, "two": {**FIXED, "cluster": "l40s:2", "rate": None}}},
                "elasticity.startup_s": [30, 60],
            },
            "fixed": {"elasticity": {"policy": "outstanding(target=20)"}, "rate": 4},
        }
    )
    points = points_of(sweep)
    assert [p.chosen["where"] for p in points] == ["one", "one", "two", "two"]
    assert points[0].settings["elasticity"] == {"policy": "outstanding(target=20)", "startup_s": 30}
    assert points[0].settings["rate"] == 4 and "rate" not in points[2].settings, "a case replaces what is fixed"
    assert "where" not in points[0].settings and points[0].settings["tp"] == 4


@pytest.mark.parametrize("kind", ["random", "latin-hypercube", "sobol"])
def test_random_designs_meet_constraints_and_repeat(kind: str) -> None:
    if kind == "sobol":
        pytest.importorskip("scipy")
    content = {
        "vary": {
            "tp": [1, 2, 4, 8],
            "dp": [1, 2, 4, 8],
            "rate": {"min": 1, "max": 64, "scale": "log"},
            "max_num_seqs": {"min": 8, "max": 256},
        },
        "constraints": ["tp * dp == 8", "rate * tp < 200"],
        "design": {"kind": kind, "points": 32, "seed": 3},
    }
    found = chosen(**content)
    assert len(found) == 32 and found == chosen(**content)
    assert all(p["tp"] * p["dp"] == 8 and p["rate"] * p["tp"] < 200 for p in found)
    assert all(isinstance(p["max_num_seqs"], int) and 8 <= p["max_num_seqs"] <= 256 for p in found)
    content["design"] = {"kind": kind, "points": 32, "seed": 4}
    assert found != chosen(**content)


def test_a_latin_hypercube_has_one_point_in_every_interval_and_equal_shares_of_values() -> None:
    vary = {"rate": {"min": 0, "max": 20}, "tp": [1, 2, 4, 8]}
    found = chosen(vary=vary, design={"kind": "latin-hypercube", "points": 20})
    assert sorted(int(p["rate"]) for p in found) == list(range(20))
    assert sorted(p["tp"] for p in found) == [1] * 5 + [2] * 5 + [4] * 5 + [8] * 5


@pytest.mark.parametrize("kind", ["random", "sobol"])
def test_more_points_of_a_random_design_begin_with_the_same(kind: str) -> None:
    if kind == "sobol":
        pytest.importorskip("scipy")
    vary = {"rate": {"min": 1, "max": 20}, "tp": [1, 2]}
    few, many = (chosen(vary=vary, design={"kind": kind, "points": n}) for n in (8, 24))
    assert many[:8] == few


def test_a_design_of_few_combinations_has_each_once() -> None:
    found = chosen(vary={"tp": [1, 2], "dp": [1, 2]}, design={"kind": "random", "points": 50})
    assert sorted((p["tp"], p["dp"]) for p in found) == [(1, 1), (1, 2), (2, 1), (2, 2)]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ({}, "vary is missing"),
        ({"vary": {"tp": [1]}}, "model is missing"),
        ({"fixed": FIXED, "vary": {"tpp": [1]}}, "unknown setting 'tpp'"),
        ({"fixed": FIXED, "vary": {"tp.x": [1]}}, "tp has no parts"),
        ({"fixed": FIXED, "vary": {"tp": 4}}, "give a list of values"),
        ({"fixed": FIXED, "vary": {"tp": [1, 1]}}, "listed twice"),
        ({"fixed": {**FIXED, "tp": 1}, "vary": {"tp": [1]}}, "tp is set twice"),
        ({"fixed": FIXED, "vary": {"rate": {"min": 1, "max": 4}}}, "a grid needs steps"),
        ({"fixed": FIXED, "vary": {"rate": {"min": 0, "max": 4, "scale": "log", "steps": 3}}}, "above 0"),
        ({"fixed": FIXED, "vary": {"tp": {"values": [1], "min": 1}}}, "give one of values"),
        ({"fixed": FIXED, "vary": {"tp": [1]}, "constraints": ["tp = 1"]}, "equality is written =="),
        ({"fixed": FIXED, "vary": {"tp": [1]}, "constraints": ["tpp == 1"]}, "'tpp', which is no setting"),
        ({"fixed": FIXED, "vary": {"tp": [1]}, "constraints": ["__import__('os')"]}, "unknown function"),
        ({"fixed": FIXED, "vary": {"tp": [1]}, "constraints": ["(lambda: 1)()"]}, "is no condition"),
        ({"fixed": FIXED, "vary": {"tp": [1]}, "constraints": ["tp == 2"]}, "no point meets"),
        ({"fixed": FIXED, "vary": {"tp": [1]}, "constraints": ["max_num_seqs > 2"]}, "max_num_seqs is not set"),
        ({"fixed": FIXED, "vary": {"tp": [1]}, "design": {"kind": "random"}}, "points is None"),
        ({"fixed": FIXED, "vary": {"tp": [1]}, "design": "gird"}, "Did you mean 'grid'"),
        ({"fixed": FIXED, "vary": {"tp": [1]}, "design": {"points": 3}}, "a grid has all its points"),
        ({"fixed": FIXED, "vary": {"tp": {"values": [1], "when": "dp ==="}}}, "is no condition"),
        ({"fixed": FIXED, "vary": {"x": {"cases": {}}}}, "cases is empty"),
        ({"fixed": FIXED, "varry": {}}, "Did you mean 'vary'"),
    ],
)
def test_mistakes_are_one_line(content: Any, text: str) -> None:
    refused(text, content)


def test_a_file_that_is_not_there_is_one_line(tmp_path: Path) -> None:
    refused("cannot be read", tmp_path / "none.yaml")


def test_a_design_that_is_too_large_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("apex_sim.sweeps.design.MOST", 100)
    refused("more than 100 points", {"fixed": FIXED, "vary": {"tp": list(range(1, 20)), "dp": list(range(1, 20))}})
    many = {
        "fixed": FIXED,
        "vary": {n: list(range(1, 50)) for n in ("tp", "dp", "pp")},
        "constraints": ["pp * dp * tp < 2"],
    }
    refused("more than 1,000 combinations", many)
