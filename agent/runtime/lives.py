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
from collections.abc import Callable

from agent import log
from agent.clock import Clock
from agent.runtime.heap import MEMORY
from agent.runtime.loop import Agent

_log = log.get(__name__)

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 15.0
"""Seconds until another agent begins; each that does not last has the next one wait for twice as long."""
LASTING = 60.0
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
"""Those that end an agent."""


def lead(life: Callable[[], None], clock: Clock) -> None:
    """Lead one life after another until one ends as it should.

    ``life`` makes an agent and runs it. It raises MemoryError when that cannot go on. What the first life
    raises besides is raised. A later one may fail at its start as well for want of memory, and by any error.
    """
    pause = FIRST_PAUSE
    first = True
    while True:
        began = clock.monotonic()
        failed = _failure(life, first=first)
        if failed is None:
            return
        # Of the agent that failed nothing is left now but what refers to itself in a circle.
        gc.enable()
        MEMORY.collect_all()
        MEMORY.give_back()
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
        first, pause = False, min(LONGEST_PAUSE, 2 * pause)


def _failure(life: Callable[[], None], *, first: bool) -> str | None:
    """Lead a life; return why it has to be led again, in words that refer to nothing of it."""
    try:
        life()
    except MemoryError as error:
        return str(error) or type(error).__name__
    except Exception as error:
        if first:
            raise
        return f"{type(error).__name__}: {error}"
    return None


def run(agent: Agent) -> None:
    """Run an agent until it is told to end. Raises MemoryError as :meth:`Agent.run` does.

    A thread that ends for want of memory has the agent end, too.
    """
    threading.excepthook = _hook(agent)
    try:
        agent.run()
    except MemoryError:
        if not agent.inbox.stopped:
            raise
    finally:
        threading.excepthook = threading.__excepthook__
        _end_by_signals()


def _hook(agent: Agent) -> Callable[[threading.ExceptHookArgs], None]:
    def hook(failed: threading.ExceptHookArgs) -> None:
        if issubclass(failed.exc_type, MemoryError):
            agent.scarcity.starved("unnamed" if failed.thread is None else failed.thread.name)
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
