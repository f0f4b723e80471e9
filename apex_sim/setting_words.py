"""Messages about settings that stand in a file: ``rate is -3`` there, not ``--rate is -3``."""

from __future__ import annotations

import re

_FLAG = re.compile(r"(?<![\w-])(write )?--([a-z][a-z0-9]*(?:-[a-z0-9]+)*)(?![\w-])( (?=[\w'\"]))?")


def as_fields(text: str) -> str:
    """``text`` with settings of ``simulate`` under their names in a file; other flags stay as they are."""
    from apex_sim.sweeps.settings import known_settings

    def field(match: re.Match[str]) -> str:
        write, flag, space = match.groups(default="")
        name = flag.replace("-", "_")
        if name not in known_settings():
            return match[0]
        return f"{write}{name}{': ' if write and space else space}"

    return _FLAG.sub(field, text)
