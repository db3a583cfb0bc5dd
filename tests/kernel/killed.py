"""A command of the agent that ends itself by SIGKILL at one of its writes to the kernel.

``python -m tests.kernel.killed N COMMAND...``: before the Nth write, counted from 1, of those listed here:
restores and what changes sets, and each restore counts once more after it. ``removal`` for N: before the
first thing of kube-router's is removed.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

from agent import cli
from agent.dataplane.ipset import IpSets
from agent.dataplane.iptables import takeover
from agent.dataplane.iptables.tables import Tables

_count = 0


def _step() -> None:
    global _count
    _count += 1
    if str(_count) == sys.argv[1]:
        _end()


def _end(*_: object) -> Any:
    os.kill(os.getpid(), signal.SIGKILL)


def _counted(method: Callable[..., Any], *, after: bool) -> Callable[..., Any]:
    @functools.wraps(method)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        _step()
        found = method(*arguments, **named)
        if after:
            _step()
        return found

    return wrapped


if __name__ == "__main__":
    Tables.restore = _counted(Tables.restore, after=True)  # type: ignore[method-assign]
    for name in ("create", "change", "swap", "destroy"):
        setattr(IpSets, name, _counted(getattr(IpSets, name), after=False))
    if sys.argv[1] == "removal":
        takeover.remove = _end  # type: ignore[assignment]
    cli.main(sys.argv[2:], prog_name="netpol-agent")
