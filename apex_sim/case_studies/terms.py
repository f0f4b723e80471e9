"""Closed forms: an expression over named terms, each a number with its source or a field of a model or device."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from apex_sim.case_studies.formulas import evaluate
from hardware_profiles.errors import UserError
from hardware_profiles.records import from_mapping


@dataclass(frozen=True, slots=True, kw_only=True)
class Term:
    """One name of a formula: a value with its source, or a field of a bundled model or device."""

    value: float | None = None
    source: str | None = None
    model: str | None = None
    device: str | None = None
    field: str | None = None
    """Attribute of the model or device; dots lead into tables, as in dense_flop_per_s.bfloat16."""


def formula_names(settings: Mapping[str, Any]) -> None:
    """UserError unless the settings are an expression and well-formed terms."""
    for name in settings:
        if name not in ("expression", "terms"):
            raise UserError(f"unknown setting '{name}' of a formula; use expression and terms")
    if not isinstance(settings.get("expression"), str):
        raise UserError("expression is missing; write arithmetic over the terms, for example 'flop / peak'")
    _terms(settings)


def _terms(settings: Mapping[str, Any]) -> dict[str, Term]:
    given = settings.get("terms", {})
    if not isinstance(given, Mapping):
        raise UserError("terms must be 'name: {value: ..., source: ...}' lines")
    terms = {str(k): from_mapping(Term, v, where="terms", field=str(k)) for k, v in given.items()}
    for name, term in terms.items():
        if sum(part is not None for part in (term.value, term.model, term.device)) != 1:
            raise UserError(f"terms: {name} must have one of value, model, device")
        if term.value is not None and not term.source:
            raise UserError(f"terms: {name}.source is missing; say where {term.value:g} is from")
        if term.value is None and not term.field:
            raise UserError(f"terms: {name}.field is missing; name a field of the model or device")
    return terms


def formula(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """``value`` of the expression, and its terms."""
    values = {name: _value(name, term) for name, term in _terms(settings).items()}
    return {"value": evaluate(settings["expression"], values, "expression"), **values}


def _value(name: str, term: Term) -> float:
    from hardware_profiles.cluster import parse_cluster
    from workloads.catalog import load_model

    if term.value is not None:
        return term.value
    place, assert_field = f"terms.{name}", term.field or ""
    whole: Any = load_model(term.model) if term.model is not None else parse_cluster(f"{term.device}:1").device
    for part in assert_field.split("."):
        if isinstance(whole, Mapping) and part in whole:
            whole = whole[part]
        elif not part.startswith("_") and hasattr(whole, part):
            whole = getattr(whole, part)
        else:
            raise UserError(f"{place}: there is no field '{term.field}' of {term.model or term.device}")
    if callable(whole):
        whole = whole()
    if isinstance(whole, bool) or not isinstance(whole, int | float):
        raise UserError(f"{place}: '{term.field}' of {term.model or term.device} is no number")
    return float(whole)
