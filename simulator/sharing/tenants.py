"""Who else uses the devices and hosts of a deployment, and when: a setting, a file, or values."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hardware_profiles.errors import UserError, unknown_name
from hardware_profiles.records import from_mapping, read_yaml, unknown_field
from simulator.physics.tenants import ALONE, Factors
from workloads.slo import parse_seconds

FLAG = "--interference"
RESOURCES = tuple(field.name for field in dataclasses.fields(Factors))
EXAMPLE = "write compute=1.2,memory=1.5 (times as slow), with on=20s,off=60s for bursts, or give a YAML file"


@dataclass(frozen=True, slots=True, kw_only=True)
class Tenant:
    """One co-tenant of some replicas' devices and hosts: how much slower work is while it is active."""

    compute: float = 1.0
    memory: float = 1.0
    host_link: float = 1.0
    host_cpu: float = 1.0
    on_s: float | None = None
    """Mean length of its bursts, exponential, drawn from the run's seed; None: it is active all the time."""
    off_s: float | None = None
    """Mean time between bursts."""
    from_s: float = 0.0
    """When it comes, seconds since the start of the trace."""
    until_s: float | None = None
    """When it goes; None: it stays."""
    replicas: tuple[int, ...] | None = None
    """Whose devices it shares; None: those of all, each with bursts of its own."""

    @property
    def factors(self) -> Factors:
        """While it is active."""
        return Factors(**{name: getattr(self, name) for name in RESOURCES})

    @property
    def constant(self) -> bool:
        """Active everywhere all the time."""
        return self.on_s is None and self.from_s == 0 and self.until_s is None and self.replicas is None


@dataclass(frozen=True, slots=True, kw_only=True)
class Interference:
    """All co-tenants; the factors of those active at once multiply."""

    tenants: tuple[Tenant, ...]

    @property
    def constant(self) -> Factors:
        """Of those that are always there."""
        found = ALONE
        for tenant in self.tenants:
            if tenant.constant:
                found = found.times(tenant.factors)
        return found

    @property
    def varying(self) -> tuple[Tenant, ...]:
        """Those that come and go, or are not everywhere."""
        return tuple(tenant for tenant in self.tenants if not tenant.constant)


def parse_interference(value: object) -> Interference:
    """Of ``memory=1.5,on=20s,off=60s``, of a YAML file with ``tenants:``, of the file's content as a mapping, or values.

    Raises UserError for anything that makes no sense.
    """
    if isinstance(value, Interference):
        found = value
    elif isinstance(value, Mapping):
        found = _from_mapping(value, "interference")
    elif isinstance(value, Path) or (isinstance(value, str) and value.strip().lower().endswith((".yaml", ".yml"))):
        path = Path(str(value).strip())
        found = _from_mapping(read_yaml(path), path.name)
    elif isinstance(value, str):
        found = Interference(tenants=(_from_text(value),))
    else:
        raise UserError(f"{FLAG} is {value!r}; {EXAMPLE}")
    if not found.tenants:
        raise UserError(f"{FLAG} names no co-tenants; {EXAMPLE}")
    for tenant in found.tenants:
        _check(tenant)
    return found


def _from_mapping(content: Mapping[str, Any], where: str) -> Interference:
    """``tenants:`` with a list of fields of :class:`Tenant`."""
    for name in content:
        if name != "tenants":
            raise unknown_field(str(name), ["tenants"], where=where)
    listed = content.get("tenants", [])
    if not isinstance(listed, list | tuple) or not all(isinstance(entry, Mapping) for entry in listed):
        raise UserError(f"{where}: tenants is no list of mappings; write - {{memory: 1.5, from_s: 10, until_s: 40}}")
    return Interference(tenants=tuple(_tenant(entry, where, f"tenants[{i}]") for i, entry in enumerate(listed)))


def _tenant(entry: Mapping[str, Any], where: str, field: str) -> Tenant:
    values = dict(entry)
    replicas = values.pop("replicas", None)
    tenant = from_mapping(Tenant, values, where=where, field=field)
    if replicas is None:
        return tenant
    if not isinstance(replicas, list | tuple) or not all(type(number) is int for number in replicas):
        raise UserError(f"{where}: {field}.replicas is {replicas!r}; write a list of numbers, the first replica is 0")
    return dataclasses.replace(tenant, replicas=tuple(replicas))


def _from_text(text: str) -> Tenant:
    values: dict[str, Any] = {}
    for term in filter(None, (part.strip() for part in text.split(","))):
        key, sign, value = (part.strip() for part in term.partition("="))
        name = key.replace("-", "_")
        name = f"{name}_s" if name in ("on", "off", "from", "until") else name
        if not sign or name in ("replicas", *values) or name not in Tenant.__dataclass_fields__:
            known = [*(r.replace("_", "-") for r in RESOURCES), "on", "off", "from", "until"]
            if sign and name not in values:
                raise unknown_name(f"resource of {FLAG}", key, known)
            raise UserError(f"{FLAG} is {text!r}: {term!r} is not NAME=VALUE, or given twice; {EXAMPLE}")
        values[name] = _number(key, value) if name in RESOURCES else _seconds(key, value)
    return Tenant(**values)


def _number(key: str, text: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise UserError(f"{FLAG}: {key} is {text!r}; it must be a number of at least 1, such as 1.5") from None


def _seconds(key: str, text: str) -> float:
    return 0.0 if text in ("0", "0s") else parse_seconds(text, f"{FLAG}: {key}")


def _check(tenant: Tenant) -> None:
    for name in RESOURCES:
        value = getattr(tenant, name)
        if not (math.isfinite(value) and 1 <= value <= 1e6):
            raise UserError(
                f"{FLAG}: {name.replace('_', '-')} is {value:g}; it says how many times as slow work is: 1 or more"
            )
    if tenant.factors == ALONE:
        raise UserError(f"{FLAG}: a co-tenant slows nothing down; {EXAMPLE}")
    if (tenant.on_s is None) != (tenant.off_s is None):
        raise UserError(f"{FLAG}: bursts need both on and off; {EXAMPLE}")
    for name, seconds in (("on", tenant.on_s), ("off", tenant.off_s)):
        if seconds is not None and not (math.isfinite(seconds) and seconds >= 1e-6):
            raise UserError(f"{FLAG}: {name} is {seconds:g} s; it must be a microsecond or more")
    if not (math.isfinite(tenant.from_s) and tenant.from_s >= 0):
        raise UserError(f"{FLAG}: from is {tenant.from_s:g} s; it must be at least 0")
    if tenant.until_s is not None and not (math.isfinite(tenant.until_s) and tenant.until_s > tenant.from_s):
        raise UserError(f"{FLAG}: until is {tenant.until_s:g} s; it must be after from, {tenant.from_s:g} s")
    if tenant.replicas is not None and (not tenant.replicas or min(tenant.replicas) < 0):
        raise UserError(f"{FLAG}: replicas is {list(tenant.replicas)}; give their numbers, the first is 0")
