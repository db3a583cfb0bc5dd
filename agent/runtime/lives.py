"""One agent after another in one process: without memory in the middle of a step, all begins anew.

What a step has half changed cannot be trusted any more: the program, the record of what the kernel holds. So
all of that is let go of, and another agent begins from what the kernel holds, as after a restart. The
node stays locked meanwhile.
"""

from __future__ import annotations

import gc
import signal
import sys
import threading
from collections.abc import Callable, Collection

from agent import log
from agent.clock import SYSTEM, Clock
from agent.runtime.heap import MEMORY
from agent.runtime.loop import Agent
from agent.runtime.scarcity import Scarcity

_log = log.get(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 10.0
"""Seconds until another agent begins; each that does not last has the next one wait for twice as long."""
LASTING = 60.0
ENDING = 5.0
"""Seconds that threads of an agent that has ended are waited for: one may wait for an answer as long."""
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Those that end an agent."""


def lead(life: Callable[[], None], clock: Clock) -> None:
    """Lead one life after another until one ends as it should.

    ``life`` makes an agent and runs it. It raises MemoryError when that cannot go on. What a life raises
    besides is raised. But a later one may fail at its start for want of memory, too, and by any error.
    """
    pause = FIRST_PAUSE
    hides = False
    """Whether what a life fails by besides is taken for want of memory."""
    others = frozenset(threading.enumerate())
    while True:
        began = clock.monotonic()
        failed = _failure(life, clock, hides=hides)
        if failed is None:
            return
        _clear()
        if clock.monotonic() - began > LASTING:
            pause = FIRST_PAUSE
        _log.error(
            "no memory to go on",
            detail=failed,
            meanwhile="the kernel keeps what it holds, and changes wait",
            remedy="give the agent more memory; it begins anew by itself",
            seconds=pause,
        )
        clock.sleep(pause)
        _wait_for_threads(others)
        _clear()
        hides, pause = True, min(LONGEST_PAUSE, 2 * pause)


def _clear() -> None:
    """Free what an agent that failed has left: what refers to itself in a circle.

    What one of its threads still knows is not free.
    """
    gc.enable()
    MEMORY.collect_all()
    MEMORY.give_back()


def _wait_for_threads(others: Collection[threading.Thread]) -> None:
    """Wait until no thread but these others runs, for a while: each keeps much of its agent."""
    until = SYSTEM.monotonic() + ENDING
    for thread in threading.enumerate():
        if thread not in others:
            thread.join(max(0.0, until - SYSTEM.monotonic()))


def _failure(life: Callable[[], None], clock: Clock, *, hides: bool) -> str | None:
    """Lead a life; return why it has to be led again, in words that refer to nothing of it."""
    began = clock.monotonic()
    try:
        life()
    except MemoryError as error:
        return str(error) or type(error).__name__
    except Exception as error:
        if not hides or clock.monotonic() - began >= LASTING:
            raise
        return f"{type(error).__name__}: {error}"
    return None


def run(agent: Agent) -> None:
    """Run an agent until it is told to end. Raises MemoryError as :meth:`Agent.run` does.

    A thread that ends for want of memory has the agent end, too.
    """
    threading.excepthook = _hook(agent.scarcity)
    try:
        agent.run()
    except MemoryError:
        if not agent.inbox.stopped:
            raise
    finally:
        threading.excepthook = threading.__excepthook__
        _end_by_signals()


def _hook(scarcity: Scarcity) -> Callable[[threading.ExceptHookArgs], None]:
    """Return what takes note of threads that end; each keeps it while it runs, and so it knows no agent."""

    def hook(failed: threading.ExceptHookArgs) -> None:
        if issubclass(failed.exc_type, MemoryError):
            scarcity.starved("unnamed" if failed.thread is None else failed.thread.name)
        threading.__excepthook__(failed)

    return hook


def stop_on_signals(agent: Agent) -> None:
    """Have the signals that end a process stop the agent's loop."""
    # Whichever thread the signal comes to, the loop wakes up and runs its handler.
    signal.set_wakeup_fd(agent.inbox.wakes, warn_on_full_buffer=False)
    for number in SIGNALS:
        signal.signal(number, agent.inbox.stop)


def _end_by_signals() -> None:
    """Have these signals end the process in order while there is no agent.

    The first process of a container ignores those that it has no handler for (pid_namespaces(7)).
    """
    signal.set_wakeup_fd(-1)
    for number in SIGNALS:
        signal.signal(number, lambda *_: sys.exit(0))
