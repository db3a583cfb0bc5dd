"""Work that lets go of its thread: it says what it waits for, and goes on from there when that is so.

A command takes 5 ms as a rule, which is waited for. One that takes longer is left running when news comes,
events that may be about something else, and after :data:`PATIENCE` in any case. Then the work that needs it
yields, and whoever drives that work does something else meanwhile.
"""

from __future__ import annotations

import math
import os
import select
import threading
import time
from collections.abc import Callable, Generator, Iterable
from typing import NamedTuple, TypeVar

from agent.kernel.thread import start

T = TypeVar("T")

PATIENCE = 0.1
"""Seconds for which a command is waited for."""
BRIEF = 0.005
"""Seconds for which it is waited for whatever comes: so that many events are taken together meanwhile."""
LOOK_AGAIN = 0.02
"""Seconds after which is looked again, where nothing tells that something has ended."""


class Patience(NamedTuple):
    """For how long a call waits for a command: so many seconds, or until news comes, :data:`BRIEF` aside.

    ``news``: file descriptors of which one can be read when something has come.
    """

    seconds: float = math.inf
    news: tuple[int, ...] = ()


FOR_EVER = Patience()
"""Whatever comes."""


class Waits(NamedTuple):
    """What work waits for: one of these file descriptors to be readable, but until then at most.

    ``until``, ``soon``: seconds of :func:`time.monotonic`. Until ``soon`` there is hope that the work ends
    by itself before anybody has to do without it.
    """

    descriptors: tuple[int, ...]
    until: float
    soon: float = 0.0


PAUSE = Waits((), 0.0)
"""Nothing: the work can go on, and lets what is more urgent go first."""

Work = Generator[Waits, None, T]
"""Work that returns a T in the end."""


def beside(name: str, do: Callable[[], None], patience: Patience) -> Work[None]:
    """Do something on a thread, with patience before yielding; here if that is without end.

    Also here where the system has no more threads or descriptors to give: then little else can be done,
    either. Raises what is raised there.
    """
    failed: list[Exception] = []
    ended = None if patience.seconds == math.inf else _on_a_thread(name, do, failed)
    if ended is None:
        do()
        return
    soon = time.monotonic() + patience.seconds
    try:
        ready = readable((ended, *patience.news), soon)
        while ended not in ready:
            yield Waits((ended,), time.monotonic() + LOOK_AGAIN, soon)
            ready = readable((ended,), 0.0)
    finally:
        os.close(ended)
    if failed:
        raise failed[0]


def _on_a_thread(name: str, do: Callable[[], None], failed: list[Exception]) -> int | None:
    """Begin to do something; return what can be read when it has ended, None where that is not possible.

    What is raised there is put into ``failed``.
    """
    try:
        ended, ends = os.pipe2(os.O_CLOEXEC)
    except OSError:
        return None

    def run() -> None:
        try:
            do()
        except Exception as error:
            failed.append(error)
        finally:
            os.close(ends)

    try:
        start(threading.Thread(target=run, name=name, daemon=True))
    except RuntimeError:
        os.close(ended)
        os.close(ends)
        return None
    return ended


def readable(descriptors: Iterable[int], until: float) -> set[int]:
    """Wait until one can be read, or until then at most; return which can."""
    poll = select.poll()
    for descriptor in descriptors:
        poll.register(descriptor, select.POLLIN)
    return {descriptor for descriptor, _ in poll.poll(max(0.0, 1000 * (until - time.monotonic())))}


def wait(waits: Waits) -> None:
    """Wait until work can go on."""
    readable(waits.descriptors, waits.until)


def whole(work: Work[T]) -> T:
    """Do work to its end, waiting for whatever it waits for."""
    while True:
        try:
            wait(next(work))
        except StopIteration as end:
            found: T = end.value
            return found
