"""Arithmetic in text: numbers, names, fields of names and a few functions; nothing else can be written in it."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hardware_profiles.errors import UserError, unknown_name

OPERATORS: Mapping[type[ast.operator], Callable[[float, float], float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Pow: operator.pow,
}
FUNCTIONS: Mapping[str, Callable[..., float]] = {
    "min": min,
    "max": max,
    "sum": lambda values: float(sum(values)),
    "ceil": math.ceil,
    "floor": math.floor,
    "sqrt": math.sqrt,
    "log2": math.log2,
}
LONGEST = 500
"""Characters of an expression; a claim that needs more is not a closed form."""


def evaluate(text: str, names: Mapping[str, Any], where: str) -> float:
    """The finite number that ``text`` is, such as ``seconds - components.all_reduce.seconds`` or ``max(a, b) / 2``.

    ``names`` are numbers, mappings (``a.b`` or ``a['b']``) and lists (``a[0]``). ``where`` is the place, for messages.
    """
    if len(text) > LONGEST:
        raise UserError(f"{where}: the expression has {len(text)} characters; at most {LONGEST} are read")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        raise UserError(f"{where}: '{text}' is not arithmetic; write for example 'seconds * 250'") from None
    try:
        value = _value(tree, names, where)
    except UserError:
        raise
    except (ArithmeticError, ValueError, TypeError) as error:
        raise UserError(f"{where}: '{text}' cannot be computed ({error}); correct the expression") from None
    if isinstance(value, bool):
        value = float(value)
    if not isinstance(value, int | float):
        what = "nothing (null)" if value is None else f"a {type(value).__name__}"
        raise UserError(f"{where}: '{text}' is {what}; name a field that is a number")
    if not math.isfinite(value):
        raise UserError(f"{where}: '{text}' is {value}; it must be a finite number")
    return float(value)


def _value(node: ast.expr, names: Mapping[str, Any], where: str) -> Any:
    if isinstance(node, ast.Constant) and isinstance(node.value, int | float | str):
        return node.value
    if isinstance(node, ast.Name):
        return _part(names, node.id, where)
    if isinstance(node, ast.Attribute):
        return _part(_value(node.value, names, where), node.attr, where)
    if isinstance(node, ast.Subscript):
        return _part(_value(node.value, names, where), _value(node.slice, names, where), where)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, names, where)
    if isinstance(node, ast.BinOp) and type(node.op) in OPERATORS:
        left, right = _value(node.left, names, where), _value(node.right, names, where)
        if isinstance(node.op, ast.Pow) and abs(right) > 64:
            raise UserError(f"{where}: the power {right} is too large; at most 64")
        return OPERATORS[type(node.op)](left, right)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and not node.keywords:
        if node.func.id not in FUNCTIONS:
            raise UserError(f"{where}: {unknown_name('function', node.func.id, FUNCTIONS)}")
        return FUNCTIONS[node.func.id](*(_value(item, names, where) for item in node.args))
    raise UserError(f"{where}: '{ast.unparse(node)}' is not arithmetic; use numbers, names, + - * / **, min, max")


def _part(whole: Any, key: Any, where: str) -> Any:
    if isinstance(whole, Mapping):
        if key not in whole:
            raise UserError(f"{where}: {unknown_name('field', str(key), map(str, whole))}")
        return whole[key]
    if isinstance(whole, Sequence) and not isinstance(whole, str) and isinstance(key, int):
        if not -len(whole) <= key < len(whole):
            raise UserError(f"{where}: item [{key}] of a list of {len(whole)}; count from 0")
        return whole[key]
    raise UserError(f"{where}: '{key}' of something that has no fields; shorten the path")
