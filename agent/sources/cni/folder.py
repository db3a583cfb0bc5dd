"""Folders of results that are watched: they may not exist yet, come later, go, and come again."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from agent.kernel.inotify import (
    CLOSE_WRITE,
    CREATE,
    DELETE,
    DELETE_SELF,
    IGNORED,
    MOVE_SELF,
    MOVED_FROM,
    MOVED_TO,
    OVERFLOW,
    Happened,
    Inotify,
)

MOST = 100_000
"""Files of one folder that are looked at."""

_WRITTEN = CLOSE_WRITE | MOVED_TO
_GONE = DELETE | MOVED_FROM
_SELF_GONE = DELETE_SELF | MOVE_SELF | IGNORED
_WATCHED = _WRITTEN | _GONE | CREATE | DELETE_SELF | MOVE_SELF


class Seen(NamedTuple):
    """A file: ``there``: it was written, else it is gone. ``live``: it was seen to be written just now."""

    path: Path
    there: bool
    live: bool = False


class Folders:
    """Tells of files in some folders, whether or not these exist. Used on one thread.

    While a folder does not exist, the nearest directory above it is watched for it. A file that is written in
    place is told when who wrote it has closed it.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        """Begin to listen. Raises OSError where inotify cannot be used."""
        self._inotify = Inotify()
        self.fd = self._inotify.fd
        self.faults: dict[Path, str] = {}
        """Why a folder that exists cannot be watched."""
        self._folders = tuple(folders)
        self._watched: dict[Path, int] = {}
        """The watch of each folder that exists."""
        self._above: dict[Path, int] = {}
        """For each of the others, the watch of the nearest directory above it."""
        self._names: dict[Path, set[str]] = {folder: set() for folder in folders}

    @property
    def present(self) -> tuple[Path, ...]:
        """The folders that exist."""
        return tuple(self._watched.copy())

    def begin(self) -> Iterator[Seen]:
        """Watch, and tell of the files that are there."""
        for folder in self._folders:
            yield from self._attach(folder, live=False)

    def take(self) -> Iterator[Seen]:
        """Tell what has happened since, without waiting."""
        for happened in self._inotify.take():
            if happened.mask & OVERFLOW:
                for folder in self._watched:
                    yield from self._list(folder, live=True)
                continue
            for folder, watch in list(self._watched.items()):
                if watch == happened.watch:
                    yield from self._in_folder(folder, happened)
            for folder, watch in list(self._above.items()):
                if watch == happened.watch:
                    yield from self._attach(folder, live=True)

    def again(self) -> Iterator[Seen]:
        """Try again to watch what could not be."""
        for folder in list(self.faults):
            yield from self._attach(folder, live=False)

    def _in_folder(self, folder: Path, happened: Happened) -> Iterator[Seen]:
        names = self._names[folder]
        if happened.mask & _SELF_GONE:
            del self._watched[folder]
            yield from (Seen(folder / name, there=False) for name in names)
            names.clear()
            if not happened.mask & IGNORED:
                self._inotify.end(happened.watch)
            yield from self._attach(folder, live=True)
        elif happened.mask & _WRITTEN and len(names) < MOST:
            names.add(happened.name)
            yield Seen(folder / happened.name, there=True, live=True)
        elif happened.mask & _GONE and happened.name in names:
            names.discard(happened.name)
            yield Seen(folder / happened.name, there=False)

    def _attach(self, folder: Path, *, live: bool) -> Iterator[Seen]:
        """Watch a folder, or what is above it; ``live``: its files were written while this ran."""
        self._above.pop(folder, None)
        self.faults.pop(folder, None)
        for _ in range(len(folder.parts) + 1):
            try:
                self._watched[folder] = self._inotify.watch(folder, _WATCHED)
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ENOTDIR):
                    self.faults[folder] = error.strerror or str(error)
                    return
            else:
                yield from self._list(folder, live=live)
                return
            above = next((p for p in folder.parents if p.is_dir()), Path("/"))
            try:
                self._above[folder] = self._inotify.watch(above, _WATCHED)
            except OSError as error:
                self.faults[folder] = error.strerror or str(error)
                return
            # What came before the watch is not told of.
            below = above / folder.relative_to(above).parts[0]
            if not below.is_dir():
                return

    def _list(self, folder: Path, *, live: bool) -> Iterator[Seen]:
        try:
            found = set(os.listdir(folder)[:MOST])
        except OSError as error:
            self.faults[folder] = error.strerror or str(error)
            return
        names = self._names[folder]
        gone, new = names - found, found - names
        names.clear()
        names.update(found)
        yield from (Seen(folder / name, there=False) for name in gone)
        # Of files that were known too: what was written in them meanwhile was not told.
        yield from (Seen(folder / name, there=True, live=live and name in new) for name in sorted(found))
