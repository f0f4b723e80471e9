"""The grammar of distributions and arrival processes: a number, ``name``, ``name(1, key=2)``, or the same as YAML."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from hardware_profiles.errors import UserError, unknown_name


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A parsed expression; all arguments still text."""

    what: str
    """What it describes, for messages: ``arrival process``, ``input_len`` ..."""
    text: str
    name: str
    args: tuple[str, ...] = ()
    kwargs: Mapping[str, str]

    def error(self, message: str) -> UserError:
        """The error (to raise) with this expression as its place."""
        return UserError(f"{self.what} '{self.text}': {message}")


SUCH_AS = "a number or a name such as lognormal(median=660, sigma=0.9)"
"""What to write for a length."""


def parse_call(value: object, what: str, such_as: str = SUCH_AS) -> Call:
    """``5``, ``"5"`` (a constant), ``"gamma(cv=2)"``, ``{gamma: {cv: 2}}``, ``{piecewise: [[0, 5], [600, 20]]}``."""
    if isinstance(value, Mapping):
        return _from_mapping(value, what)
    if isinstance(value, int | float) and not isinstance(value, bool):
        return Call(what=what, text=f"{value:g}", name="constant", args=(str(value),), kwargs={})
    if not isinstance(value, str):
        raise UserError(f"{what} is {value!r}; write {such_as}")
    return _from_text(value.strip(), what, such_as)


def bind(call: Call, names: Iterable[str], optional: Iterable[str] = ()) -> dict[str, str]:
    """Arguments by name: positional ones fill ``names`` in order; unknown, double and missing ones are errors."""
    required, allowed = list(names), [*names, *optional]
    if len(call.args) > len(required):
        raise call.error(f"{len(call.args)} values where {call.name} takes {len(required)} ({', '.join(required)})")
    bound = dict(zip(required, call.args, strict=False))
    for key, value in call.kwargs.items():
        if key not in allowed:
            raise call.error(str(unknown_name(f"parameter of {call.name}", key, allowed)))
        if key in bound:
            raise call.error(f"{key} is given twice")
        bound[key] = value
    missing = [name for name in required if name not in bound]
    if missing:
        raise call.error(f"{missing[0]} is missing; write {call.name}({', '.join(f'{n}=...' for n in required)})")
    return bound


def number(call: Call, key: str, text: str, *, positive: bool = False) -> float:
    """A finite number at least 0 (above 0 if ``positive``)."""
    try:
        value = float(text)
    except ValueError:
        raise call.error(f"{key} is '{text}'; it must be a number") from None
    if not math.isfinite(value) or value < 0 or (positive and value == 0):
        raise call.error(f"{key} is {text}; it must be {'above' if positive else 'at least'} 0")
    return value


def check_cv(call: Call, cv: float) -> None:
    """Coefficients of variation of gamma distributions that floating point can draw; 0 means no variation."""
    if cv != 0 and not 1e-3 <= cv <= 1e3:
        raise call.error(f"cv is {cv:g}; use 0, or a number from 0.001 to 1000")


def _from_text(text: str, what: str, such_as: str) -> Call:
    try:
        float(text)
    except ValueError:
        pass
    else:
        return Call(what=what, text=text, name="constant", args=(text,), kwargs={})
    match = re.fullmatch(r"([A-Za-z][\w-]*)\s*(?:\((.*)\))?", text, flags=re.DOTALL)
    if match is None:
        raise UserError(f"{what} is '{text}'; write {such_as}")
    args: list[str] = []
    kwargs: dict[str, str] = {}
    for item in _split(match[2] or ""):
        keyed = re.fullmatch(r"([A-Za-z_]\w*)\s*=\s*(.*)", item, flags=re.DOTALL)
        if keyed is None:
            args.append(_unquote(item))
        elif keyed[1] in kwargs:
            raise UserError(f"{what} '{text}': {keyed[1]} is given twice")
        else:
            kwargs[keyed[1]] = _unquote(keyed[2])
    return Call(what=what, text=text, name=match[1].lower(), args=tuple(args), kwargs=kwargs)


def _from_mapping(value: Mapping[object, object], what: str) -> Call:
    if len(value) != 1:
        raise UserError(f"{what} is {dict(value)!r}; write one name with its parameters, as in {{gamma: {{cv: 2}}}}")
    ((name, inner),) = value.items()
    text = f"{name}({inner})"
    if isinstance(inner, Mapping):
        kwargs = {str(k): _plain(v) for k, v in inner.items()}
        return Call(what=what, text=text, name=str(name).lower(), kwargs=kwargs)
    items = inner if isinstance(inner, list | tuple) else [inner]
    args = tuple(":".join(_plain(x) for x in i) if isinstance(i, list | tuple) else _plain(i) for i in items)
    return Call(what=what, text=text, name=str(name).lower(), args=args, kwargs={})


def _plain(value: object) -> str:
    return value if isinstance(value, str) else repr(value)


def _split(text: str) -> list[str]:
    """Split at commas outside quotes."""
    return [part.strip() for part in re.findall(r"""(?:"[^"]*"|'[^']*'|[^,"'])+""", text) if part.strip()]


def _unquote(text: str) -> str:
    return text[1:-1] if len(text) >= 2 and text[0] == text[-1] and text[0] in "\"'" else text
