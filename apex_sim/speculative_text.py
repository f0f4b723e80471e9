"""Lines of the report about drafts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from apex_sim.text import number, share
from simulator.deployment import Deployment


def draft_lines(s: Mapping[str, Any], deployment: Deployment) -> list[str]:
    """What the drafts did; nothing without them."""
    config = deployment.speculative
    if config is None or s.get("spec_decode_mean_acceptance_length") is None:
        return []
    draft = deployment.draft
    name = "n-grams" if draft is None else draft.model.name
    place = f" on {draft.plan.tp} x {draft.cluster.device.name}" if draft is not None and draft.apart else ""
    tree = f" (tree of {config.num_candidates})" if config.num_candidates is not None else ""
    lines = [
        f"drafts       {name}{place}, {config.num_speculative_tokens} in a row{tree}: "
        f"{s['spec_decode_num_accepted_tokens']:,} of {s['spec_decode_num_draft_tokens']:,} accepted "
        f"({share(s['spec_decode_acceptance_rate'])}), mean accepted length "
        f"{number(s['spec_decode_mean_acceptance_length'])} (expected {number(s['spec_decode_expected_acceptance_length'])}), "
        f"{share(s['spec_decode_draft_time_share'])} of the time"
    ]
    if place:
        lines.append("             price and idle power of the draft's devices are not counted")
    return lines
