"""What happens to files of watched directories, as inotify(7) tells it.

Python has no interface to it, and the libraries that have one do not tell a rename from a creation.
"""

from __future__ import annotations

import ctypes
import os
import struct
import weakref
from pathlib import Path
from typing import NamedTuple

# From <sys/inotify.h>.
MODIFY, CLOSE_WRITE, MOVED_FROM, MOVED_TO = 0x2, 0x8, 0x40, 0x80
CREATE, DELETE, DELETE_SELF, MOVE_SELF = 0x100, 0x200, 0x400, 0x800
OVERFLOW, IGNORED, ONLYDIR = 0x4000, 0x8000, 0x0100_0000

_EVENT = struct.Struct("iIII")
"""wd, mask, cookie, and the length of the name that follows, zeros at its end included."""
_READ = 1 << 16

_libc = ctypes.CDLL(None, use_errno=True)


class Happened(NamedTuple):
    """One event: of which watch, what (bits as above), and the name in the directory, "" for itself."""

    watch: int
    mask: int
    name: str


class Inotify:
    """Watches directories. Used on one thread. Raises OSError where the kernel has none left to give."""

    def __init__(self) -> None:
        self.fd: int = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        """A file descriptor that can be read when something has happened."""
        if self.fd < 0:
            raise _error("inotify_init1")
        weakref.finalize(self, os.close, self.fd)

    def watch(self, directory: Path, mask: int) -> int:
        """Watch a directory; return the number of the watch, the same for the same directory.

        Raises OSError: there is none, it may not be read, or the kernel has no watch left.
        """
        watch: int = _libc.inotify_add_watch(self.fd, os.fsencode(directory), mask | ONLYDIR)
        if watch < 0:
            raise _error(str(directory))
        return watch

    def end(self, watch: int) -> None:
        """Watch a directory no more; it may be gone already."""
        _libc.inotify_rm_watch(self.fd, watch)

    def take(self) -> list[Happened]:
        """Return what has happened since the last call, without waiting."""
        found: list[Happened] = []
        while True:
            try:
                events = os.read(self.fd, _READ)
            except BlockingIOError:
                return found
            at = 0
            while at < len(events):
                watch, mask, _, length = _EVENT.unpack_from(events, at)
                at += _EVENT.size + length
                name = events[at - length : at].rstrip(b"\0")
                found.append(Happened(watch, mask, os.fsdecode(name)))


def _error(what: str) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, f"{what}: {os.strerror(number)}")
