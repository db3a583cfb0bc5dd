"""A limit for the memory of a process: the kernel kills it where it needs more."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from tests.lab.place import LabError
from tests.patience import PATIENCE

_UNIFIED = Path("/sys/fs/cgroup")
_SEPARATE = _UNIFIED / "memory"
_MARGIN = 4 << 20


@contextlib.contextmanager
def limited(pid: int) -> Iterator[None]:
    """Give a process, and what it starts from now on, 4 MB more than it uses now.

    Its memory is counted from now on, too: a group counts what is used for the first time in it. Raises
    LabError where there is no memory controller (cgroups(7), version 1 or 2) that this process may use.
    """
    separate = (_SEPARATE / "memory.limit_in_bytes").exists()
    parent = _SEPARATE if separate else _UNIFIED
    try:
        if not separate:
            (parent / "cgroup.subtree_control").write_text("+memory")
        group = parent / f"netpol-chaos-{os.getpid()}"
        group.mkdir()
    except OSError as error:
        raise LabError(f"there is no memory cgroup here: {error}") from error
    try:
        limit, swap = (
            ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")
            if separate
            else ("memory.max", "memory.swap.max")
        )
        (group / limit).write_text(str(_MARGIN))
        with contextlib.suppress(OSError):  # no swap here
            (group / swap).write_text(str(_MARGIN if separate else 0))
        (group / "cgroup.procs").write_text(str(pid))
        yield
    finally:
        # What has been in it is gone a moment after it has ended.
        until = time.monotonic() + PATIENCE
        while group.exists():
            with contextlib.suppress(OSError):
                group.rmdir()
            if time.monotonic() > until:
                raise LabError(f"{group} cannot be removed")
            time.sleep(0.05)
