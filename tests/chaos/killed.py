"""An agent that ends itself by SIGKILL at a named step, or has no memory to go on there.

``python -m tests.chaos.killed PHASE:WRITE:N COMMAND...``: before the Nth write of a kind in a phase. With
``memory,PHASE:WRITE:N,...`` MemoryError is raised at each of the steps, once. Phases:
``start`` (until the first sync begins), ``sync``, ``apply``, ``tidy``; writes: ``begin`` (of the phase),
``rules`` (each restore), ``ruled`` (after it), ``made``, ``changed``, ``swapped`` and ``destroyed`` (sets),
``read``, before a table is read, ``asking`` and ``asked``, before and after a guard's holder is asked. Writes
beside the loop are not counted.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any

from agent.commands import cli
from agent.dataplane.iptables.backend import IptablesBackend
from agent.dataplane.iptables.tables.tables import Tables
from agent.dataplane.turns import Work
from agent.kernel import nf_release
from agent.kernel.ipset import IpSets

WITHOUT_MEMORY = "memory,"
PHASES = {"adopt": "start", "sync": "sync", "apply": "apply", "tidy": "tidy"}
"""Methods of the backend, and the phases that they begin."""
WRITES = {
    "create": "made",
    "create_all": "made",
    "change": "changed",
    "swap": "swapped",
    "destroy": "destroyed",
}
"""Methods of :class:`IpSets`, and what they do."""

_counts: Counter[str] = Counter()
_phase = "start"


def _step(write: str) -> None:
    name = f"{_phase}:{write}"
    _counts[name] += 1
    if f"{name}:{_counts[name]}" not in sys.argv[1].split(","):
        return
    if sys.argv[1].startswith(WITHOUT_MEMORY):
        raise MemoryError(f"at {name}:{_counts[name]}")
    os.kill(os.getpid(), signal.SIGKILL)


def _beginning(phase: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        global _phase
        _phase = phase
        _step("begin")
        return method(*arguments, **named)

    return wrapped


def _before(write: str, method: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(method)
    def wrapped(*arguments: Any, **named: Any) -> Any:
        # The verdict cache is opened beside the loop, at any time: which write was the Nth would be chance.
        if threading.current_thread() is threading.main_thread():
            _step(write)
        return method(*arguments, **named)

    return wrapped


def _asking(method: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(method)
    def wrapped(*arguments: Any, **named: Any) -> None:
        _step("asking")
        method(*arguments, **named)
        _step("asked")

    return wrapped


def _around(method: Callable[..., Work[Any]]) -> Callable[..., Work[Any]]:
    @functools.wraps(method)
    def wrapped(*arguments: Any, **named: Any) -> Work[Any]:
        _step("rules")
        found = yield from method(*arguments, **named)
        _step("ruled")
        return found

    return wrapped


if __name__ == "__main__":
    for name, begun in PHASES.items():
        setattr(IptablesBackend, name, _beginning(begun, getattr(IptablesBackend, name)))
    for name, written in WRITES.items():
        setattr(IpSets, name, _before(written, getattr(IpSets, name)))
    nf_release.ask = _asking(nf_release.ask)
    Tables.read = _before("read", Tables.read)  # type: ignore[method-assign]
    Tables.restoring = _around(Tables.restoring)  # type: ignore[method-assign]
    cli.main(sys.argv[2:], prog_name="netpol-agent")
