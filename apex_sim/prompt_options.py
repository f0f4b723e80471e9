"""Arguments about what the prompts of a synthetic workload have in common; ``workloads.synthetic`` has what they do."""

from __future__ import annotations

import argparse

PROMPT_SETTINGS = ("prefix", "prompts", "sessions")
"""Their names in arguments, API keywords, workload YAMLs and sweeps."""
PROMPT_HELP = {
    "prefix": "shared system prompts, put in front of the prompts: groups=8,tokens=512; also popularity, share",
    "prompts": "repeated prompts: distinct=100",
    "sessions": "conversations: turns='geometric(mean=4)',think_s=10",
}


def add_prompts(group: argparse._ArgumentGroup) -> None:
    """--prefix, --prompts and --sessions."""
    for name in PROMPT_SETTINGS:
        group.add_argument(f"--{name}", metavar="KEY=VALUE,...", help=PROMPT_HELP[name])
