"""The thread that hears of changes of the node's interfaces and of sysctls that somebody switched off."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Protocol

from agent import log
from agent.clock import Clock
from agent.host.watch import EVERY
from agent.kernel.links import LinkChanges
from agent.kernel.rtnetlink import ADDRESS_GROUPS
from agent.kernel.surroundings import Lookout
from agent.runtime.host_check import HOST_CHECK, HostCheck
from agent.runtime.inbox import Inbox
from agent.runtime.threads import StartThread, Thread

_log = log.get(__name__)

PAUSE = 0.5
"""Seconds between two looks at the host while interfaces come and go."""
RETRY = 5.0


class Changes(Protocol):
    """Where the kernel tells of changes of interfaces and their addresses."""

    def wait(self, seconds: float) -> bool:
        """Wait so many seconds at most; return whether something changed. Raises OSError."""
        ...


OpenChanges = Callable[[], AbstractContextManager[Changes]]


def _of_the_kernel() -> AbstractContextManager[Changes]:
    return LinkChanges(ADDRESS_GROUPS)


class LinkWatch:
    """Has the host looked at when it changes."""

    def __init__(
        self,
        host_check: HostCheck,
        inbox: Inbox,
        clock: Clock,
        start_thread: StartThread,
        open_changes: OpenChanges = _of_the_kernel,
    ) -> None:
        self._host_check = host_check
        self._inbox = inbox
        self._clock = clock
        self._start_thread = start_thread
        self._open_changes = open_changes
        self._thread: Thread | None = None

    def start(self) -> None:
        """Begin to listen, on a thread that ends when the inbox is over."""
        self._thread = self._start_thread("links", self._run)

    @property
    def started(self) -> bool:
        """Whether the thread was started."""
        return self._thread is not None

    @property
    def alive(self) -> bool:
        """Whether the thread is."""
        return self._thread is not None and self._thread.is_alive()

    def _run(self) -> None:
        while not self._inbox.over:
            try:
                self._listen()
            except (OSError, MemoryError) as error:
                _log.warning("changes of interfaces cannot be watched", error=str(error) or "no memory")
                self._clock.sleep(RETRY)

    def _listen(self) -> None:
        """Tell of what changes. Raises OSError."""
        lookout = Lookout(HOST_CHECK, self._clock.monotonic)
        with self._open_changes() as changes:
            while not self._inbox.over:
                changed = changes.wait(EVERY)
                if lookout.changed(told=changed):
                    self._inbox.call(self._host_check.interfaces_changed)
                if self._host_check.sysctls.look() or changed:
                    self._inbox.call(self._host_check.look_at_once)
                if changed:
                    self._clock.sleep(PAUSE)
