"""The whole suite, or all tests of a marker, run on all cores with pytest-xdist; a part, or ``-n 0``, in one process."""

from __future__ import annotations

import os

import pytest

STARTED = "APEX_SIM_TESTS_IN_PARALLEL"
"""Set in the environment of everything that a parallel run starts: workers start no workers, tests' own runs neither."""


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> None:
    """Before xdist reads its options: one worker per core when nothing was chosen, tests in their order."""
    options = config.option
    whole = config.args_source is pytest.Config.ArgsSource.TESTPATHS and not options.keyword
    if not whole or STARTED in os.environ or hasattr(config, "workerinput"):
        return
    if getattr(options, "numprocesses", 0) is not None or options.usepdb or options.collectonly:
        return
    os.environ[STARTED] = "1"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    if cores > 1:
        options.numprocesses, options.dist = cores, "worksteal"
