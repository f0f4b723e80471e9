"""What goes into a step of prompts that runs beside the decode steps: the token budget is theirs alone."""

from __future__ import annotations

from simulator.core import EngineCore
from simulator.request import Request
from simulator.sharing.split import Order


def plan_prompts(core: EngineCore, room: bool, order: Order) -> None:
    """Fill ``core.batch``: prompts under way continue, then others start; none when ``room`` is False: blocks were short."""
    budget = core.max_num_batched_tokens
    for request in list(core.lane.prefilling):
        if budget <= 0:
            return
        tokens = min(request.prompt_left, budget)
        if request.admit_seq >= 0 and core.extend(request, tokens):
            budget -= tokens
    if not room or core.preempted_now:
        return
    for request in core.admissible() if order == "fcfs" else _shortest_first(core):
        if budget <= 0 or core.num_running >= core.max_num_seqs or not core.admit(request, budget):
            return
        budget -= core.batch[-1][1]


def _shortest_first(core: EngineCore) -> list[Request]:
    return sorted(core.visible(), key=lambda request: (request.prompt_left, request.arrival_tick, request.row))
