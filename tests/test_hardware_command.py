"""``apex-sim hardware``: what it prints."""

import argparse
import json

import pytest

from apex_sim.commands import hardware
from hardware_profiles.loader import device_names, load_device


def run(*argv):
    parser = argparse.ArgumentParser()
    hardware.add_parser(parser.add_subparsers())
    return hardware.run(parser.parse_args(["hardware", *argv]))


def test_list_has_a_line_for_every_device(capsys):
    assert run("list") == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines[1 : 1 + len(device_names())]] == device_names()


def test_list_of_a_kind_as_json(capsys):
    assert run("list", "--kind", "cpu", "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    assert rows
    assert {row["kind"] for row in rows} == {"cpu"}


@pytest.mark.parametrize("name", device_names())
def test_show_prints_every_source(name, capsys):
    assert run("show", name) == 0
    text = capsys.readouterr().out
    profile = load_device(name)
    assert all(source in text for key, source in profile.sources.items() if key != "architecture")


def test_show_as_json_has_si_units_and_ridge_points(capsys):
    assert run("show", "h100", "--json") == 0
    profile = json.loads(capsys.readouterr().out)
    assert profile["memory_bandwidth_bytes_per_s"] == 3.35e12
    # 989.4 TFLOP/s over 3.35 TB/s
    assert profile["ridge_flop_per_byte"]["bfloat16"] == pytest.approx(295.3, abs=0.1)
