"""What a notebook shows of results as the last line of a cell: a line, and a table below it."""

from __future__ import annotations

import pickle
import re
from typing import Any

import pandas as pd
import pytest

import apex_sim as apex
from workloads.notebook_html import MOST_ROWS, short, table_html

LOAD: dict[str, Any] = {"num_requests": 40, "rate": 4, "input_len": 300, "output_len": 50}


def cells(html: str) -> list[list[str]]:
    """Texts of the table's rows."""
    rows = re.findall(r"<tr.*?</tr>", html, flags=re.DOTALL)
    return [re.findall(r"<t[hd][^>]*>(.*?)</t[hd]>", row) for row in rows]


def test_a_run_shows_its_latencies_and_figures() -> None:
    result = apex.simulate("llama-3.1-8b", "h100-sxm:1", slo="ttft=1s,tpot=50ms", **LOAD)
    html = result._repr_html_()
    assert html.startswith("<div>" + repr(result)[len("<SimulationResult: ") : -1])
    rows = {row[0]: row[1:] for row in cells(html)}
    assert rows[""] == ["mean", "median", "p95", "p99"]
    assert rows["TTFT [ms]"] == [short(result.summary[f"{s}_ttft_ms"]) for s in rows[""]]
    assert "100 % within the SLO" in html
    assert f"{short(result.summary['usd_per_million_output_tokens'])} $ per million output tokens" in html
    assert pickle.loads(pickle.dumps(result))._repr_html_() == html


def test_two_pools_and_each_of_them_show_theirs() -> None:
    pair = apex.simulate("llama-3.1-8b", "h100-sxm:2", disaggregate="prefill=tp1 decode=tp1", **LOAD)
    assert isinstance(pair, apex.DisaggregatedResult)
    assert "h100-sxm:2 + 1 of" in pair._repr_html_() and "TTFT [ms]" in pair.pools["decode"]._repr_html_()
    assert "decode pool, 1 of h100-sxm:2; latencies are those of the whole run" in pair.pools["decode"]._repr_html_()


def test_a_run_in_which_nothing_is_served_shows_dashes() -> None:
    none = apex.simulate("llama-3.1-8b", "h100-sxm:1", input_len=300, output_len=1, num_requests=3, rate=1)
    assert ["TPOT [ms]", "-", "-", "-", "-"] in cells(none._repr_html_())


def test_a_plan_shows_what_was_simulated_best_first() -> None:
    plan = apex.plan("llama-3.1-8b", "h100-sxm:2", slo="ttft=1s,tpot=50ms", **LOAD)
    html = plan._repr_html_()
    rows = [row for row in cells(html) if row[0] in set(plan.table["layout"])]
    full = [entry for entry in plan.entries if entry.measured is not None]
    assert len(rows) == len(full) and rows[0][0] == plan.best.candidate.layout and "best" in rows[0]
    assert f"{len(plan.entries) - len(full)} more that were not simulated in full" in html


def test_a_load_curve_shows_its_rates() -> None:
    curve = apex.load_curve("llama-3.1-8b", "h100-sxm:1", [4, 8], **{k: v for k, v in LOAD.items() if k != "rate"})
    rows = {row[0]: row for row in cells(curve._repr_html_()) if row}
    assert {"4.0", "8.0"} <= set(rows) and "knee" in curve._repr_html_()


@pytest.mark.parametrize("rows", [1, MOST_ROWS, MOST_ROWS + 3])
def test_long_tables_say_where_the_rest_is_and_text_is_escaped(rows: int) -> None:
    html = table_html("a < b", pd.DataFrame({"x<y": range(rows)}))
    assert "a &lt; b" in html and "x&lt;y" in html
    assert ("more rows in" in html) == (rows > MOST_ROWS)


def test_a_trace_is_a_line() -> None:
    chat = apex.load_trace("chat_small")
    mean = chat.input_tokens.mean()
    assert repr(chat).startswith(f"<Trace chat_small: 600 requests over {chat.duration_s:.4g} s, ")
    assert f"mean {mean:,.4g} tokens in" in repr(chat)
    once = apex.generate_trace(num_requests=1, rate_per_s=4, input_len=1000, output_len=50)
    assert repr(once) == "<Trace synthetic: 1 request all at once, mean 1,000 tokens in, 50 out>"
    loop = apex.generate_trace(num_requests=8, arrival="closed(concurrency=4)", input_len=10, output_len=5,
                               prefix=apex.SharedPrefix(tokens=64))  # fmt: skip
    assert "8 requests by 4 clients in a closed loop" in repr(loop) and repr(loop).endswith("with shared prefixes>")
