"""Rules of the row's power manager, as values: POLCA and the policies it is compared with."""

from __future__ import annotations

from dataclasses import dataclass

from planners.oversubscribe.services import Priority

LOW_T1_SHARE = 1275 / 1410
LOW_T2_SHARE = 1110 / 1410
HIGH_T2_SHARE = 1305 / 1410
BRAKE_SHARE = 288 / 1410
"""Clocks of POLCA's steps on A100 (ASPLOS 2024; the brake's from the preprint, arXiv 2308.12908), as shares of the largest.
1275 MHz is the A100's base clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Above ``threshold`` of the budget, lock the priority's devices; release ``hysteresis`` below it."""

    threshold: float
    priority: Priority
    clock_share: float
    last: bool = False
    """Only when a reading exceeds the threshold although all rules before this one are in force."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """Rules in their order, and the delays of the plant. Shares are of the row's budget."""

    name: str
    rules: tuple[Rule, ...]
    hysteresis: float = 0.05
    brake_threshold: float = 1.0
    telemetry_period_s: int = 2
    """Between readings of the row's power, each the mean over it (assumption: the shortest window POLCA reports)."""
    telemetry_delay_s: int = 2
    """From the end of a reading to the manager (assumption)."""
    command_s: int = 40
    """Out-of-band clock lock, from command to effect (POLCA)."""
    brake_s: int = 5
    """The same for the power brake (POLCA)."""

    def clock_shares(self, priority: Priority) -> tuple[float, ...]:
        """Clocks the policy may lock a priority to, largest first."""
        return tuple(sorted({1.0, *(r.clock_share for r in self.rules if r.priority == priority)}, reverse=True))


def polca(t1: float = 0.80, t2: float = 0.89, **plant: float) -> Policy:
    """Two thresholds, low priority first (POLCA's Algorithm 1)."""
    rules = (
        Rule(threshold=t1, priority="low", clock_share=LOW_T1_SHARE),
        Rule(threshold=t2, priority="low", clock_share=LOW_T2_SHARE),
        Rule(threshold=t2, priority="high", clock_share=HIGH_T2_SHARE, last=True),
    )
    return Policy(name="polca", rules=rules, **plant)  # type: ignore[arg-type]


def baselines(t2: float = 0.89, **plant: float) -> tuple[Policy, ...]:
    """What POLCA is compared with: nothing but the brake, one threshold for low priority, one for all."""
    low = Rule(threshold=t2, priority="low", clock_share=LOW_T2_SHARE)
    high = Rule(threshold=t2, priority="high", clock_share=LOW_T2_SHARE)
    return (
        Policy(name="no-cap", rules=(), **plant),  # type: ignore[arg-type]
        Policy(name="1-thresh-low-pri", rules=(low,), **plant),  # type: ignore[arg-type]
        Policy(name="1-thresh-all", rules=(low, high), **plant),  # type: ignore[arg-type]
    )
