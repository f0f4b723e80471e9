"""Conditions and constraints of a sweep: comparisons over settings or results, and nothing else."""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from apex_sim.case_studies.formulas import FUNCTIONS as ARITHMETIC
from apex_sim.case_studies.formulas import OPERATORS as BINARY
from hardware_profiles.errors import UserError, unknown_name

OPERATORS: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {**BINARY, ast.Mod: operator.mod}
COMPARISONS: Mapping[type[ast.cmpop], Callable[[Any, Any], bool]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.In: lambda item, items: item in items,
    ast.NotIn: lambda item, items: item not in items,
    ast.Is: operator.is_,
    ast.IsNot: operator.is_not,
}
LONGEST = 500
"""Characters of an expression."""


def _devices(cluster: Any) -> int:
    """Devices of a cluster by name."""
    from hardware_profiles.cluster import parse_cluster

    return parse_cluster(str(cluster), check_terms=False).num_devices


FUNCTIONS: Mapping[str, Callable[..., Any]] = {**ARITHMETIC, "abs": abs, "len": len, "devices": _devices}


@dataclass(frozen=True, slots=True)
class Expression:
    """A condition such as ``tp * pp * dp == 8`` with the names it reads."""

    text: str
    tree: ast.expr
    names: frozenset[str]
    where: str

    def value(self, settings: Mapping[str, Any]) -> Any:
        """Its value; ``settings`` has all its names."""
        try:
            return _value(self.tree, settings, self)
        except UserError as error:
            raise UserError(f"{self.where}: {error}") from None
        except (ArithmeticError, ValueError, TypeError) as error:
            empty = [name for name in sorted(self.names) if _setting(name, settings) is None]
            hint = f"; {empty[0]} is not set, write '{empty[0]} is None or ...'" if empty else ""
            raise UserError(f"{self.where}: '{self.text}' cannot be computed ({error}){hint}") from None

    def holds(self, settings: Mapping[str, Any]) -> bool:
        """Whether it is true."""
        return bool(self.value(settings))


def parse(text: object, where: str, known: Callable[[str], bool] | None = None) -> Expression:
    """Read a condition; ``known`` says which names there are."""
    if isinstance(text, bool):
        text = str(text)
    if not isinstance(text, str) or len(text) > LONGEST:
        raise UserError(f"{where}: {text!r} is no condition; write for example 'tp * pp * dp == 8'")
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError):
        hint = "; equality is written ==" if "=" in text and "==" not in text else ""
        raise UserError(f"{where}: '{text}' is no condition; write for example 'tp * pp * dp == 8'{hint}") from None
    names: set[str] = set()
    _names(tree, names, where)
    for name in sorted(names):
        if known is not None and not known(name):
            raise UserError(f"{where}: '{text}' names {name!r}, which is no setting; correct it")
    return Expression(text.strip(), tree, frozenset(names), where)


def _names(node: ast.AST, names: set[str], where: str) -> None:
    """Collect names; refuse what no condition needs."""
    if isinstance(node, ast.Name | ast.Attribute):
        names.add(_dotted(node, where))
        return
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name) or node.keywords:
            raise UserError(f"{where}: '{ast.unparse(node)}' is no condition; functions are {', '.join(FUNCTIONS)}")
        if node.func.id not in FUNCTIONS:
            raise UserError(f"{where}: {unknown_name('function', node.func.id, FUNCTIONS)}")
        for item in node.args:
            _names(item, names, where)
        return
    allowed = (ast.BoolOp, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Constant, ast.List, ast.Tuple, ast.IfExp)
    if isinstance(node, ast.expr) and not isinstance(node, allowed):
        raise UserError(
            f"{where}: '{ast.unparse(node)}' is no condition; use names, numbers, texts, == < > + - * / and or"
        )
    for child in ast.iter_child_nodes(node):
        _names(child, names, where)


def _dotted(node: ast.expr, where: str) -> str:
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{_dotted(node.value, where)}.{node.attr}"
    raise UserError(f"{where}: '{ast.unparse(node)}' is no name")


def _value(node: ast.expr, settings: Mapping[str, Any], whole: Expression) -> Any:
    def of(item: ast.expr) -> Any:
        return _value(item, settings, whole)

    match node:
        case ast.Constant(value=value):
            return value
        case ast.Name() | ast.Attribute():
            return _setting(_dotted(node, whole.where), settings)
        case ast.List(elts=items) | ast.Tuple(elts=items):
            return [of(item) for item in items]
        case ast.UnaryOp(op=ast.Not(), operand=operand):
            return not of(operand)
        case ast.UnaryOp(op=ast.USub(), operand=operand):
            return -of(operand)
        case ast.BoolOp(op=ast.And(), values=values):
            return all(of(item) for item in values)
        case ast.BoolOp(op=ast.Or(), values=values):
            return any(of(item) for item in values)
        case ast.IfExp(test=test, body=body, orelse=orelse):
            return of(body) if of(test) else of(orelse)
        case ast.BinOp(left=left, op=op, right=right) if type(op) in OPERATORS:
            a, b = of(left), of(right)
            if isinstance(op, ast.Pow) and abs(b) > 64:
                raise UserError(f"the power {b} is too large; at most 64")
            return OPERATORS[type(op)](a, b)
        case ast.Compare(left=left, ops=ops, comparators=rights):
            return _compare(
                of(left), [(COMPARISONS[type(op)], of(right)) for op, right in zip(ops, rights, strict=True)]
            )
        case ast.Call(func=ast.Name(id=name), args=items):
            return FUNCTIONS[name](*(of(item) for item in items))
    raise UserError(f"'{ast.unparse(node)}' is no condition")


def _setting(name: str, settings: Mapping[str, Any]) -> Any:
    """Its value; ``elasticity.startup_s`` is a setting of its own or a part of the mapping ``elasticity``."""
    if name in settings:
        return settings[name]
    whole, dot, part = name.rpartition(".")
    inner = _setting(whole, settings) if dot else None
    return inner.get(part) if isinstance(inner, Mapping) else None


def _compare(left: Any, steps: list[tuple[Callable[[Any, Any], bool], Any]]) -> bool:
    for compare, right in steps:
        if not compare(left, right):
            return False
        left = right
    return True
