"""From a configuration of drafts to what the event loop needs."""

from __future__ import annotations

import dataclasses

from hardware_profiles.schema import Cluster
from simulator.engine import EngineProfile
from simulator.physics.step_model import StepModel
from simulator.run import ReplicaSetup
from simulator.sharing.changing import with_seed
from simulator.speculative.config import SpeculativeConfig
from simulator.speculative.draft import Draft
from simulator.speculative.step_model import TOKEN_BYTES, SpeculativeStepModel


def max_seqs(config: SpeculativeConfig | None, engine: EngineProfile) -> int:
    """Sequences that a replica runs at most: the token budget of a step has room for the drafts of all of them."""
    if config is None or engine.batching == "prefill-priority":
        return engine.max_num_seqs
    return max(1, min(engine.max_num_seqs, engine.max_num_batched_tokens // config.queries))


def seeded(setup: ReplicaSetup, seed: int) -> ReplicaSetup:
    """The replica with accepted drafts and bursts of co-tenants drawn from ``seed``; without either as it is."""
    setup = with_seed(setup, seed)
    drafts = setup.speculation
    if drafts is None:
        return setup
    draws = dataclasses.replace(drafts.draws, seed=seed)
    return dataclasses.replace(setup, speculation=dataclasses.replace(drafts, draws=draws))


def speculative_step_model(
    config: SpeculativeConfig, target: StepModel, draft: Draft | None, engine: EngineProfile, cluster: Cluster
) -> SpeculativeStepModel:
    """Physics of steps with drafts."""
    if draft is None:
        return SpeculativeStepModel(target, None, config)
    link_s = _link_s(config, draft, cluster) if draft.apart else 0.0
    return SpeculativeStepModel(target, draft.step_model(engine), config, link_s)


def _link_s(config: SpeculativeConfig, draft: Draft, cluster: Cluster) -> float:
    """Token ids to the verifying devices and back, over the slower of the two host links [s]; their start-up is in the
    host's time per step."""
    links = [device.host_link for device in (draft.cluster.device, cluster.device)]
    rates = [link.bandwidth_bytes_per_s * link.efficiency for link in links if link is not None]
    return 2.0 * TOKEN_BYTES * config.queries / min(rates) if rates else 0.0
