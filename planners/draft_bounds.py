"""What drafts leave to do at least: steps of every request, and their cost.

Which drafts are accepted belongs to (seed, request, token), not to a schedule (simulator.speculative.acceptance), so the steps
of a request are known before any simulation. A preempted request starts its next step elsewhere, which never
makes the steps fewer: steps cut its tokens into pieces that end with a bad draft or are full, and no cut makes a greedy
cutting shorter.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from planners.demand import Demand, WorkloadStats
from simulator.physics.shape import StepShape
from simulator.speculative.acceptance import Draws
from simulator.speculative.config import SpeculativeConfig
from simulator.speculative.setup import max_seqs
from simulator.speculative.step_model import SpeculativeStepModel
from workloads.trace import FloatArray, IntArray

if TYPE_CHECKING:
    from simulator.deployment import Deployment

MOST_TOKENS = 20_000_000
"""Output tokens up to which drafts are drawn for the bounds; beyond, all count as accepted."""


@dataclass(frozen=True, slots=True)
class Freedom:
    """What a bound leaves open: it then holds whatever is chosen."""

    drafts: int = 0
    """Drafts of up to so many tokens in a row, or none; without them as the deployment says."""
    prefixes: bool = False
    """Prefixes may be shared."""


FIXED = Freedom()


def with_drafts(demand: Demand, deployment: Deployment, stats: WorkloadStats, freedom: Freedom = FIXED) -> Demand:
    """The demand in steps of each sequence rather than tokens; as it is without drafts.

    Of drafts left open all are accepted, at no cost but that of the tokens that come out.
    """
    config = deployment.speculative
    if freedom.drafts:
        most = 1 + freedom.drafts
        return _in_steps(demand, demand.decode_tokens / most, most)
    if config is None:
        return demand
    return _in_steps(demand, steps_of(config, demand, stats), config.queries)


def steps_of(config: SpeculativeConfig, demand: Demand, stats: WorkloadStats) -> FloatArray:
    """float64[served]: steps after the first token; where acceptance differs by place those with all drafts accepted."""
    places = config.num_speculative_tokens
    left = demand.decode_tokens.astype(np.int64)
    if len(set(config.rates)) > 1 or left.sum() > MOST_TOKENS:
        return demand.decode_tokens / (places + 1)
    key = (config.rates, left.tobytes())
    if key not in stats.steps:
        stats.steps[key] = _counts(_uniform(stats, demand.rows, left) >= config.rates[0], left, places + 1)
    return stats.steps[key]


def _uniform(stats: WorkloadStats, rows: IntArray, left: IntArray) -> FloatArray:
    """Numbers of the tokens after the first of all requests, one request after the other."""
    key = ((), left.tobytes())
    if key not in stats.steps:
        draws = Draws((), stats.seed)
        parts = [draws.uniform(row, count + 1)[1:] for row, count in zip(rows.tolist(), left.tolist(), strict=True)]
        stats.steps[key] = np.concatenate(parts) if parts else np.zeros(0)
    return stats.steps[key]


def _counts(bad: npt.NDArray[np.bool_], left: IntArray, most: int) -> FloatArray:
    """Steps of each request: stretches end with a bad draft or with the request, and are cut into pieces of ``most``."""
    several = left[left > 0]
    ends = bad.copy()
    ends[np.cumsum(several) - 1] = True
    last = np.flatnonzero(ends)
    pieces = -(-np.diff(last, prepend=-1) // most)
    owner = np.repeat(np.arange(len(several)), several)[last]
    counts = np.zeros(len(left))
    counts[left > 0] = np.bincount(owner, weights=pieces, minlength=len(several))
    return counts


def _in_steps(demand: Demand, steps: FloatArray, queries: float) -> Demand:
    """Contexts are those of the first steps: they grow, and a step is at a token of its own."""
    share = steps / np.maximum(1.0, demand.decode_tokens)
    context = steps * (demand.inputs + 1) + np.maximum(0.0, steps * (steps - 1) / 2)
    return replace(
        demand,
        decode_tokens=steps,
        decode_context=np.minimum(demand.decode_context, context),
        window_context=demand.window_context * share * share,
        queries=queries,
    )


def drafting_s(deployment: Deployment, demand: Demand) -> float:
    """Seconds that a replica's drafts take at least: its steps are as many as the batch limit makes them."""
    config, draft = deployment.speculative, deployment.draft
    if config is None or draft is None:
        return 0.0
    steps = float(demand.decode_tokens.sum()) / max_seqs(config, deployment.engine)
    served = deployment.served_model
    assert isinstance(served, SpeculativeStepModel)
    return steps * served.draft(1).base_s


def alone_s(deployment: Deployment) -> tuple[float, float, float]:
    """(least time of a step of one sequence, seconds per context token, the same in windowed layers)."""
    model = deployment.served_model
    line = model.decode(1)
    beside = model.step(StepShape(decode_seqs=1, prefill_tokens=1, prefill_seqs=1, logits_rows=1))[0]
    return min(line.base_s, beside), line.context_s, line.window_s
