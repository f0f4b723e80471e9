"""Pools of worker processes."""

from __future__ import annotations

import os
import signal

import pytest

from hardware_profiles.errors import UserError
from simulator.workers import Workers


def _work(number: int) -> int:
    if number < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return number * number


def test_results_come_in_the_order_of_the_tasks() -> None:
    with Workers(2) as workers:
        assert list(workers.map(_work, range(5))) == [0, 1, 4, 9, 16]


def test_a_worker_that_is_killed_is_one_line() -> None:
    with (
        pytest.raises(UserError, match="a worker process was killed, by hand or for want of memory"),
        Workers(1) as workers,
    ):
        list(workers.map(_work, [1, -1, 2]))
    with Workers(1) as workers:
        with pytest.raises(UserError, match="killed"):
            list(workers.map(_work, [-1]))
        with pytest.raises(UserError, match="killed"):
            workers.map(_work, [1])
