"""How the C library keeps memory that the agent has freed: as little as it can.

The agent holds most while it reads the cluster. What a page of a list took is not needed again for hours.
"""

from __future__ import annotations

import contextlib
import ctypes

# mallopt(3)
_M_ARENA_MAX = -8
_M_MMAP_THRESHOLD = -3

_LARGE = 128 * 1024
"""Bytes. As the C library has it at first; once told, it does not raise it when something large is freed."""


def keep_little() -> None:
    """Have all threads allocate from one heap, and what is large apart from it, to be given back at once.

    Each thread would keep in its own heap what pages of a list once took, and what is small would come to lie
    behind what was large.
    """
    with contextlib.suppress(AttributeError):  # a C library without it
        library = ctypes.CDLL(None)
        library.mallopt(_M_ARENA_MAX, 1)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)


def give_back() -> None:
    """Give the kernel back what is free in the heap: malloc_trim(3)."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)
