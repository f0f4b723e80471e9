"""What notebooks ask of results: several runs in one frame, one step taken apart, the text that the CLI prints."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from hardware_profiles.errors import UserError, unknown_name
from simulator.deployment import Deployment
from simulator.result import SimulationResult

if TYPE_CHECKING:
    import pandas as pd

    from planners.parallel import PlanResult


def compare(
    results: Mapping[Any, SimulationResult],
    fields: Sequence[str] | None = None,
    *,
    names: str | Sequence[str] | None = None,
) -> pd.DataFrame:
    """Several runs in one frame: a row per run, a column per field of ``summary``.

    results: label -> result. A label that is a tuple gives one index level per element, called ``names``, which makes
    ``compare(...)["p95_ttft_ms"].unstack()`` a table of two settings. fields: which columns, in that order (default: all).
    """
    import pandas as pd

    if not results:
        raise UserError("compare: there are no results; give a mapping such as {'h100': result}")
    frame = pd.DataFrame([result.summary for result in results.values()])
    for field in fields or ():
        if field not in frame:
            raise unknown_name("summary field", field, frame.columns)
    labels = list(results)
    levels = {len(label) if isinstance(label, tuple) else 0 for label in labels}
    if len(levels) > 1:
        raise UserError("compare: labels differ in length; use tuples of one length, or no tuples")
    given = [names] if isinstance(names, str) else None if names is None else list(names)
    if given is not None and len(given) != max(1, *levels):
        raise UserError(f"compare: names has {len(given)} entries, a label {max(1, *levels)}; give one name per level")
    if levels == {0}:
        frame.index = pd.Index(labels, name=None if given is None else given[0])
    else:
        frame.index = pd.MultiIndex.from_tuples(labels, names=given)
    return frame if fields is None else frame[list(fields)]


def explain_step(
    deployment: Deployment,
    *,
    decode_seqs: int = 0,
    context_tokens: int = 0,
    prefill_tokens: int = 0,
    cached_tokens: int = 0,
) -> pd.DataFrame:
    """Where the time of one engine step goes: a row per component, in SI units, longest first.

    The step decodes ``decode_seqs`` sequences with ``context_tokens`` cached tokens each, beside a prompt (or chunk of one)
    of ``prefill_tokens`` that comes after ``cached_tokens``. deployment: ``result.deployment``, ``plan.deployment()`` or
    ``build_deployment(...)``. Columns: seconds, share (of the step), bound (what limits it), flop, hbm_bytes, link_bytes.
    """
    from dataclasses import asdict

    import pandas as pd

    from simulator.physics.explain import step_shape

    sizes = {
        "decode_seqs": decode_seqs,
        "context_tokens": context_tokens,
        "prefill_tokens": prefill_tokens,
        "cached_tokens": cached_tokens,
    }
    for name, value in sizes.items():
        if value < 0:
            raise UserError(f"explain_step: {name} is {value}; it must not be negative")
    if decode_seqs == 0 and prefill_tokens == 0:
        raise UserError("explain_step: the step is empty; give decode_seqs or prefill_tokens")
    model = deployment.step_model
    shape = step_shape(
        decode_seqs=decode_seqs,
        context=context_tokens,
        prefill=prefill_tokens,
        cached=cached_tokens,
        window=model.window,
    )
    frame = pd.DataFrame([asdict(component) for component in model.explain(shape)]).set_index("name")
    frame.index.name = "component"
    return frame[["seconds", "share", "bound", "flop", "hbm_bytes", "link_bytes"]]


def describe(result: SimulationResult | PlanResult, top: int = 5) -> str:
    """What ``apex-sim simulate`` or ``apex-sim plan`` prints for this result; ``top``: plans shown."""
    if isinstance(result, SimulationResult):
        from apex_sim.report import summary_text

        return summary_text(result)
    from apex_sim.plan_report import plan_text

    return plan_text(result, top)
