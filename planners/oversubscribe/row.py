"""A row of servers over a day: who does what in each second, and what the row draws at each clock."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from planners.oversubscribe.ilp import Option
from planners.oversubscribe.library import LEVELS, TRACE_S, Library
from planners.oversubscribe.services import PRIORITIES, Priority, Service, allot

Floats = npt.NDArray[np.float64]
DAY_S = 86_400
_LOAD_STREAM, _SERVER_STREAM = 0, 1


@dataclass(frozen=True, slots=True, kw_only=True)
class LoadShape:
    """Load of every server as a share of its peak: a day's cosine, and bursts that all servers see at once.

    valley: load at night (the cosine of the ``diurnal`` arrival process: valley at 0 h, peak at 12 h). A burst adds up to
    ``burst`` (uniform) to the load for an exponential time of mean ``burst_s``; ``bursts_per_day`` on average.
    """

    valley: float = 0.5
    burst: float = 0.2
    burst_s: float = 180.0
    bursts_per_day: float = 48.0


def load_of(shape: LoadShape, seconds: int, seed: int) -> Floats:
    """Load in each second, at most the largest level that was simulated."""
    time = np.arange(seconds, dtype=float)
    load = shape.valley + (1 - shape.valley) * 0.5 * (1 - np.cos(2 * np.pi * time / DAY_S))
    rng = np.random.default_rng([seed, _LOAD_STREAM])
    for begin in np.sort(rng.uniform(0, seconds, rng.poisson(shape.bursts_per_day * seconds / DAY_S))):
        length = max(1, round(rng.exponential(shape.burst_s)))
        load[int(begin) : int(begin) + length] += shape.burst * rng.uniform()
    return np.clip(load, 0.0, LEVELS[-1])


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row without control: what it would draw at each pair of clocks."""

    counts: tuple[int, ...]
    """Servers per service."""
    power_w: dict[tuple[Priority, float], Floats]
    """(priority, MHz) -> power of all its servers in each second [W]."""
    at_level: tuple[npt.NDArray[np.int16], ...]
    """Per service, int16[level, second]: servers at each level."""
    rack_w: dict[tuple[Priority, float], Floats] = field(default_factory=dict)
    """As ``power_w``, float64[rack, second]; empty for a row without racks."""

    @property
    def seconds(self) -> int:
        """Length of the run [s]."""
        return int(self.at_level[0].shape[1])

    def uncapped_w(self, max_mhz: float) -> Floats:
        """The row at the largest clock [W]."""
        total: Floats = sum((self.power_w[priority, max_mhz] for priority in PRIORITIES), np.zeros(self.seconds))
        return total

    def uncapped_rack_w(self, max_mhz: float) -> Floats:
        """Its racks at the largest clock [W], float64[rack, second]."""
        high, low = (self.rack_w[priority, max_mhz] for priority in PRIORITIES)
        return high + low


def _paths(load: Floats, seed: int, service: int, server: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """(level, second of the run) that a server plays in each second.

    Every TRACE_S seconds, each server at its own time, it draws a new offset and a new dither u;
    level = floor(load / spacing + u), so that the mean over servers is the load. Streams are per server: a longer row
    begins with the servers of a shorter one.
    """
    rng = np.random.default_rng([seed, _SERVER_STREAM, service, server])
    seconds = len(load)
    block = (np.arange(seconds) + rng.integers(TRACE_S)) // TRACE_S
    draws = rng.uniform(size=(int(block[-1]) + 1, 2))[block]
    dither, offset = draws[:, 0], (draws[:, 1] * TRACE_S).astype(np.int64)
    spacing = LEVELS[1] - LEVELS[0]
    level = np.clip(np.floor(load / spacing + dither + 1e-12), 0, len(LEVELS) - 1).astype(np.int64)
    return level, (np.arange(seconds) + offset) % TRACE_S


def build_row(
    library: Library,
    services: tuple[Service, ...],
    num_servers: int,
    load: Floats,
    clocks_mhz: dict[Priority, tuple[float, ...]],
    seed: int,
    racks: int = 1,
) -> Row:
    """Power of every priority at every clock, second by second. Servers go to the racks in turn, service after service."""
    counts, seconds = allot(num_servers, services), len(load)
    power = {(p, mhz): np.zeros(seconds) for p in PRIORITIES for mhz in clocks_mhz[p]}
    rack_w = {key: np.zeros((racks, seconds)) for key in power} if racks > 1 else {}
    at_level, placed = [], 0
    for index, (service, count) in enumerate(zip(services, counts, strict=True)):
        clocks = clocks_mhz[service.priority]
        tables = [np.stack([library.entry(service, f, k).power_w for k in range(len(LEVELS))]) for f in clocks]
        levels = np.zeros((len(LEVELS), seconds), dtype=np.int16)
        for server in range(count):
            level, second = _paths(load, seed, index, server)
            levels[level, np.arange(seconds)] += 1
            for mhz, table in zip(clocks, tables, strict=True):
                watts = table[level, second]
                power[service.priority, mhz] += watts
                if rack_w:
                    rack_w[service.priority, mhz][placed % racks] += watts
            placed += 1
        at_level.append(levels)
    return Row(counts=counts, power_w=power, at_level=tuple(at_level), rack_w=rack_w)


def largest_rise_w(power_w: Floats, window_s: int, period_s: int = 2) -> float:
    """Largest rise from any reading (mean over ``period_s``) to one at most ``window_s`` later [W]."""
    read = readings(power_w, period_s)
    lags = range(1, min(window_s // period_s, len(read) - 1) + 1)
    return max((float((read[lag:] - read[:-lag]).max()) for lag in lags), default=0.0)


def readings(power_w: Floats, period_s: int) -> Floats:
    """Means over consecutive periods of the last axis [W]; a part of a period at the end is left out."""
    whole = power_w.shape[-1] // period_s * period_s
    means: Floats = power_w[..., :whole].reshape(*power_w.shape[:-1], -1, period_s).mean(axis=-1)
    return means


def planned_w(
    library: Library,
    services: tuple[Service, ...],
    options: tuple[tuple[Option, ...], ...],
    rack_counts: tuple[tuple[dict[str, int], ...], ...],
    load: Floats,
    seed: int,
) -> Floats:
    """Power of the racks of a row whose servers keep their settings [W], float64[rack, second].

    ``options``: per service; ``rack_counts``: [rack][service], option's name -> servers.
    """
    total = np.zeros((len(rack_counts), len(load)))
    for index, (service, known) in enumerate(zip(services, options, strict=True)):
        tables = {
            o.name: np.stack([library.entry_of(service, o, k).power_w for k in range(len(LEVELS))]) for o in known
        }
        server = 0
        for rack, counts in enumerate(rack_counts):
            for name, count in counts[index].items():
                for _ in range(count):
                    total[rack] += tables[name][_paths(load, seed, index, server)]
                    server += 1
    return total
