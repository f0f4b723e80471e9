"""apex_sim.plan: what the keywords allow the planner to use."""

from __future__ import annotations

import pytest

import apex_sim as apex

QUICK = {"rate": 4.0, "input_len": 200, "output_len": 20, "num_requests": 30}


def formats(**keywords) -> set[tuple[str, str]]:
    result = apex.plan("llama-3.1-8b", "h100-sxm:1", **QUICK, **keywords)
    plans = [result.deployment(entry).plan for entry in result.entries]
    return {(plan.quantization or "own", plan.kv_cache_dtype) for plan in plans}


def test_formats_given_as_settings_are_used():
    """kv_cache_dtype used to be ignored."""
    assert formats() == {("own", "auto")}
    assert formats(kv_cache_dtype="fp8") == {("own", "fp8")}
    assert formats(quantization="fp8", kv_cache_dtype="fp8") == {("fp8", "fp8")}


def test_formats_the_planner_may_use_come_beside_the_one_set():
    assert formats(quantizations=(None, "fp8")) == {("own", "auto"), ("fp8", "auto")}
    assert formats(quantizations=("fp8",)) == {("fp8", "auto")}
    assert formats(kv_cache_dtype="auto", kv_cache_dtypes=("fp8",)) == {("own", "auto"), ("own", "fp8")}


def test_a_format_that_is_no_list_is_refused():
    with pytest.raises(apex.UserError, match=r"write \('fp8',\)"):
        formats(quantizations="fp8")
