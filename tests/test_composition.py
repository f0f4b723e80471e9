"""Techniques composed at random: they keep the laws of conservation in both modes, or are refused in one line."""

from __future__ import annotations

from collections import Counter

import pytest
from composition import BUNDLES, NEUTRAL, check, draw

from apex_sim.api import AllSettings

NAMED = {"model", "engine", "dp", "tp", "pp", "ep", "disaggregate", "kv_link", "kv_overlap", "elasticity"}


def checked(seed: int) -> bool:
    settings = draw(seed)
    try:
        return check(settings)
    except Exception as error:
        shown = {name: value for name, value in settings.items() if name != "trace"}
        raise AssertionError(f"draw({seed}): {shown}: {type(error).__name__}: {error}") from error


def test_compositions_keep_the_laws_or_are_refused_in_one_line() -> None:
    ran = Counter(checked(seed) for seed in range(45))
    assert ran[True] >= 20, "most compositions run"


@pytest.mark.slow
def test_many_compositions_keep_the_laws(request: pytest.FixtureRequest) -> None:
    if request.config.getoption("markexpr") != "slow":
        pytest.skip("a minute of compositions; run it with pytest -m slow")
    ran = Counter(checked(seed) for seed in range(45, 1500))
    assert ran[True] >= 600


def test_every_setting_is_composed_or_left_out_on_purpose() -> None:
    """Shown as skipped, with their names, as long as settings have no values to draw from."""
    drawn = {name for values in BUNDLES.values() for value in values for name in value}
    unknown = drawn - NAMED - set(AllSettings.__annotations__)
    assert not unknown, "settings that do not exist"
    missing = set(AllSettings.__annotations__) - drawn - NEUTRAL
    if missing:
        pytest.skip(f"no values for {', '.join(sorted(missing))}; add them to tests/composition.py")
