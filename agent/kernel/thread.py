"""Starting threads where there may be no memory for one more."""

from __future__ import annotations

import mmap
import threading

_ROOM = 1 << 20
"""Bytes that are to be free: what a thread takes until it runs is a twentieth of that, its stack aside."""


def start(thread: threading.Thread) -> None:
    """Start a thread. Raises RuntimeError where the system has none to give, or no memory for it."""
    require_room()
    try:
        thread.start()
    except MemoryError as error:
        raise RuntimeError("no memory for a new thread") from error


def require_room() -> None:
    """Raise RuntimeError where there is no memory for what a new thread needs at once.

    One that finds none for its first frame ends without a word, and ``threading.Thread.start`` waits for that
    word without end.
    """
    try:
        mmap.mmap(-1, _ROOM, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS).close()
    except (OSError, MemoryError) as error:
        raise RuntimeError("no memory for a new thread") from error
