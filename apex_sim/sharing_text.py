"""Lines about devices that are shared: in the report of a run, and in the explanation of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apex_sim.text import number, share
from simulator.deployment import Deployment
from simulator.physics.shape import StepShape


def sharing_labels(deployment: Deployment) -> list[str]:
    """What is shared, as short as a command line has it."""
    labels, split, found = [], deployment.sm_split, deployment.interference
    if split is not None:
        labels.append(f"sm-split={'proactive' if split.share is None else f'{split.share:g}'}")
    if deployment.pair_instances:
        labels.append("pair-instances")
    if found is not None:
        labels.append(f"interference({len(found.tenants)} co-tenant{'s' if len(found.tenants) > 1 else ''})")
    return labels


def split_lines(s: Mapping[str, Any]) -> list[str]:
    """How the phases of a divided device met; nothing without a division."""
    if "sm_split_both_s" not in s:
        return []
    mean = s["sm_split_mean_share"]
    part = (
        ""
        if mean is None
        else f", prompts on {share(mean)} of the multiprocessors then, {s['sm_split_changes']:,} changes"
    )
    return [
        f"SM split     both phases at once for {number(s['sm_split_both_s'])} s, prompts alone for "
        f"{number(s['sm_split_prompts_alone_s'])} s{part}"
    ]


def split_step_lines(deployment: Deployment, shape: StepShape) -> list[str]:
    """The prompts and the tokens of a step as steps of their own beside each other; nothing without a division."""
    from simulator.sharing.explain import beside

    if deployment.sm_split is None or not (shape.decode_seqs and shape.prefill_tokens):
        return []
    found = beside(deployment, shape)
    slower = "" if found.stretch == 1 else f", both {found.stretch:.2f} times as long for want of bandwidth"
    return [
        "",
        f"{'--sm-split':<12} prompts {found.prompts_s * 1e3:.4f} ms on {share(found.share)} of the multiprocessors, tokens "
        f"{found.tokens_s * 1e3:.4f} ms on the rest{slower}; alone {found.prompts_alone_s * 1e3:.4f} and "
        f"{found.tokens_alone_s * 1e3:.4f} ms",
    ]
