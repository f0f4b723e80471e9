"""What a run says of its drafts."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from simulator import clock
from simulator.speculative.config import SpeculativeConfig
from simulator.speculative.counters import SpeculativeCounters

STEP_MODE = "spans: accepted drafts are drawn ahead"
"""How the event loop jumps over steps with drafts: exactly, as over steps of one token."""


def speculative_summary(
    config: SpeculativeConfig | None, counters: Iterable[SpeculativeCounters | None]
) -> dict[str, Any]:
    """Fields of the summary; none without drafts. Names as vLLM's metrics of speculative decoding where it has them."""
    if config is None:
        return {}
    known = [c for c in counters if c is not None]
    places = config.num_speculative_tokens
    steps = [sum(c.histogram[good] for c in known if c.histogram) for good in range(places + 1)]
    total = sum(steps)
    accepted = sum(good * count for good, count in enumerate(steps))
    seq_steps = sum(c.seq_steps for c in known)
    busy = sum(c.busy_ticks for c in known)
    drafted = (config.queries - 1) * total
    return {
        "step_mode": STEP_MODE,
        "spec_decode_method": config.method,
        "spec_decode_num_drafts": total,
        "spec_decode_num_draft_tokens": drafted,
        "spec_decode_num_accepted_tokens": accepted,
        "spec_decode_acceptance_rate": accepted / drafted if drafted else None,
        "spec_decode_acceptance_per_pos": [
            sum(steps[good:]) / total if total else None for good in range(1, places + 1)
        ],
        "spec_decode_mean_acceptance_length": 1.0 + accepted / total if total else None,
        "spec_decode_expected_acceptance_length": config.expected_tokens,
        "spec_decode_tokens_per_step": sum(c.emitted_tokens for c in known) / seq_steps if seq_steps else None,
        "spec_decode_draft_time_s": sum(c.draft_ticks for c in known) / clock.TICKS_PER_S,
        "spec_decode_draft_time_share": sum(c.draft_ticks for c in known) / busy if busy else None,
    }
