"""The heap: when Python looks for garbage in it, and what the C library keeps of what was freed.

The agent holds most while it reads the cluster. What a page of a list took is not needed again for hours.
"""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import threading

# mallopt(3)
_M_ARENA_MAX = -8
_M_MMAP_THRESHOLD = -3

_STACK = 2 << 20
"""Bytes of a thread's stack, of which Python code takes a tenth at most: the system's own size is 8 MB."""
_LARGE = 128 * 1024
"""Bytes. As the C library has it at first; once told, it does not raise it when something large is freed."""


def keep_little() -> None:
    """Have all threads allocate from one heap, and what is large apart from it, to be given back at once.

    Each thread would keep in its own heap what pages of a list once took, and what is small would come to lie
    behind what was large. And have threads take a smaller stack: used or not, it counts where address space
    is limited, and where the system gives no more than there is (``vm.overcommit_memory`` 2).
    """
    threading.stack_size(_STACK)
    with contextlib.suppress(AttributeError):  # a C library without it
        library = ctypes.CDLL(None)
        library.mallopt(_M_ARENA_MAX, 1)
        library.mallopt(_M_MMAP_THRESHOLD, _LARGE)


def give_back() -> None:
    """Give the kernel back what is free in the heap: malloc_trim(3)."""
    with contextlib.suppress(AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


class Memory:
    """The garbage collector, which finds what refers to itself in a circle; all else goes by itself.

    Of any thread what is new is counted, and a look stops all threads.
    """

    def by_hand(self, wanted: bool) -> None:
        """Have it look when it is told to, or by itself."""
        (gc.disable if wanted else gc.enable)()

    def new(self) -> int:
        """Return about how many objects came since the last look, less those that went."""
        return gc.get_count()[0]

    def held(self) -> int:
        """Return how many pieces of memory all objects take."""
        return sys.getallocatedblocks()

    def keep(self) -> None:
        """Take all that is there for no garbage, at no cost, until :meth:`collect_all`."""
        gc.freeze()

    def collect_new(self) -> None:
        """Look at what came since the last look, or was not kept; some 50 ns for each."""
        gc.collect()
        gc.freeze()

    def collect_all(self) -> None:
        """Look at everything: 10 ms for each 100,000 objects."""
        gc.unfreeze()
        self.collect_new()

    def give_back(self) -> None:
        """See :func:`give_back`."""
        give_back()


MEMORY = Memory()
