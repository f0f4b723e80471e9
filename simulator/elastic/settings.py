"""When replicas start, stop, fail and come back."""

from __future__ import annotations

import math
from dataclasses import dataclass

from hardware_profiles.errors import UserError
from simulator.elastic.policies import parse_policy
from simulator.setting_checks import check_number

LONGEST_S = 1e12
"""Beyond it nothing comes in any run [s]."""
_OPTIONS = {"pd_ratio": "pd-ratio", "prefill_policy": "autoscale-prefill"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Elasticity:
    """Autoscaling and failures of a deployment whose plan has ``dp`` replicas at most."""

    policy: str | None = None
    """As :func:`parse_policy` reads it; None: all replicas all the time."""
    pd_ratio: float | str | None = None
    """Two pools: prefill replicas per decode replica, a number or ``"2:3"``, kept while ``policy`` scales the decode pool;
    None: the prefill pool does not follow."""
    prefill_policy: str | None = None
    """Two pools: of the prefill pool; None: it follows ``pd_ratio`` or is as large as it can be."""
    min_replicas: int = 1
    initial_replicas: int | None = None
    """Those that serve when the trace begins; None: ``min_replicas`` with a policy, else all."""
    interval_s: float = 15.0
    """Between two looks of the controller (Kubernetes' horizontal autoscaler: 15 s)."""
    startup_s: float = 120.0
    """From the decision to the first request; the devices are paid for meanwhile. The default is an assumption."""
    cooldown_s: float = 0.0
    """No fewer replicas are wanted for that long after a change of their number."""
    soft_stop_s: float = 0.0
    """A replica that is to stop is held for that long at least; until then it can serve again at once."""
    mtbf_s: float | None = None
    """Mean time between failures of one serving replica, exponential; None: none fails."""
    repair_s: float = 600.0
    """From a failure to the beginning of the start-up. The default is an assumption."""
    retry_s: float = 1.0
    """From a failure until its requests are sent again, from the beginning. The default is an assumption."""

    def check(self, most: int, *, pools: bool = False) -> None:
        """UserError for values that make no sense with at most ``most`` replicas (of the decode pool where there are two)."""
        if self.policy is not None:
            parse_policy(self.policy)
        for name in ("pd_ratio", "prefill_policy"):
            if getattr(self, name) is not None and not pools:
                raise UserError(
                    f"--{_OPTIONS[name]} is about two pools; add --disaggregate prefill=tp1,dp4 decode=tp1,dp4"
                )
        for name in ("min_replicas", "initial_replicas"):
            if getattr(self, name) is not None or name == "min_replicas":
                check_number(name, getattr(self, name), int, -math.inf)
        if not 1 <= self.min_replicas <= most:
            raise UserError(f"--min-replicas is {self.min_replicas}; it must be from 1 to --dp, {most}")
        first = self.initial_replicas
        if first is not None and not self.min_replicas <= first <= most:
            raise UserError(
                f"--initial-replicas is {first}; it must be from --min-replicas, {self.min_replicas}, to --dp, {most}"
            )
        for name, value, positive in (
            ("interval", self.interval_s, True),
            ("startup", self.startup_s, False),
            ("cooldown", self.cooldown_s, False),
            ("soft-stop", self.soft_stop_s, False),
            ("mtbf", self.mtbf_s, True),
            ("repair", self.repair_s, False),
            ("retry", self.retry_s, False),
        ):
            if value is None and name == "mtbf":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or value > LONGEST_S:
                raise UserError(f"--{name} is {value!r}; it must be a number of at most {LONGEST_S:g} seconds")
            if not (value > 0 or (value == 0 and not positive)):
                raise UserError(f"--{name} is {value}; it must be {'above' if positive else 'at least'} 0 seconds")

    def check_pools(self, prefill: int, decode: int) -> None:
        """The same for two pools of at most so many replicas."""
        self.check(decode, pools=True)
        if self.pd_ratio is None and self.prefill_policy is None:
            return
        if self.pd_ratio is not None and self.prefill_policy is not None:
            raise UserError("--pd-ratio and --autoscale-prefill both scale the prefill pool; drop one of them")
        if self.policy is None:
            raise UserError("--pd-ratio and --autoscale-prefill go with --autoscale POLICY for the decode pool; add it")
        if self.pd_ratio is not None:
            parse_ratio(self.pd_ratio)
        if self.prefill_policy is not None:
            parse_policy(self.prefill_policy)
            if self.prefill_policy.strip().startswith("tokens"):
                raise UserError(
                    f"--autoscale-prefill {self.prefill_policy}: a prefill pool makes one token per request; use "
                    "arrivals, outstanding or busy"
                )

    def prefill_count(self, decode: int, most: int) -> int:
        """Prefill replicas that go with so many decode replicas."""
        if self.pd_ratio is None:
            return most
        return max(1, min(most, math.ceil(decode * parse_ratio(self.pd_ratio) - 1e-3)))

    def initial_prefill(self, decode: int, most: int) -> int:
        """Prefill replicas that serve when the trace begins."""
        if self.policy is None or self.prefill_policy is None:
            return self.prefill_count(self.initial(decode), most)
        return min(most, self.initial_replicas or 1)

    def initial(self, most: int) -> int:
        """Replicas that serve when the trace begins."""
        if self.initial_replicas is not None:
            return self.initial_replicas
        return most if self.policy is None else self.min_replicas


def parse_ratio(ratio: float | str) -> float:
    """Prefill over decode replicas of ``"1:2"``, ``"0.5"`` or ``0.5``."""
    parts = ratio.split(":") if isinstance(ratio, str) else [ratio]
    try:
        prefill, decode = (float(part) for part in (parts if len(parts) == 2 else (ratio, 1)))
        value = prefill / decode
    except (TypeError, ValueError, ZeroDivisionError):
        value = 0.0
    if not 0 < value < float("inf"):
        raise UserError(f"--pd-ratio is {ratio!r}; write prefill:decode, for example 1:2")
    return value
