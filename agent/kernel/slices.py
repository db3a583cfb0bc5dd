"""For how long a process runs before others that wait get their turn: sched_setattr(2).

Since Linux 6.12 a process may use up its slice, some milliseconds, before one that has just woken gets the
processor, whatever their priorities. One that nobody waits for asks for the shortest slice that there is.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct

_NUMBER = {"x86_64": 314, "aarch64": 274, "riscv64": 274, "ppc64le": 355, "s390x": 345, "armv7l": 380}
"""The system call's number, for which older C libraries have no name."""
_ATTRIBUTES = struct.Struct("=IIQiIQQQ")
"""``struct sched_attr`` of ``linux/sched/types.h``: size, policy, flags, nice, priority, the slice in
nanoseconds; the rest is about deadlines."""
_SHORTEST = 100_000


def shorten() -> bool:
    """Have the calling thread run for 0.1 ms at a time, at its priority; whether the kernel took it.

    An older kernel takes it too, and goes on as before.
    """
    number = _NUMBER.get(platform.machine())
    if number is None or os.sched_getscheduler(0) != os.SCHED_OTHER:
        return False
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    asked = _ATTRIBUTES.pack(_ATTRIBUTES.size, os.SCHED_OTHER, 0, nice, 0, _SHORTEST, 0, 0)
    return bool(ctypes.CDLL(None).syscall(number, 0, asked, 0) == 0)
