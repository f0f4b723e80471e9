"""Writes docs/reference.md, every public name of apex_sim with its signature and docstring: python tools/reference.py."""

from __future__ import annotations

import dataclasses
import inspect
import re
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "reference.md"
HEAD = """\
# Python by name

Every public name of `apex_sim`, from its docstring; this page is written by `python tools/reference.py`. By task:
[api.md](api.md).

"""


def page() -> str:
    """The page as it should be."""
    import apex_sim

    names = [name for name in apex_sim.__all__ if name != "__version__"]
    functions = [name for name in names if not inspect.isclass(getattr(apex_sim, name))]
    classes = [name for name in names if name not in functions]
    parts = ["## Functions\n"]
    parts += [_function(name, getattr(apex_sim, name), "###") for name in functions]
    parts.append("## Classes\n")
    parts += [_class(name, getattr(apex_sim, name)) for name in classes]
    return HEAD + "\n".join(parts).rstrip() + "\n"


def _function(name: str, function: Any, level: str) -> str:
    return f"{level} {name.rpartition('.')[2]}\n\n```python\n{_signature(name, function)}\n```\n\n{_text(function)}\n"


def _signature(name: str, function: Any) -> str:
    """The signature as written, one argument per line where it is long."""
    signature = inspect.signature(function)
    parts, star = [], False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not star:
            parts.append("*")
        star = star or parameter.kind in (parameter.KEYWORD_ONLY, parameter.VAR_POSITIONAL)
        if parameter.name != "self":
            kind = "" if parameter.annotation is parameter.empty else f": {parameter.annotation}"
            default = "" if parameter.default is parameter.empty else f" = {parameter.default!r}"
            stars = {parameter.VAR_KEYWORD: "**", parameter.VAR_POSITIONAL: "*"}.get(parameter.kind, "")
            parts.append(f"{stars}{parameter.name}{kind}{default}")
    returns = signature.return_annotation
    tail = "" if returns is inspect.Signature.empty else f" -> {str(returns).strip(chr(39))}"
    line = f"{name}({', '.join(parts)}){tail}"
    if len(line) <= 110:
        return line
    return f"{name}(\n" + "".join(f"    {part},\n" for part in parts) + f"){tail}"


def _class(name: str, kind: type) -> str:
    lines = [f"### {name}\n", _text(kind), ""]
    if dataclasses.is_dataclass(kind):
        described = _described_fields(kind)
        lines += ["| Field | Type | |", "|---|---|---|"]
        for field in dataclasses.fields(kind):
            if not field.name.startswith("_"):
                shown = str(field.type).replace("|", "\\|")
                lines.append(f"| `{field.name}` | `{shown}` | {described.get(field.name, '')} |")
        lines.append("")
    for member, value in vars(kind).items():
        if member.startswith("_"):
            continue
        function = value.__func__ if isinstance(value, classmethod | staticmethod) else value
        if isinstance(value, property):
            lines.append(f"`{name}.{member}`: {_first(value.fget)}\n")
        elif inspect.isfunction(function):
            lines.append(f"`{_signature(f'{name}.{member}', function)}`: {_first(function)}\n".replace("\n    ", " "))
    return "\n".join(lines)


def _described_fields(kind: type) -> dict[str, str]:
    """The strings that follow fields in the source."""
    source = inspect.getsource(kind)
    found = re.findall(r'^    (\w+):[^\n]*\n    """(.*?)"""', source, flags=re.M | re.S)
    return {name: _inline(text) for name, text in found}


def _text(thing: Any) -> str:
    text = inspect.getdoc(thing) or ""
    if dataclasses.is_dataclass(thing) and text.startswith(f"{getattr(thing, '__name__', '')}("):
        return ""
    return "\n\n".join(_inline(part) for part in text.split("\n\n"))


def _first(function: Any) -> str:
    return _inline((inspect.getdoc(function) or "").split("\n\n")[0])


def _inline(text: str) -> str:
    """reStructuredText roles and double backticks as Markdown, on one line; what looks like HTML is not."""
    text = re.sub(r":\w+:`~?([^`]*)`", r"`\1`", " ".join(text.split())).replace("``", "`")
    return re.sub(r"<(?=\w)", "&lt;", text).replace("|", "\\|")


def main() -> int:
    """Write the page; 0."""
    PAGE.write_text(page(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    raise SystemExit(main())
