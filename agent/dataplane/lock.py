"""One agent per node: a second one would take the first one's rules away."""

from __future__ import annotations

import contextlib
import errno
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

_CREDENTIALS = struct.Struct("=iii")


class LockedError(Exception):
    """Another agent works on this node."""


@contextlib.contextmanager
def lock_node(name: str = "netpol-agent") -> Iterator[None]:
    """Hold the node while in the context. Raises LockedError, saying who holds it.

    The lock is a socket with an abstract name (unix(7)): it belongs to the network namespace, as the rules
    do, is shared by containers that share no file system, and goes with its process however that ends.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as held:
        try:
            held.bind(f"\0{name}")
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise LockedError(f"{_holder(name)} holds this node; stop it first") from None
        held.listen(16)
        yield


def _holder(name: str) -> str:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC) as caller:
        caller.setblocking(False)
        try:
            caller.connect(f"\0{name}")
            credentials = caller.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        except OSError:
            return "another process"
    pid, user, _ = _CREDENTIALS.unpack(credentials)
    if pid == 0:
        return f"a process of user {user} in another PID namespace"
    with contextlib.suppress(OSError):
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        return f"process {pid} of user {user} ({command.strip()[:80]})"
    return f"process {pid} of user {user}"
