"""MaxTput from the simulator: the highest Poisson rate of one size that one instance serves within the SLO."""

from __future__ import annotations

import hashlib
import json
import math
import os
import tempfile
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from hardware_profiles.errors import UserError
from simulator.deployment import Deployment
from simulator.simulate import simulate_deployment
from workloads.slo import Slo
from workloads.streams import stream
from workloads.trace import Trace

REQUESTS = 400
"""Sent per rate; the first quarter only fills the batch."""
WARM_UP = 0.25
TOLERANCE = 0.03
"""The bisection stops at a bracket this narrow."""
SLOWEST_PER_S = 1e-3
"""A size that misses the SLO at this rate is not served."""
FASTEST_PER_S = 4096.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Capacity:
    """Measures MaxTput of sizes on deployments, keeping what it measured in ``folder`` (None: nowhere)."""

    slo: Slo
    seed: int = 0
    folder: Path | None = None

    def max_tput(self, deployment: Deployment, input_tokens: int, output_tokens: int) -> float:
        """Highest rate [1/s]: at least the SLO's share of the requests after the warm-up is good, and no queue
        builds up. 0 when even single requests miss it. Rounded down by the bisection, never up."""
        file = (
            None if self.folder is None else self.folder / f"{self._key(deployment, input_tokens, output_tokens)}.json"
        )
        if file is not None and (known := _read(file)) is not None:
            return known
        tput = self._search(deployment, input_tokens, output_tokens)
        if file is not None:
            _write(file, tput)
        return tput

    def _search(self, deployment: Deployment, inputs: int, outputs: int) -> float:
        def meets(rate: float) -> bool:
            return self._meets(deployment, inputs, outputs, rate)

        if inputs + outputs > deployment.effective_max_model_len or not meets(SLOWEST_PER_S):
            return 0.0
        low, high = (1.0, 2.0) if meets(1.0) else (0.5, 1.0)
        if low == 1.0:
            while high < FASTEST_PER_S and meets(high):
                low, high = high, 2 * high
        else:
            while low > SLOWEST_PER_S and not meets(low):
                low, high = low / 2, low
        while high / low > 1 + TOLERANCE:
            middle = math.sqrt(low * high)
            low, high = (middle, high) if meets(middle) else (low, middle)
        return low

    def _meets(self, deployment: Deployment, inputs: int, outputs: int, rate: float) -> bool:
        result = simulate_deployment(deployment, self._probe(inputs, outputs, rate), slo=self.slo, seed=self.seed)
        if not result.completed.all() or result.load == "overloaded":
            return False
        return float(result.good[int(WARM_UP * REQUESTS) :].mean()) >= self.slo.attainment

    def _probe(self, inputs: int, outputs: int, rate: float) -> Trace:
        """Poisson arrivals of one size; the same gaps at every rate, so that the share of good ones falls with it."""
        gaps = stream(self.seed, "fleet probe").exponential(size=REQUESTS)
        return Trace(
            arrival_s=np.cumsum(gaps) / rate,
            input_tokens=np.full(REQUESTS, inputs, dtype=np.int64),
            output_tokens=np.full(REQUESTS, outputs, dtype=np.int64),
            name="probe",
        )

    def _key(self, deployment: Deployment, inputs: int, outputs: int) -> str:
        """A digest of everything that the rate depends on: model, devices, engine, settings, SLO, size, code version."""
        said = repr((_code(), REQUESTS, WARM_UP, TOLERANCE, deployment, str(self.slo), self.seed, inputs, outputs))
        return hashlib.sha256(said.encode()).hexdigest()[:32]


@cache
def _code() -> str:
    """A digest of the simulator's own files: other physics or mechanics, other throughputs."""
    import simulator

    digest = hashlib.sha256()
    root = Path(simulator.__file__).parent
    for file in sorted(root.rglob("*")):
        if file.suffix in (".py", ".yaml", ".csv") and file.is_file():
            digest.update(file.relative_to(root).as_posix().encode() + b"\0" + file.read_bytes())
    return digest.hexdigest()


def _read(file: Path) -> float | None:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))["max_tput_per_s"]
        return float(value)
    except (OSError, ValueError, KeyError, TypeError):
        return None  # absent or damaged: measured again


def _write(file: Path, tput: float) -> None:
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=file.parent, prefix=".tput.")
        with os.fdopen(handle, "w", encoding="utf-8") as out:
            json.dump({"max_tput_per_s": tput}, out)
        Path(name).replace(file)
    except OSError as error:
        raise UserError(
            f"--cache {file.parent}: cannot write there: {error.strerror}; name another folder, or --no-cache"
        ) from None
