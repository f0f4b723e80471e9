"""HTML reports: one file without network, well formed, the same bytes again, with what the result says."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

import apex_sim
from apex_sim.cli import main
from apex_sim.html import parts
from apex_sim.html.write import report_of

VOID = {"meta", "link", "input", "br", "hr", "img"}
SVG_VOID = {"use", "path", "rect", "circle", "line", "polygon", "image", "stop"}
WORK = ["--rate", "10", "--input-len", "200", "--output-len", "40", "--num-requests", "40"]


class Checker(HTMLParser):
    """Elements nest, ids are unique, tables are square, nothing comes from elsewhere."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.stack: list[str] = []
        self.ids: set[str] = set()
        self.headings: list[int] = []
        self.words: list[str] = []
        self.rows: list[int] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        if (name := given.get("id")) is not None:
            assert name not in self.ids, f"id {name} twice"
            self.ids.add(name)
        for key in ("src", "href", "xlink:href"):
            address = given.get(key) or ""
            assert tag == "a" or not address or address.startswith(("#", "data:")), f"{tag} loads {address}"
        if tag == "svg":
            assert given.get("role") == "img" and given.get("aria-label"), "a figure without words"
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))
        if tag == "tr":
            self.rows.append(0)
        if tag in ("td", "th"):
            self.rows[-1] += 1
        if tag not in VOID:
            self.stack.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.handle_starttag(tag, attrs)
        if tag not in VOID:
            self.stack.pop()

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag, tag
        if tag == "table":
            assert len(set(self.rows)) <= 1, "rows of different lengths"
            self.rows = []

    def handle_data(self, data: str) -> None:
        self.words.append(data)


def checked(text: str) -> str:
    """The words of a report that keeps the rules."""
    checker = Checker()
    checker.feed(text)
    assert not checker.stack
    assert checker.headings[0] == 1 and checker.headings.count(1) == 1
    assert all(later - earlier <= 1 for earlier, later in zip(checker.headings, checker.headings[1:], strict=False))
    assert len(text) < 1_000_000
    for mark in ('lang="en"', "width=device-width", "prefers-color-scheme", "@media print"):
        assert mark in text
    assert not re.search(r"@import|url\((?!#)|fetch\(|XMLHttpRequest|<script src", text)
    return " ".join(checker.words)


def simulated(**more: Any) -> Any:
    work: dict[str, Any] = {"rate": 10.0, "input_len": 200, "output_len": 40, "num_requests": 40}
    return apex_sim.simulate("llama-3.1-8b", "h100-sxm:2", **{**work, **more})


@pytest.mark.parametrize(
    "settings",
    [
        {"dp": 2, "slo": "ttft=1s,tpot=50ms", "elasticity": apex_sim.Elasticity(mtbf_s=2, repair_s=1, startup_s=1)},
        {"disaggregate": ("prefill=tp1", "decode=tp1"), "max_model_len": 210},
    ],
)
def test_the_report_of_a_run_has_its_figures(settings: dict[str, Any], tmp_path: Path) -> None:
    result = simulated(**settings)
    words = checked(apex_sim.write_report(result, tmp_path / "r.html").read_text("utf-8"))
    for heading in ("Latency", "Replicas", "Slowest requests", "Where the figures come from", "Configuration"):
        assert heading in words
    assert f"{result.summary['p95_tpot_ms']:.3g} ms" in words
    assert ("cut short" in words) == bool(result.summary["truncated"])


def test_the_report_of_a_plan_has_every_candidate() -> None:
    work: dict[str, Any] = {"rate": 5.0, "input_len": 200, "output_len": 40, "num_requests": 40}
    result = apex_sim.plan("llama-3.1-8b", "h100-sxm:2", slo="ttft=1s,tpot=50ms", top=2, **work)
    words = checked(report_of(result))
    assert words.count("not simulated") + words.count("no gain") > 0
    assert result.launch_command in words


def repeats(argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """The report of a command; the command that it names writes the same one."""
    first, second = tmp_path / "first.html", tmp_path / "second.html"
    assert main([*argv, "--report", str(first)]) == 0
    text = first.read_text("utf-8")
    checked(text)
    found = re.search(r'<pre id="command"[^>]*>(.*?)</pre>', text, re.DOTALL)
    assert found is not None
    import shlex
    from html import unescape

    again = shlex.split(unescape(found.group(1)))[1:]
    monkeypatch.chdir(tmp_path)
    assert main([*again, "--report", str(second)]) == 0
    assert second.read_text("utf-8") == text
    return text


def test_the_command_of_a_report_repeats_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = ["simulate", "--model", "llama-3.1-8b", "--cluster", "h100-sxm:1", "--kv-offloading-size", "8", *WORK]
    assert 'role="note"' in repeats(argv, tmp_path, monkeypatch)


def test_the_report_of_a_fleet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    argv = [
        "gpus",
        "--model",
        "llama-3.1-8b",
        "--gpus",
        "h100-sxm,l4",
        "--slo",
        "ttft=1s,tpot=80ms",
        "--no-cache",
        *WORK,
    ]
    assert "fleets of one type" in repeats(argv, tmp_path, monkeypatch)


def test_the_report_of_experts(tmp_path: Path) -> None:
    argv = ["experts", "--model", "phi-mini-moe", "--cluster", "h100-sxm:2", "--tokens", "256", *WORK]
    assert main([*argv, "--report", str(tmp_path / "r.html")]) == 0
    assert "Load of the GPUs" in checked((tmp_path / "r.html").read_text("utf-8"))


def test_text_is_escaped() -> None:
    evil = "<script>alert('x')</script>&\""
    page = parts.document(evil, [f"<h1>{parts.escape(evil)}</h1>", parts.note(evil), parts.tiles({evil: evil}),
                                 parts.table((evil,), [[parts.text(evil)]], about=evil), parts.copied(evil, "n", evil),
                                 parts.facts([(evil, evil)], evil), parts.warnings_box([evil])])  # fmt: skip
    checked(page)
    assert page.count("<script>") == 1


@pytest.mark.parametrize("command", ["simulate", "plan", "experts", "power", "gpus"])
def test_mistakes_are_one_line_before_the_work(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    moe = "phi-mini-moe" if command == "experts" else "llama-3.1-8b"
    where = ["--gpus", "l4", "--slo", "ttft=1s"] if command == "gpus" else ["--cluster", "h100-sxm:2"]
    work = [] if command == "power" else ["--rate", "1", "--input-len", "9", "--output-len", "9"]
    for path, words in (("r.txt", "name it .html"), ("nowhere/r.html", "no folder")):
        assert main([command, "--model", moe, *where, *work, "--report", path]) == 2
        error = capsys.readouterr().err
        assert words in error and error.count("\n") == 1
