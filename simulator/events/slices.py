"""Steps as slices: prompts, tokens or both, with the draft and what the devices waited for inside."""

from __future__ import annotations

from collections.abc import Iterator

from simulator.events.step_log import Kind, Slice
from simulator.events.text import Group, event, ns, process_of, us
from simulator.result import SimulationResult

NAMES = {Kind.DECODE: "decode", Kind.PREFILL: "prefill", Kind.MIXED: "mixed", Kind.LOST: "lost step"}
"""Kind -> name of its slices."""


def rows_of(result: SimulationResult, index: int) -> list[Slice]:
    """Slices of a replica, in the order in which they ended."""
    log = result.record.replicas[index].step_log
    assert log is not None
    return [Slice._make(row) for row in log.slices().tolist()]


def thread_names(result: SimulationResult, index: int) -> dict[int, str]:
    """Thread -> name: the engine's steps, stages of a pipeline, or prompts and tokens apart."""
    used = sorted({int(piece.thread) for piece in rows_of(result, index)})
    if result.record.replicas[index].split is not None:
        names = ["tokens", "prompts"]
        return {thread + 1: names[thread] for thread in used}
    if used == [0]:
        return {1: "steps"}
    return {thread + 1: f"stage {thread}" for thread in used}


def slice_groups(result: SimulationResult) -> Iterator[Group]:
    """The steps of all replicas."""
    for index in range(len(result.record.replicas)):
        for piece in rows_of(result, index):
            yield _group(piece, process_of(index))


def _group(piece: Slice, process: int) -> Group:
    begin, end, thread = ns(piece.begin), ns(piece.end), int(piece.thread) + 1
    texts = [(begin, _slice(NAMES[Kind(int(piece.kind))], "step", begin, end, process, thread, _args(piece)))]
    at = begin
    waited, swapped = ns(piece.wait_ticks), int(piece.swap_tokens)
    if waited and end > begin:
        at = min(end, begin + waited)
        name, args = ("swap", f'{{"tokens":{swapped}}}') if swapped else ("compile", "{}")
        texts.append((begin, _slice(name, "wait", begin, at, process, thread, args)))
    drafted = ns(piece.draft_ticks)
    if drafted and at < end:
        drafts = min(end, at + drafted)
        texts.append((at, _slice("draft", "speculative", at, drafts, process, thread, "{}")))
        if drafts < end:
            texts.append((drafts, _slice("verify", "speculative", drafts, end, process, thread, "{}")))
    return Group(begin, end, texts)


def _slice(name: str, category: str, begin: int, end: int, process: int, thread: int, args: str) -> str:
    return event(
        "X", name, begin, process, tid=str(thread), cat=f'"{category}"', dur=us(end - begin), args=args
    )  # fmt: skip


def _args(piece: Slice) -> str:
    fields = {
        "steps": piece.steps,
        "sequences": piece.seqs,
        "prompts": piece.prompts,
        "prompt_tokens": piece.prompt_tokens,
        "output_tokens": piece.output_tokens,
    }
    shown = [f'"{name}":{int(value)}' for name, value in fields.items()]
    return "{" + ",".join([*shown, f'"joules":{piece.joules:.6g}']) + "}"
