"""Which files came whole into watched directories: renamed or linked there, and not written there since.

Told by inotify(7), which says of each file of a watched directory in what way it came and whether it was
written under that name. Python has no interface to it, and the libraries that have one do not tell a
rename from a creation.
"""

from __future__ import annotations

import ctypes
import os
import struct
import weakref
from collections.abc import Iterable
from pathlib import Path

# From <sys/inotify.h>.
_MODIFY, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO = 0x2, 0x8, 0x40, 0x80
_CREATE, _DELETE, _DELETE_SELF, _MOVE_SELF = 0x100, 0x200, 0x400, 0x800
_Q_OVERFLOW, _IGNORED, _ONLYDIR = 0x4000, 0x8000, 0x0100_0000
_WRITTEN = _MODIFY | _CLOSE_WRITE
_GONE = _MOVED_FROM | _DELETE
_SELF_GONE = _DELETE_SELF | _MOVE_SELF | _IGNORED
_CAME = _CREATE | _MOVED_TO
_WATCHED = _WRITTEN | _GONE | _CAME | _DELETE_SELF | _MOVE_SELF | _ONLYDIR

_EVENT = struct.Struct("iIII")
"""wd, mask, cookie, and the length of the name that follows, zeros at its end included."""
_READ = 1 << 16

_libc = ctypes.CDLL(None, use_errno=True)


class Arrivals:
    """What came into the directories below a root, by path relative to it. Used on one thread.

    A link counts as a file that came: what it names is not looked at. Where the kernel has no watch left to
    give, or too much happened to be told, nothing is known to have come whole.
    """

    def __init__(self, root: Path) -> None:
        self._root = root
        self._paths: dict[int, str] = {}
        self._watches: dict[str, int] = {}
        self._came: set[str] = set()
        self._fd = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        if self._fd >= 0:
            weakref.finalize(self, os.close, self._fd)

    def watch(self, folders: Iterable[str]) -> None:
        """Watch these folders, and no other; one that is another directory than before is begun anew."""
        wanted = set(folders)
        for gone in self._watches.keys() - wanted:
            self._end(self._watches[gone])
        for folder in wanted:
            path = os.fsencode(self._root / folder)
            watch = _libc.inotify_add_watch(self._fd, path, _WATCHED) if self._fd >= 0 else -1
            before = self._watches.get(folder)
            if before is not None and before != watch:
                self._end(before)
            if watch >= 0:
                self._watches[folder], self._paths[watch] = watch, folder

    def knows(self, path: str) -> bool:
        """Whether it is told how files come and are written where this one is."""
        return (os.path.dirname(path) or ".") in self._watches

    def came_whole(self, path: str) -> bool:
        """Whether a file came by a rename or a link, and has not been written under its name since."""
        self._take()
        return path in self._came

    def forget(self, path: str) -> None:
        """Let a file count as come no more, since it has been read."""
        self._came.discard(path)

    def _take(self) -> None:
        while self._fd >= 0:
            try:
                events = os.read(self._fd, _READ)
            except BlockingIOError:
                return
            at = 0
            while at < len(events):
                watch, mask, _, length = _EVENT.unpack_from(events, at)
                at += _EVENT.size + length
                self._note(watch, mask, events[at - length : at].rstrip(b"\0"))

    def _note(self, watch: int, mask: int, name: bytes) -> None:
        if mask & _Q_OVERFLOW:
            self._came.clear()
            return
        folder = self._paths.get(watch)
        if folder is None:
            return
        if mask & _SELF_GONE:
            self._end(watch)
            return
        path = os.path.normpath(os.path.join(folder, os.fsdecode(name)))
        if mask & _CAME:
            self._came.add(path)
        elif mask & (_WRITTEN | _GONE):
            self._came.discard(path)

    def _end(self, watch: int) -> None:
        """Hear no more of a directory that is gone, or has another name."""
        folder = self._paths.pop(watch)
        self._watches.pop(folder, None)
        self._came = {path for path in self._came if (os.path.dirname(path) or ".") != folder}
        _libc.inotify_rm_watch(self._fd, watch)
