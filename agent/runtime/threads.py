"""Threads beside the main loop's, started by a function that is passed in, so that a test can do without."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import Protocol

from agent.kernel.thread import start

_TURN = 0.001
"""Seconds for which a thread goes on while another waits for the interpreter."""


class Thread(Protocol):
    """A thread that was started."""

    def is_alive(self) -> bool:
        """Whether it still runs."""
        ...

    def join(self, timeout: float) -> None:
        """Wait until it has ended, for so many seconds at most."""
        ...


StartThread = Callable[[str, Callable[[], None]], Thread]
"""Starts a thread of a name that calls a function, and ends with the process."""


def start_thread(name: str, target: Callable[[], None]) -> Thread:
    """Start a thread of the system's. Raises RuntimeError where it has none to give, or no memory for it."""
    thread = threading.Thread(target=target, name=name, daemon=True)
    start(thread)
    return thread


def take_short_turns() -> None:
    """Have this process' threads take turns of 1 ms: Python's are 5 ms.

    A thread that tells of a revocation needs several, one after each call of the system's that it makes.
    """
    sys.setswitchinterval(_TURN)


def do_beside(start_thread: StartThread, name: str, work: Callable[[], None]) -> None:
    """Do work that ends by itself on a thread; here and now where the system has none to give."""
    try:
        start_thread(name, work)
    except RuntimeError:
        work()
