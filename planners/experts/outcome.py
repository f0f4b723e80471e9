"""From a question (deployment, routing, workload) to the placements beside each other, planned and simulated."""

from __future__ import annotations

from dataclasses import dataclass

from planners.experts.effect import Effect, Exchange, effect_of
from planners.experts.placement import Figures, figures_of
from planners.experts.routing import Routing, demand_of
from planners.experts.search import ExpertPlan, SearchSettings, check_instance, plan_experts
from planners.experts.topology import Topology, topology_of
from simulator.deployment import Deployment
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

    @property
    def topology(self) -> Topology:
        """The ranks of the deployment."""
        return topology_of(self.deployment.cluster, self.deployment.plan.ep)

    def check(self) -> None:
        """UserError for what cannot be placed or does not fit into memory."""
        check_instance(self.routing.num_experts, self.topology, self.settings)
        _ = self.deployment.memory, self.deployment.step_model


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The plan; ``judged[i]`` and ``effects[i]`` belong to plan.candidates[i], on the tokens the plan did not see."""

    question: Question
    topology: Topology
    plan: ExpertPlan
    judged: tuple[Figures, ...]
    effects: tuple[Effect, ...]


def answer(question: Question) -> Answer:
    """Plan on the first tokens, judge on the others, simulate the workload under every placement."""
    topology = question.topology
    known, unseen = question.routing.split(question.plan_share)
    plan = plan_experts(demand_of(known), topology, question.settings)
    later = demand_of(unseen)
    effects = tuple(
        effect_of(
            question.deployment,
            unseen,
            candidate.placement,
            exchange=question.exchange,
            batch=question.batch,
            trace=question.trace,
            slo=question.slo,
            seed=question.seed,
        )
        for candidate in plan.candidates
    )
    judged = tuple(figures_of(later, candidate.placement, topology) for candidate in plan.candidates)
    return Answer(question=question, topology=topology, plan=plan, judged=judged, effects=effects)
