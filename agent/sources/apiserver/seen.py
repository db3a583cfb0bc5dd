"""How far the API server has told this node, kept across restarts, so that no restart goes back in time."""

from __future__ import annotations

import contextlib
import os
import weakref
from pathlib import Path

from agent import log
from agent.sources.apiserver.proof import number

_log = log.get(__name__)

_DIGITS = 20
"""A resourceVersion is etcd's revision, a 64-bit number."""


class Seen:
    """The highest resourceVersion of one kind that this node was told, and whether there was any object.

    They are in a file of its own. The version is written before what came with it is enforced, and each time
    at the same place, so that whatever ends the agent, the file is never behind what the kernel holds. It
    belongs where it goes when the node is started anew, as what the kernel holds does. Without a file that
    can be written nothing is remembered.
    """

    def __init__(self, path: Path | None) -> None:
        self.latest = 0
        """0 when nothing is known."""
        self.some = False
        """Whether there was any object when it was told last."""
        self._file: int | None = None
        if path is None:
            return
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            _log.warning("the last resource version cannot be saved", file=str(path), error=error.strerror)
            return
        weakref.finalize(self, os.close, self._file)
        text = os.pread(self._file, _DIGITS + 1, 0)
        version = text[:_DIGITS]
        self.latest = number(version.decode(errors="replace"))
        self.some = text[_DIGITS:] == b"1"

    def note(self, version: int) -> None:
        """Remember a version, if it is higher than what was seen before."""
        if version > self.latest:
            self.reset(version)

    def reset(self, version: int) -> None:
        """Remember a version though it may be lower: the cluster itself has gone back in time."""
        self.latest = version
        self._write()

    def note_some(self, some: bool) -> None:
        """Remember whether there is any object."""
        if some != self.some:
            self.some = some
            self._write()

    def _write(self) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):  # a full disk: the next start asks for what was told before
                os.pwrite(self._file, f"{self.latest:0{_DIGITS}}{self.some:d}".encode(), 0)
