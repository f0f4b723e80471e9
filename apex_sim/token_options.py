"""Arguments that change the token counts of a workload; ``workloads.token_changes`` has what they do."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workloads.token_changes import TokenSettings

TOKEN_OPTIONS: tuple[tuple[str, type, str, str], ...] = (
    ("scale_input", float, "F", "factor on prompt tokens (in a session: on what each turn adds)"),
    ("scale_output", float, "F", "factor on output tokens"),
    ("extra_input", int, "N", "add N tokens to every prompt: an image, a video, a document"),
    ("extra_input_share", float, "P", "share of the requests that get --extra-input (default 1)"),
    ("thinking_share", float, "S", "share of the output that is thinking; with --thinking-requests"),
    ("thinking_requests", float, "P", "share of the requests that think; the others lose that share of their output"),
    ("max_input", int, "N", "longest prompt; its first tokens stay"),
    ("max_output", int, "N", "longest output"),
)
"""Name in the API, type, placeholder, help."""


def add_token_changes(parser: argparse.ArgumentParser) -> None:
    """--scale-input, --scale-output and the others."""
    group = parser.add_argument_group("changes of token counts (docs/workloads.md)")
    for name, kind, placeholder, text in TOKEN_OPTIONS:
        group.add_argument("--" + name.replace("_", "-"), type=kind, metavar=placeholder, help=text)


def given_tokens(args: argparse.Namespace) -> dict[str, Any]:
    """The changes that are asked for, by name."""
    values = {name: getattr(args, name, None) for name, *_ in TOKEN_OPTIONS}
    return {name: value for name, value in values.items() if value is not None}


def token_settings(args: argparse.Namespace) -> TokenSettings:
    """The same as keywords of the API."""
    settings: Any = given_tokens(args)
    return settings  # type: ignore[no-any-return]
