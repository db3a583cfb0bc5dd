"""Work that lets go of its thread: it says what it waits for, and goes on from there when that is so.

A command takes 5 ms as a rule, which is waited for. One that takes longer than :data:`PATIENCE` is left
running: the work that needs it yields, and whoever drives that work does something else meanwhile.
"""

from __future__ import annotations

import select
import time
from collections.abc import Generator
from typing import NamedTuple, TypeVar

T = TypeVar("T")

PATIENCE = 0.1
"""Seconds for which a command is waited for."""


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
