"""What a deployment runs out of under load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from simulator.result import SimulationResult

FULL = 0.95
"""Share of the KV blocks above which no request of ordinary size finds room."""
TAKEN = 0.9
"""Share of the places above which the batch is full: places that have come free are filled over a few steps."""
BUSY = 0.9
"""Share of the time with a step in flight above which the devices may be the limit. One request keeps them as busy: they
are the limit where requests also pile up."""
PILE = 0.1
"""Share of the requests of the second half of the arrivals by which those in the system grow where they pile up; an
assumption, as is the noise allowed beside it, three standard deviations of a Poisson count."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limit:
    """What a deployment runs out of first, under a load that it cannot serve."""

    resource: str
    """``seats`` (places in the batch), ``memory`` (KV blocks), ``time`` (of the devices: requests pile up although both
    have room), or ``none``: not reached."""
    why: str
    """One sentence."""

    @property
    def reached(self) -> bool:
        """Whether anything runs out."""
        return self.resource != "none"


def seats_of(result: SimulationResult) -> int:
    """Places in a replica's batch."""
    return int(result.deployment.engine.max_num_seqs)


def limit_of(result: SimulationResult) -> Limit:
    """What keeps a run from serving faster: read from its samples, and from the physics of its mean step."""
    rows = result.timeline
    held_s = -rows.groupby("replica")["time_s"].diff(-1).fillna(0.0).to_numpy()  # a sample holds until the next one
    queued_s = held_s * (rows["waiting"] > 0).to_numpy()
    waited_s, seats = float(queued_s.sum()), seats_of(result)
    if waited_s and float(queued_s[rows["running"] >= TAKEN * seats].sum()) > 0.5 * waited_s:
        return Limit(resource="seats", why=f"all {seats} places of max_num_seqs are taken")
    full_s = float(queued_s[rows["kv_usage"] >= FULL].sum())
    if full_s > 0.5 * waited_s or result.summary["num_preemptions"] > 0:
        return Limit(resource="memory", why="the KV cache is full: a request waits for another's blocks")
    steps = f"steps are in flight {100 * float(result.utilisation):.0f} % of the time ({bound_words(result)})"
    if (float(result.utilisation) >= BUSY or waited_s > 0.5 * float(held_s.sum())) and piles_up(result):
        return Limit(resource="time", why=f"requests come faster than the devices serve them: {steps}")
    return Limit(resource="none", why=f"nothing runs out: {steps}, at most {_room(result)}")


def piles_up(result: SimulationResult) -> bool:
    """Whether the requests in the system keep growing in number while requests arrive."""
    sent_s, done_s = result.column("arrival_s"), result.column("finish_s")
    last_s = float(np.nanmax(sent_s))
    middle_s = float(np.nanmedian(sent_s))
    sent = int((sent_s > middle_s).sum())
    growth = sent - int(((done_s > middle_s) & (done_s <= last_s)).sum())
    return growth > PILE * sent + 3 * float(np.sqrt(sent))


def _room(result: SimulationResult) -> str:
    """How full batch and KV cache are at most."""
    s = result.summary
    return f"{s['peak_running']:,} of {seats_of(result):,} places and {100 * s['peak_kv_usage']:.0f} % of the KV blocks"


def bound_words(result: SimulationResult) -> str:
    """Where the time of the run's mean step goes, by what bounds it."""
    shares = bound_shares(result)
    words = {
        "compute": "arithmetic",
        "memory": "memory traffic",
        "link": "links",
        "latency": "launches",
        "host": "the host",
    }
    first = sorted(shares, key=lambda name: -shares[name])[:2]
    return " and ".join(f"{100 * shares[name]:.0f} % {words.get(name, name)}" for name in first)


def bound_shares(result: SimulationResult) -> dict[str, float]:
    """Share of the mean step's time by what bounds it."""
    from apex_sim.frames import explain_step

    frame = explain_step(result.deployment, **mean_step(result))
    return {str(bound): float(share) for bound, share in frame.groupby("bound")["share"].sum().items()}


def mean_step(result: SimulationResult) -> dict[str, int]:
    """Mean batch, mean context, and a step's part of the prompts."""
    trace, steps = result.trace, max(1, int(result.summary["engine_steps"]))
    prompts, outputs = float(trace.input_tokens.sum()), float(trace.output_tokens.sum())
    return {
        "decode_seqs": max(1, round(outputs / steps)),
        "context_tokens": round((prompts + outputs / 2) / len(trace)),
        "prefill_tokens": round(prompts / steps),
    }
