"""What the user was warned of, for reports."""

from __future__ import annotations

_TOLD: list[str] = []


def tell(message: str) -> None:
    """Keep a warning that is shown."""
    _TOLD.append(message)


def forget() -> None:
    """A new command begins."""
    _TOLD.clear()


def told() -> list[str]:
    """Warnings since then, each once, in order."""
    return list(dict.fromkeys(_TOLD))
