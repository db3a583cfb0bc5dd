"""When every packet that is on its way now has been judged: a grace period of RCU, by membarrier(2).

The kernel walks through the rules of a hook within one read-side section of RCU, and
``MEMBARRIER_CMD_GLOBAL`` returns when all sections that were open have ended: 10 to 30 ms as a rule. On some
kernels that proves nothing; there a second has to pass.
"""

from __future__ import annotations

import ctypes
import os
import platform
import time
from pathlib import Path

_NUMBER = {"x86_64": 324, "aarch64": 283, "riscv64": 283, "ppc64le": 365, "s390x": 356, "armv7l": 389}
"""The system call's number, for which C libraries have no name."""
_GLOBAL = 1
"""MEMBARRIER_CMD_GLOBAL"""
_REALTIME = Path("/sys/kernel/realtime")
_libc = ctypes.CDLL(None)
"""Opened once: each time leaves references in a circle behind, for the garbage collector."""

LONG = 1.0
"""Seconds within which a packet is judged, where the kernel does not say."""


def packets_judged() -> None:
    """Return when every packet that is being judged now has been."""
    # The number of processors may change meanwhile.
    several = _has_several_processors()
    waited = grace_period()
    if not waited or not several or not _has_several_processors() or _is_realtime():
        time.sleep(LONG)


def grace_period() -> bool:
    """Wait for one of RCU; False, at once, where the kernel cannot be asked to, as with nohz_full."""
    number = _NUMBER.get(platform.machine())
    return number is not None and _libc.syscall(number, _GLOBAL, 0, 0) == 0


def _has_several_processors() -> bool:
    """Whether the system call waits at all: with one processor online it returns at once."""
    return os.sysconf("SC_NPROCESSORS_ONLN") > 1


def _is_realtime() -> bool:
    """Whether this is a PREEMPT_RT kernel, where packets are judged by threads that others may interrupt."""
    try:
        if _REALTIME.read_text().strip() == "1":
            return True
    except OSError:
        pass  # not every such kernel has it
    return "PREEMPT_RT" in _version() or "PREEMPT RT" in _version()


def _version() -> str:
    return os.uname().version
