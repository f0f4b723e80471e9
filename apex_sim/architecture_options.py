"""Arguments that depend on a model's architecture (docs/architectures.md)."""

from __future__ import annotations

import argparse

ARCHITECTURE_SETTINGS = ("runner", "mamba_ssm_cache_dtype")
"""Their names in arguments and API keywords: the engines' own."""


def add_architecture(parser: argparse.ArgumentParser) -> None:
    """--runner and --mamba-ssm-cache-dtype."""
    group = parser.add_argument_group("architectures (docs/architectures.md)")
    group.add_argument(
        "--runner",
        metavar="NAME",
        help="auto, generate, or pooling: one pass per request (embeddings, scores, classes)",
    )
    group.add_argument(
        "--mamba-ssm-cache-dtype",
        metavar="NAME",
        help="recurrent states: auto (as activations), float32, bfloat16, float16",
    )
