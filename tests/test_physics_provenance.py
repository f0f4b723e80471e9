"""A prediction rests on the kernels it uses, not on the device's best ones."""

from __future__ import annotations

import re

import pytest

from apex_sim.report import basis
from simulator.build import build_deployment


@pytest.mark.parametrize(
    ("model", "cluster", "tp", "provenance", "weaker"),
    [
        ("llama-3.1-8b", "h100-sxm:1", 1, "measured", ()),
        ("mixtral-8x7b", "h100-sxm:2", 2, "measured", ()),
        ("llama-3.1-8b", "rtx-4090:1", 1, "measured", ()),
        ("llama-3.1-8b", "rtx-4090:2", 2, "transferred", ("all-reduce",)),
        ("gpt-oss-20b", "rtx-4090:1", 1, "transferred", ("experts",)),
        ("llama-3.1-8b", "mi300x:1", 1, "transferred", ()),
        ("llama-3.1-8b", "xeon-8480:1", 1, "datasheet", ()),
    ],
)
def test_provenance_is_that_of_the_weakest_kernels_in_use(model, cluster, tp, provenance, weaker):
    step_model = build_deployment(model, cluster, tp=tp).step_model
    assert step_model.provenance == provenance
    assert step_model.weaker_parts == weaker


def test_the_report_quotes_how_far_off_borrowed_kernels_were():
    borrowed = basis("transferred", (), build_deployment("llama-3.1-8b", "h20:1"))
    assert re.search(r"measured devices treated like that: GEMM \d+ %, prefill attention \d+ %, decode", borrowed)
    assert "treated like that" not in basis("measured", (), build_deployment("llama-3.1-8b", "h100-sxm:1"))
    assert "all-reduce" in basis("transferred", ("all-reduce",), build_deployment("llama-3.1-8b", "rtx-4090:2", tp=2))
