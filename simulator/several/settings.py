"""How models that share devices take turns, and how requests go from one model to another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from hardware_profiles.errors import UserError, unknown_name

Policy = Literal["run-to-empty", "round-robin", "deadline"]
"""run-to-empty: a model runs until it has no request left, then the one whose request waits longest. round-robin: after
``residence_s`` the next one that has requests. deadline: after ``residence_s`` the one with the earliest deadline."""
OnSwitch = Literal["drain", "suspend"]
"""drain: what runs is finished first, and the running model has all of the KV memory. suspend: it stops after the step at
hand and goes on later; its KV stays, so that every model has its share of the KV memory."""
Carry = Literal["prompt", "prompt+answer"]
HOST_DRAM = "dram"
LONGEST_S = 1e9
"""Longest time that is simulated [s]."""
SLOWEST = 1000
"""Of a load [B/s]: below it the unit is wrong."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Switch:
    """Turns of the models of one group of devices."""

    policy: Policy = "run-to-empty"
    resident: int = 1
    """Models whose weights are in device memory at a time; the one that ran longest ago leaves first."""
    residence_s: float = 0.0
    """Least time between two switches while the running model has requests [s]."""
    on_switch: OnSwitch = "drain"
    load_from: str = HOST_DRAM
    """Where the weights of the others are: host DRAM, or the profile of a drive of each node."""
    load_bytes_per_s: float | None = None
    """Bandwidth per device from a memory that no profile describes [B/s] (a node's DDR); replaces ``load_from``."""

    def __post_init__(self) -> None:
        for name, choices in (("policy", Policy), ("on_switch", OnSwitch)):
            if getattr(self, name) not in get_args(choices):
                raise unknown_name(f"switch.{name}", str(getattr(self, name)), get_args(choices))
        if self.resident < 1:
            raise UserError(f"switch.resident is {self.resident}; at least the model that runs is in memory: 1 or more")
        if not 0 <= self.residence_s <= LONGEST_S:
            raise UserError(
                f"switch.residence_s is {self.residence_s:g}; it must be at least 0 and at most {LONGEST_S:g} seconds"
            )
        if self.load_bytes_per_s is not None and not self.load_bytes_per_s >= SLOWEST:
            raise UserError(
                f"switch.load_bytes_per_s is {self.load_bytes_per_s:g}; it must be at least {SLOWEST:,} bytes per second"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Cascade:
    """A first model answers every request; a share goes on to a second one."""

    first: str
    then: str
    escalate: float
    """Probability that a request goes on, drawn per request from the seed."""
    carry: Carry = "prompt"
    """What the second model is asked: the prompt again, or the prompt and the first answer."""

    def __post_init__(self) -> None:
        if not 0 <= self.escalate <= 1:
            raise UserError(f"cascade.escalate is {self.escalate:g}; it is a share of the requests from 0 to 1")
        if self.carry not in get_args(Carry):
            raise unknown_name("cascade.carry", str(self.carry), get_args(Carry))
        if self.first == self.then:
            raise UserError(f"cascade: first and then are both '{self.first}'; name two models")
