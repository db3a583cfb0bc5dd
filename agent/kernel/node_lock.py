"""One agent per node: a second one would take the first one's rules away."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

LOCK = Path("/run/netpol-agent/lock")
"""A pod needs the node's own directory there, as it needs the node's own network."""


class LockedError(Exception):
    """Another agent works on this node, or whether one does cannot be told."""


@contextlib.contextmanager
def lock_node(path: Path = LOCK) -> Iterator[None]:
    """Hold the node while in the context. Raises LockedError, saying who holds it.

    The lock is an flock(2) on a file that only root can open, in a directory that only root can write, so
    that nobody else can keep the agent from starting. It goes with its process however that ends; the file
    stays, and says who had it last.
    """
    try:
        path.parent.mkdir(mode=0o755, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        raise LockedError(
            f"{path} cannot be opened: {error.strerror}; run as root, with a /run that can be written"
        ) from None
    try:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LockedError(f"{_holder(file)} holds this node; stop it first") from None
        os.ftruncate(file, 0)
        os.pwrite(file, "\n".join((_me(), _pid_namespace())).encode(errors="replace"), 0)
        yield
    finally:
        os.close(file)


def _me() -> str:
    since = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime())
    return f"process {os.getpid()} ({' '.join(sys.argv)[:80].strip()}), since {since} UTC,"


def _holder(file: int) -> str:
    who, _, namespace = os.pread(file, 4096, 0).decode(errors="replace").partition("\n")
    if not who:
        return "another process"
    return who if namespace == _pid_namespace() else f"{who} in another PID namespace"


def _pid_namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return "unknown"
