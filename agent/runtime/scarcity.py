"""What the loop does when the system gives the agent no more memory.

An allocation can fail anywhere: Python raises MemoryError then, and whatever was being changed is half
changed. That happens where the agent has reached a limit of its own (``RLIMIT_AS`` and ``RLIMIT_DATA``,
setrlimit(2)), or the system the one of all processes (``vm.overcommit_memory`` 2, proc_sys_vm(5)). A cgroup's
limit is another matter: there the kernel ends the agent.

So room for a step is kept, and given up while one is made. Without it no step begins: events wait, and the
kernel keeps what it holds. A step that fails all the same is never gone on from: see
:mod:`agent.runtime.lives`.
"""

from __future__ import annotations

import contextlib
import mmap
from collections.abc import Callable
from typing import Protocol

from agent import log
from agent.fault import Fault

_log = log.get(__name__)

LARGEST = 16 << 20
"""Bytes that are kept for a step: of address space, and no memory until they are used. A step of some hundred
events takes one or two."""
LEAST = 2 << 20
"""With less than that no step is begun."""
LOOK = 0.25
"""Seconds until it is looked again whether there is memory."""

FAULT = Fault(
    "the system gives the agent no more memory: changes wait, and the kernel keeps what it holds",
    "raise the limit (ulimit -v, ulimit -d, LimitAS= of systemd), or free memory on the node where "
    "vm.overcommit_memory is 2; the agent goes on by itself then",
)


class Spare(Protocol):
    """Memory that is held and not used."""

    def close(self) -> None:
        """Give it up."""
        ...


def taken(size: int) -> Spare:
    """Take so many bytes of address space. Raises OSError."""
    return mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)


class Scarcity:
    """Says before each step whether there is memory for it. For the loop's thread, but for two methods."""

    def __init__(self, take: Callable[[int], Spare] = taken) -> None:
        self._take = take
        self._spare: Spare | None = None
        self._told = False
        self._starved = ""

    def begins(self) -> bool:
        """Whether a step may begin. Raises MemoryError where a thread has ended for want of it."""
        if self._starved:
            raise MemoryError(f"the thread {self._starved} has ended")
        if self._spare is None:
            self._spare = self._found()
        enough = self._spare is not None
        if enough is self._told:
            self._told = not enough
            if enough:
                _log.info("there is memory again")
            else:
                _log.error("no memory", fault=FAULT.what, remedy=FAULT.remedy)
        return enough

    def spend(self) -> None:
        """Give up what is kept: the step that begins may need it."""
        if self._spare is not None:
            self._spare.close()
            self._spare = None

    def starved(self, thread: str) -> None:
        """Take note that a thread has ended for want of memory. For any thread; waits for nothing."""
        self._starved = thread

    def faults(self) -> tuple[Fault, ...]:
        """Return what is wrong, if it is. For any thread."""
        return (FAULT,) if self._told else ()

    def _found(self) -> Spare | None:
        size = LARGEST
        while size >= LEAST:
            with contextlib.suppress(OSError, MemoryError):
                return self._take(size)
            size //= 2
        return None
