"""From a question (deployment, routing, workload) to the placements beside each other, planned and simulated."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

from planners.experts.drift import Drift, drift_of
from planners.experts.effect import Effect, effect_of
from planners.experts.placement import Figures, figures_of
from planners.experts.search import Candidate, ExpertPlan, SearchSettings, check_instance, plan_experts
from planners.experts.topology import Topology, topology_of
from simulator.deployment import Deployment
from simulator.experts.copies import with_copies
from simulator.experts.measure import Exchange
from simulator.experts.placement import Placement
from simulator.experts.routing import Routing, demand_of
from workloads.slo import Slo
from workloads.trace import Trace


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What is asked. ``plan_share`` of the tokens are planned on; loads and traffic in the simulator are those of the rest."""

    deployment: Deployment
    routing: Routing
    settings: SearchSettings
    plan_share: float
    exchange: Exchange
    batch: int
    trace: Trace | None
    slo: Slo | None
    seed: int
    given: tuple[tuple[str, Placement], ...] = ()
    """Further placements to judge, by name."""
    drifted: int = 0
    """Of the last tokens, which the plan does not see and whose popularity differs."""

    @property
    def topology(self) -> Topology:
        """The ranks of the deployment."""
        return topology_of(self.deployment.cluster, self.deployment.plan.ep)

    def check(self) -> None:
        """UserError for what cannot be placed or does not fit into memory."""
        check_instance(self.routing.num_experts, self.topology, self.settings)
        _ = self.deployment.memory, self.deployment.step_model
        with_copies(self.deployment, self.settings.redundant / self.topology.num_ranks)

    def effect(self, routing: Routing, placement: Placement) -> Effect:
        """A placement simulated."""
        return effect_of(
            self.deployment,
            routing,
            placement,
            exchange=self.exchange,
            batch=self.batch,
            trace=self.trace,
            slo=self.slo,
            seed=self.seed,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The plan; ``judged[i]`` and ``effects[i]`` belong to plan.candidates[i], on the tokens the plan did not see."""

    question: Question
    topology: Topology
    plan: ExpertPlan
    judged: tuple[Figures, ...]
    effects: tuple[Effect, ...]
    drift: Drift | None


def answer(question: Question) -> Answer:
    """Plan on the first tokens, judge on the others, simulate the workload under every placement."""
    topology = question.topology
    known, unseen = question.routing.split(question.plan_share)
    demand, later = demand_of(known), demand_of(unseen)
    plan = plan_experts(demand, topology, question.settings)
    given = [
        Candidate(name=name, placement=placement, figures=figures_of(demand, placement, topology))
        for name, placement in question.given
    ]
    plan = dataclasses.replace(plan, candidates=(*plan.candidates[:-1], *given, plan.chosen))
    return Answer(
        question=question,
        topology=topology,
        plan=plan,
        judged=tuple(figures_of(later, candidate.placement, topology) for candidate in plan.candidates),
        effects=tuple(question.effect(unseen, candidate.placement) for candidate in plan.candidates),
        drift=drift_of(question, plan.chosen.placement) if question.drifted else None,
    )
