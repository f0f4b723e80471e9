"""Requests from arrival to last token, their KV on its way between pools or from lower memories: asynchronous slices."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from simulator.events.text import LINK, REQUESTS, Group, event, local, ns, process_of
from simulator.recorder import COMPLETED
from simulator.result import SimulationResult
from simulator.run_disaggregated import DisaggregatedRecord


def request_groups(result: SimulationResult) -> Iterator[Group]:
    """Each request as the client sees it: queue, prefill and decode inside. Refused ones have no length."""
    names = ("arrival_s", "scheduled_s", "first_token_s", "finish_s")
    times = np.stack([result.column(name) for name in names], axis=1)
    counts = ("input_tokens", "output_tokens", "cached_tokens", "num_preemptions", "replica")
    columns = [result.column(name).tolist() for name in counts]
    done = (result.column("status") == COMPLETED).tolist()
    for row, moments in enumerate((1e9 * times).tolist()):
        same = {"cat": '"request"', "id2": local(str(row)), "tid": "0"}
        if not done[row]:
            if moments[0] == moments[0]:
                at = round(moments[0])
                yield Group(at, at, [
                    (at, event(kind, "refused", at, REQUESTS, **same, args=f'{{"request":{row}}}')) for kind in "be"
                ])  # fmt: skip
            continue
        values = [column[row] for column in columns]
        yield _request(row, [round(moment) for moment in moments], dict(zip(counts, values, strict=True)), same)


def _request(row: int, at: list[int], values: dict[str, int], same: dict[str, str]) -> Group:
    args = ",".join(f'"{name}":{value}' for name, value in values.items())
    events = [(at[0], event("b", "request", at[0], REQUESTS, **same, args=f'{{"request":{row},{args}}}'))]
    for name, begin, end in zip(("queue", "prefill", "decode"), at, at[1:], strict=False):
        begin = min(begin, end)
        events.append((begin, event("b", name, begin, REQUESTS, **same)))
        if name == "prefill":
            events.append((end, event("n", "first token", end, REQUESTS, **same)))
        events.append((end, event("e", name, end, REQUESTS, **same)))
    events.append((at[-1], event("e", "request", at[-1], REQUESTS, **same)))
    return Group(at[0], at[-1], events)


def transfer_groups(result: SimulationResult) -> Iterator[Group]:
    """KV from prefill to decode replicas."""
    record = result.record
    if not isinstance(record, DisaggregatedRecord):
        return
    table = record.transfers
    for row, (begin_s, end_s) in enumerate(zip(table.begin_s, table.end_s, strict=True)):
        if end_s != end_s or begin_s != begin_s:
            continue
        begin, end = round(1e9 * begin_s), round(1e9 * end_s)
        same = {"cat": '"transfer"', "id2": local(str(row)), "tid": "0"}
        args = (
            f'{{"request":{row},"bytes":{table.nbytes[row]:.0f},"from replica":{table.prefill_replica[row]},'
            f'"to replica":{record.table.replica[row]}}}'
        )
        yield Group(begin, end, [
            (begin, event("b", "KV transfer", begin, LINK, **same, args=args)),
            (end, event("e", "KV transfer", end, LINK, **same)),
        ])  # fmt: skip


def load_groups(result: SimulationResult) -> Iterator[Group]:
    """Cached KV from host memory and disk, with the request that waits for it."""
    for index, record in enumerate(result.record.replicas):
        assert record.step_log is not None
        for number, load in enumerate(record.step_log.loads):
            begin, end = ns(load.begin), ns(load.end)
            same = {"cat": '"load"', "id2": local(f"{index}.{number}"), "tid": "0"}
            args = f'{{"request":{load.row},"tokens":{load.tokens}}}'
            yield Group(begin, end, [
                (begin, event("b", "KV load", begin, process_of(index), **same, args=args)),
                (end, event("e", "KV load", end, process_of(index), **same)),
            ])  # fmt: skip
