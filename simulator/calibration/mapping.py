"""Which device borrows its parameters from which measured one, and why."""

from __future__ import annotations

from collections.abc import Mapping

from simulator.calibration.transfer import Transfer

TRANSFERS: Mapping[str, Transfer] = {
    "a100-sxm-40gb": Transfer("a100-sxm-80gb", "same generation", "same chip, slower memory"),
    "a100-pcie-40gb": Transfer("a100-sxm-80gb", "same generation", "same chip, slower memory, lower power limit"),
    "a100-pcie-80gb": Transfer("a100-sxm-80gb", "same generation", "same chip, lower power limit"),
    "a40": Transfer("a6000", "same generation", "same chip (GA102), slower memory"),
    "a10g": Transfer("a6000", "same generation", "same chip (GA102), about half of its tensor rate"),
    "l20": Transfer("l40s", "same generation", "same architecture (Ada Lovelace), tensor cores at half the rate"),
    "l4": Transfer("l40s", "same generation", "same architecture (Ada Lovelace), low power limit"),
    "rtx-5090": Transfer(
        "rtx-pro-6000", "same generation", "same chip (GB202), tensor cores at half the rate with FP32 accumulation"
    ),
    "h100-pcie": Transfer("h100-sxm", "same generation", "same chip, HBM2e, lower power limit"),
    "h100-nvl": Transfer("h100-sxm", "same generation", "same chip, lower power limit"),
    "gh200": Transfer("h100-sxm", "same generation", "same chip, faster memory"),
    "h20": Transfer("h200-sxm", "same generation", "same architecture with few multiprocessors; memory like an H200"),
    "v100-sxm2-32gb": Transfer("a100-sxm-80gb", "other generation", "nearest measured data-centre GPU; float16 only"),
    "t4": Transfer("a6000", "other generation", "nearest measured GPU with GDDR memory; 70 W limit not modelled"),
    "mi300x": Transfer("h100-sxm", "other generation", "nearest measured GPU by date and class; other vendor"),
    "mi325x": Transfer("h100-sxm", "other generation", "as the MI300X, the same chip; other vendor"),
    "mi355x": Transfer("h100-sxm", "other generation", "as the MI300X; other vendor"),
    "gb300": Transfer("b300", "same generation", "same chip, coupled to Grace"),
    "gaudi2": Transfer("a100-sxm-80gb", "other generation", "nearest ratio of arithmetic to bandwidth; other vendor"),
}
"""CPUs, FPGAs, drives and Apple's GPUs are like nothing in the tables: they keep their datasheet."""

POWER_FROM: Mapping[str, str] = {
    "a100-sxm-40gb": "a100-sxm-80gb",
    "a100-pcie-40gb": "a100-sxm-80gb",
    "a100-pcie-80gb": "a100-sxm-80gb",
    "h100-pcie": "h100-sxm",
    "h100-nvl": "h100-sxm",
    "h20": "h100-sxm",
    "b300": "b200",
    "gb200": "b200",
    "gb300": "b200",
}
"""Data-centre GPUs whose power line is another one's as shares of TDP; the rest keeps the default shares."""
