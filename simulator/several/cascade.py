"""Which model every request goes to, and the further requests of a cascade: changes of the trace, before anything runs."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from hardware_profiles.errors import UserError
from simulator.physics.sums import in_order
from simulator.several.settings import Cascade
from workloads.labels import draw_shares
from workloads.streams import stream
from workloads.trace import Trace, take_ragged

Ints = npt.NDArray[np.int64]


def with_models(trace: Trace, names: Sequence[str], shares: Sequence[float], seed: int) -> Trace:
    """The trace with a model for every request, in the numbering of ``names``: its own, or drawn by share from the seed
    (turns of a session keep theirs). UserError for a model that is not served."""
    if trace.model is not None:
        numbers = np.array([names.index(name) if name in names else -1 for name in trace.model_names], dtype=np.int64)
        model = numbers[trace.model]
        if (model < 0).any():
            row = int(np.argmin(model))
            raise UserError(
                f"{trace.name}: request {row} asks for model '{trace.model_names[trace.model[row]]}', which is not among "
                f"{', '.join(list(names)[:5])}; add it under models"
            )
    else:
        total = in_order(shares)
        model = draw_shares(np.array(shares) / total, len(trace), seed, "models")[trace.session_roots()]
    return dataclasses.replace(trace, model=model, model_names=tuple(names))


def escalated(trace: Trace, cascade: Cascade, names: Sequence[str], seed: int) -> tuple[Trace, Ints]:
    """(the trace with a second request behind each that goes on, row of the first one by row or -1).

    The second is sent when the first has finished; outputs are as long as the trace says for both. A later turn of a
    session waits for the second. Prompts of the second share the prefixes of the first.
    """
    if trace.concurrency is not None:
        raise UserError(f"{trace.name}: a closed loop does not go with a cascade; use open arrivals or sessions")
    n = len(trace)
    goes_on = stream(seed, "cascade").random(n) < cascade.escalate
    place = np.arange(n) + np.concatenate(([0], np.cumsum(goes_on)[:-1]))  # of the first request of every row
    rows = np.repeat(np.arange(n), 1 + goes_on)
    second = np.ones(len(rows), dtype=np.bool_)
    second[place] = False
    first_of = np.where(second, place[rows], -1)
    longer = trace.output_tokens[rows] * second if cascade.carry == "prompt+answer" else 0
    before = -np.ones(n, dtype=np.int64) if trace.previous is None else trace.previous
    last = place + goes_on
    previous = np.where(second, first_of, np.where(before[rows] >= 0, last[before[rows]], -1))
    think_s = np.zeros(len(rows)) if trace.think_s is None else np.where(second, 0.0, trace.think_s[rows])
    changes: dict[str, Any] = {
        "arrival_s": trace.arrival_s[rows],
        "input_tokens": trace.input_tokens[rows] + longer,
        "output_tokens": trace.output_tokens[rows],
        "previous": previous,
        "think_s": think_s,
        "model": np.where(second, names.index(cascade.then), names.index(cascade.first)),
        "model_names": tuple(names),
        **{c: values[rows] for c in ("priority", "client", "adapter") if (values := getattr(trace, c)) is not None},
    }
    if trace.prefix_ids is not None and trace.prefix_offsets is not None:
        changes["prefix_ids"], changes["prefix_offsets"] = take_ragged(trace.prefix_ids, trace.prefix_offsets, rows)
    return dataclasses.replace(trace, **changes), first_of
