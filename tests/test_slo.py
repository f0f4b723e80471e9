"""SLOs: what the text means, and which requests are good."""

from __future__ import annotations

import numpy as np
import pytest

from hardware_profiles.errors import UserError
from workloads.slo import Slo, as_slo, parse_seconds, parse_slo

NAN = float("nan")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("50ms", 0.05), ("1s", 1.0), ("1.5 s", 1.5), ("2min", 120.0), ("1m", 60.0), ("800us", 8e-4), ("1e-1s", 0.1)],
)
def test_times_carry_their_unit(text, seconds):
    assert parse_seconds(text, "x") == pytest.approx(seconds, rel=1e-12)


def test_any_subset_of_limits_with_a_share_as_number_or_percentage():
    assert parse_slo("ttft=1s,tpot=50ms") == Slo(ttft_s=1.0, tpot_s=0.05, attainment=0.95)
    assert parse_slo(" e2e = 10s , attainment = 99% ") == Slo(e2e_s=10.0, attainment=0.99)


def test_text_of_an_slo_reads_back():
    slo = Slo(ttft_s=1.5, tpot_s=0.04, e2e_s=20.0, attainment=0.9)
    assert parse_slo(str(slo)) == slo


@pytest.mark.parametrize(
    ("text", "shown"),
    [("e2e=8h", "8h"), ("e2e=30s", "30s"), ("e2e=90s", "1.5min"), ("e2e=100s", "100s"), ("e2e=4000s", "4000s"),
     ("e2e=9.5s", "9500ms"), ("e2e=1234567s", "1234567s"), ("e2e=0.1234567s", "123.4567ms")],
)  # fmt: skip
def test_long_limits_are_shown_as_people_write_them(text, shown):
    slo = parse_slo(text)
    assert str(slo) == f"e2e={shown},attainment=0.95"
    assert parse_slo(str(slo)).e2e_s == pytest.approx(slo.e2e_s, rel=1e-12)


@pytest.mark.parametrize(
    "text", ["", "ttft", "ttft=", "ttft=1", "ttft=-1s", "ttft=0s", "ttft=nan", "ttft=1s,ttft=2s", "attainment=0.9",
             "ttft=1s,attainment=0", "ttft=1s,attainment=x", "speed=1s", "ttft=1s,"]
)  # fmt: skip
def test_what_cannot_be_meant_is_refused(text):
    with pytest.raises(UserError, match="--slo"):
        parse_slo(text)


@pytest.mark.parametrize(
    "fields", [{"ttft_s": 0}, {"tpot_s": -1.0}, {"e2e_s": NAN}, {"ttft_s": "1s"}, {"attainment": 95}]
)
def test_an_slo_of_impossible_values_cannot_be_made(fields):
    with pytest.raises(UserError, match=next(iter(fields))):
        Slo(**fields)


def test_callers_may_give_text_an_slo_or_nothing():
    assert as_slo(None) is None
    assert as_slo("ttft=1s") == as_slo(Slo(ttft_s=1.0))
    with pytest.raises(UserError, match="5"):
        as_slo(5)  # type: ignore[arg-type]


def test_good_requests_meet_every_limit_and_finish():
    ttft = np.array([0.5, 1.0, 1.1, 0.5, 0.5, NAN])
    tpot = np.array([0.05, 0.05, 0.05, 0.06, NAN, NAN])
    e2e = np.array([2.0, 2.0, 2.0, 2.0, 0.5, NAN])
    assert Slo(ttft_s=1.0, tpot_s=0.05).good(ttft, tpot, e2e).tolist() == [True, True, False, False, True, False]
    assert Slo(e2e_s=1.0).good(ttft, tpot, e2e).tolist() == [False, False, False, False, True, False]
