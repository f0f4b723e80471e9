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


def test_list_and_show_print_every_rent_and_what_owning_costs(capsys):
    assert run("list", "--json") == 0
    row = next(row for row in json.loads(capsys.readouterr().out) if row["name"] == "t4")
    price = load_device("t4").price
    assert [row[field] for _, field in hardware.RENTS] == [getattr(price, field) for _, field in hardware.RENTS]
    assert row["spot_usd_per_hour"] < row["reserved_1y_usd_per_hour"] < row["usd_per_hour"]
    assert run("show", "h100") == 0
    text = capsys.readouterr().out
    assert "spot price" in text and "price, 3 years" in text and "33,750 $ with its share of the server" in text


def test_grids_as_a_table_and_as_json(capsys):
    assert run("grids") == 0
    lines = capsys.readouterr().out.splitlines()
    assert run("grids", "--json") == 0
    grids = json.loads(capsys.readouterr().out)
    assert [line.split()[0] for line in lines[1 : 1 + len(grids)]] == list(grids)
    assert grids["world"]["gco2_per_kwh"] == 473 and grids["no"]["usd_per_kwh"] is None
