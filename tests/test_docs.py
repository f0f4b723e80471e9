"""The documentation: its commands run, its links lead somewhere, the site has every page, the reference is current."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from docs_commands import ROOT, commands, lay_out, pages

from apex_sim.cli import main

LINK = re.compile(r"(?<!!)\[[^\]\n]*(?:\n[^\]\n]*)?\]\(([^)\s]+)\)")
FENCED = re.compile(r"^```.*?^```", re.M | re.S)


def run_page(page: Path, folder: Path, kinds: tuple[str, ...], capsys, monkeypatch) -> list[str]:
    """Run the commands of these kinds in their order; what went wrong."""
    monkeypatch.chdir(folder)
    lay_out(page, folder)
    wrong = []
    for command in commands(page):
        if command.kind not in kinds:
            continue
        try:
            code = main(command.argv)
        except SystemExit as stop:
            code = int(stop.code or 0)
        captured = capsys.readouterr()
        if code != command.exit_code:
            wrong.append(f"{page.name}:{command.line}: exit code {code}: {command.text}\n{captured.err}")
    return wrong


@pytest.mark.parametrize(
    "page", [p for p in pages() if any(c.kind == "quick" for c in commands(p))], ids=lambda p: p.stem
)
def test_the_quick_commands_of_a_page_run(page, tmp_path, capsys, monkeypatch):
    assert run_page(page, tmp_path, ("quick",), capsys, monkeypatch) == []


@pytest.mark.parametrize("page", pages(), ids=lambda p: p.stem)
def test_commands_stand_in_fenced_blocks(page):
    """Others are run by no test."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    assert re.findall(r"^(?: {4}|\t)(?:\$ )?apex-sim .*", text, re.M) == []


@pytest.mark.slow
@pytest.mark.parametrize(
    "page", [p for p in pages() if any(c.kind == "slow" for c in commands(p))], ids=lambda p: p.stem
)
def test_all_commands_of_a_page_run(page, tmp_path, capsys, monkeypatch):
    assert run_page(page, tmp_path, ("quick", "slow"), capsys, monkeypatch) == []


def slugs(page: Path) -> set[str]:
    """Anchors of a page's headings, as GitHub and the site make them."""
    text = FENCED.sub("", page.read_text(encoding="utf-8"))
    found: set[str] = set()
    for title in re.findall(r"^#{1,6} +(.+?) *$", text, re.M):
        plain = re.sub(r"[`*]|\[([^\]]*)\]\([^)]*\)", r"\1", title)
        found.add(re.sub(r"[^\w\- ]", "", plain.lower()).strip().replace(" ", "-"))
    return found


def all_pages() -> list[Path]:
    return [*pages(), ROOT / "benchmarks" / "README.md"]


@pytest.mark.parametrize("page", all_pages(), ids=lambda p: f"{p.parent.name}-{p.stem}")
def test_every_link_leads_somewhere(page):
    """From docs/ to docs/ alone: the site has nothing else."""
    broken = []
    for target in LINK.findall(FENCED.sub("", page.read_text(encoding="utf-8"))):
        name, _, anchor = target.partition("#")
        if re.match(r"\w+:", target):
            continue
        place = (page.parent / name).resolve() if name else page
        inside = page.parent.name != "docs" or place.parent.name in ("docs", "img")
        if not inside or not place.exists() or (anchor and anchor not in slugs(place)):
            broken.append(target)
    assert broken == []


def listed(nav) -> list[str]:
    """The pages of a navigation."""
    if isinstance(nav, str):
        return [nav]
    return [page for part in (nav.values() if isinstance(nav, dict) else nav) for page in listed(part)]


def test_the_site_has_every_page_once():
    nav = listed(yaml.safe_load((ROOT / "mkdocs.yml").read_text())["nav"])
    assert sorted(nav) == sorted(path.name for path in (ROOT / "docs").glob("*.md"))


def test_the_reference_is_current():
    """If not: python tools/reference.py."""
    code = "import sys; sys.path.insert(0, 'tools'); import reference; print(reference.page(), end='')"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, text=True, capture_output=True, check=True)
    assert done.stdout == (ROOT / "docs" / "reference.md").read_text(encoding="utf-8")


@pytest.mark.skipif(shutil.which("zensical") is None, reason="needs pip install '.[docs]'")
def test_the_site_builds(tmp_path):
    shutil.copytree(ROOT / "docs", tmp_path / "docs")
    shutil.copy(ROOT / "mkdocs.yml", tmp_path)
    done = subprocess.run(["zensical", "build", "--strict"], cwd=tmp_path, text=True, capture_output=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "site" / "tutorial" / "index.html").exists()
