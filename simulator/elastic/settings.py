"""When replicas start, stop, fail and come back."""

from __future__ import annotations

from dataclasses import dataclass

from hardware_profiles.errors import UserError
from simulator.elastic.policies import parse_policy


@dataclass(frozen=True, slots=True, kw_only=True)
class Elasticity:
    """Autoscaling and failures of a deployment whose plan has ``dp`` replicas at most."""

    policy: str | None = None
    """As :func:`parse_policy` reads it; None: all replicas all the time."""
    min_replicas: int = 1
    initial_replicas: int | None = None
    """Those that serve when the trace begins; None: ``min_replicas`` with a policy, else all."""
    interval_s: float = 15.0
    """Between two looks of the controller (Kubernetes' horizontal autoscaler: 15 s)."""
    startup_s: float = 120.0
    """From the decision to the first request; the devices are paid for meanwhile. The default is an assumption."""
    mtbf_s: float | None = None
    """Mean time between failures of one serving replica, exponential; None: none fails."""
    repair_s: float = 600.0
    """From a failure to the beginning of the start-up. The default is an assumption."""
    retry_s: float = 1.0
    """From a failure until its requests are sent again, from the beginning. The default is an assumption."""

    def check(self, most: int) -> None:
        """UserError for values that make no sense with at most ``most`` replicas."""
        if self.policy is not None:
            parse_policy(self.policy)
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
            ("mtbf", self.mtbf_s, True),
            ("repair", self.repair_s, False),
            ("retry", self.retry_s, False),
        ):
            if (value is not None and not (value > 0 or (value == 0 and not positive))) or value == float("inf"):
                raise UserError(f"--{name} is {value}; it must be {'above' if positive else 'at least'} 0 seconds")

    def initial(self, most: int) -> int:
        """Replicas that serve when the trace begins."""
        if self.initial_replicas is not None:
            return self.initial_replicas
        return most if self.policy is None else self.min_replicas
