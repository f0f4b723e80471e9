"""Reports on a narrow terminal: tables in parts that fit, long lines broken at words. Files and pipes get them as they are."""

from __future__ import annotations

import itertools
import re
import shutil
import textwrap
from collections.abc import Iterator
from typing import Any

from apex_sim.progress import erase_progress

RULE = re.compile(r"^ *-+(?:  +-+)+ *$")
LABEL = re.compile(r"^ *\S(?:.*?\S)?  +(?=\S)")
LEAST_WIDTH = 20
"""Narrower than that nothing is gained."""


def reflow(text: str, width: int) -> str:
    """``text`` in lines of at most ``width`` characters where words allow it."""
    lines = text.split("\n")
    if width < LEAST_WIDTH or max(map(len, lines)) <= width:
        return text
    return "\n".join(_blocks(lines, width))


def _blocks(lines: list[str], width: int) -> Iterator[str]:
    i = 0
    while i < len(lines):
        if i + 1 < len(lines) and RULE.match(lines[i + 1]):
            spans = [match.span() for match in re.finditer("-+", lines[i + 1])]
            end = next((j for j in range(i + 2, len(lines)) if not _is_row(lines[j], spans)), len(lines))
            yield from _table(lines[i:end], width)
            i = end
        else:
            yield from _wrapped(lines[i], width)
            i += 1


def _is_row(line: str, spans: list[tuple[int, int]]) -> bool:
    """Whether a line has its cells where the rule has them, and nothing in between."""
    gaps = (line[left[1] : right[0]] for left, right in itertools.pairwise(spans))
    return bool(line.strip()) and len(line) <= spans[-1][1] and not any(gap.strip() for gap in gaps)


def _wrapped(line: str, width: int) -> list[str]:
    """A line broken at words; what follows a label stays under its text."""
    if len(line) <= width:
        return [line]
    label = LABEL.match(line)
    indent = len(line) - len(line.lstrip()) + 2
    if label is not None and len(label[0]) <= width // 2:
        indent = len(label[0])
    return textwrap.wrap(
        line,
        width,
        subsequent_indent=" " * indent,
        break_long_words=False,
        break_on_hyphens=False,
        drop_whitespace=True,
        replace_whitespace=False,
    )


def _table(lines: list[str], width: int) -> Iterator[str]:
    """A table with a rule under its header, in parts: the first column again in each."""
    if max(map(len, lines)) <= width:
        yield from lines
        return
    spans = [match.span() for match in re.finditer("-+", lines[1])]
    first, others = spans[0], spans[1:]
    while others:
        count, used = 0, first[1]
        while count < len(others) and (count == 0 or used + 2 + others[count][1] - others[count][0] <= width):
            used += 2 + others[count][1] - others[count][0]
            count += 1
        part, others = others[:count], others[count:]
        for line in lines:
            yield "  ".join(line[start:end].ljust(end - start) for start, end in (first, *part)).rstrip()
        if others:
            yield ""


class Report:
    """What a command prints, kept until it ends and then shown in the terminal's width."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream
        self._parts: list[str] = []

    def write(self, text: str) -> int:
        """Keep it."""
        self._parts.append(text)
        return len(text)

    def close_report(self) -> None:
        """Show it."""
        text, self._parts = "".join(self._parts), []
        if text:
            erase_progress()
            self._stream.write(reflow(text, shutil.get_terminal_size().columns))
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class Messages:
    """stderr of a terminal: the progress line gives way to whatever else is written."""

    def __init__(self, stream: Any) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write below an empty line instead of behind the bar."""
        erase_progress()
        return int(self._stream.write(text))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)
