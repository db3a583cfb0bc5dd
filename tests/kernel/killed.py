"""A command of the agent that ends itself by SIGKILL at one of its writes to the kernel.

``python -m tests.kernel.killed N COMMAND...``: at the Nth step from 1. There is one before each restore and
one after it, and one before every third set that is destroyed. ``removal`` for N: before the first thing of
kube-router's is removed.
"""

from __future__ import annotations

import functools
import itertools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from agent.commands import cli
from agent.dataplane.iptables import takeover
from agent.dataplane.iptables.tables.tables import Tables
from agent.dataplane.turns import Work
from agent.kernel.ipset import IpSets

_count = 0


def _step() -> None:
    global _count
    _count += 1
    if str(_count) == sys.argv[1]:
        _end()


def _end(*_: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def _around(method: Callable[..., Work[Any]]) -> Callable[..., Work[Any]]:
    @functools.wraps(method)
    def wrapped(*arguments: Any) -> Work[Any]:
        _step()
        found = yield from method(*arguments)
        _step()
        return found

    return wrapped


def _before_every_third(method: Callable[..., Any]) -> Callable[..., Any]:
    calls = itertools.cycle((False, True, False))

    @functools.wraps(method)
    def wrapped(*arguments: Any) -> Any:
        if next(calls):
            _step()
        return method(*arguments)

    return wrapped


if __name__ == "__main__":
    Tables.restoring = _around(Tables.restoring)  # type: ignore[method-assign]
    IpSets.destroy = _before_every_third(IpSets.destroy)  # type: ignore[method-assign]
    if sys.argv[1] == "removal":
        takeover.remove = _end  # type: ignore[assignment]
    cli.main(sys.argv[2:], prog_name="netpol-agent")
