"""Work that lets go of its thread: it says what it waits for, and goes on from there when that is so.

A command takes 5 ms as a rule, which is waited for. One that takes longer than :data:`PATIENCE` is left
running: the work that needs it yields, and whoever drives that work does something else meanwhile.
"""

from __future__ import annotations

import math
import select
import threading
import time
from collections.abc import Callable, Generator
from typing import NamedTuple, TypeVar

from agent.kernel.thread import start

T = TypeVar("T")

PATIENCE = 0.1
"""Seconds for which a command is waited for."""
LOOK_AGAIN = 0.02
"""Seconds after which is looked again, where nothing tells that something has ended."""


class Waits(NamedTuple):
    """What work waits for: one of these file descriptors to be readable, but until then at most.

    ``until``: seconds of :func:`time.monotonic`.
    """

    descriptors: tuple[int, ...]
    until: float


PAUSE = Waits((), 0.0)
"""Nothing: the work can go on, and lets what is more urgent go first."""

Work = Generator[Waits, None, T]
"""Work that returns a T in the end."""


def beside(name: str, do: Callable[[], None], patience: float) -> Work[None]:
    """Do something on a thread, waiting for so many seconds before yielding; here if that is for ever.

    Also here where the system has no more threads to give: then little else can be done, either. Raises what
    is raised there.
    """
    failed: list[Exception] = []

    def run() -> None:
        try:
            do()
        except Exception as error:
            failed.append(error)

    thread = None if patience == math.inf else threading.Thread(target=run, name=name, daemon=True)
    try:
        if thread is not None:
            start(thread)
    except RuntimeError:
        thread = None
    if thread is None:
        do()
        return
    thread.join(patience)
    while thread.is_alive():
        yield Waits((), time.monotonic() + LOOK_AGAIN)
    if failed:
        raise failed[0]


def wait(waits: Waits) -> None:
    """Wait until work can go on."""
    poll = select.poll()
    for descriptor in waits.descriptors:
        poll.register(descriptor, select.POLLIN)
    poll.poll(max(0.0, 1000 * (waits.until - time.monotonic())))


def whole(work: Work[T]) -> T:
    """Do work to its end, waiting for whatever it waits for."""
    while True:
        try:
            wait(next(work))
        except StopIteration as end:
            found: T = end.value
            return found
