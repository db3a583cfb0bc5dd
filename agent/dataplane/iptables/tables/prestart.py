"""Commands that are started before they are needed, so that the start does not delay a change.

Most of the time of ``iptables-nft-restore`` is its start, and the loading of what its first rules need. So
one is started early and gets the beginning of its input, which changes nothing. Then it waits for the rest.
While it waits, it holds no lock, and has asked the kernel only which matches there are. It ends when its
input ends, and so also when the agent ends. In legacy mode no command waits: it might hold the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import subprocess
import time
from collections.abc import Collection
from typing import IO, NamedTuple

_F_GETPIPE_SZ = 1032


BYTES = "surrogateescape"
"""Comments of other programs' rules hold any bytes; they are given back as they were."""


def start(command: list[str], given: IO[bytes] | int = subprocess.PIPE) -> subprocess.Popen[str]:
    """Start a command, which waits for its input unless it is given a file. Raises OSError."""
    return subprocess.Popen(
        command,
        stdin=given,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors=BYTES,
    )


def give(process: subprocess.Popen[str], text: str) -> None:
    """Give a command that waits its input, or the rest of that.

    One that has ended meanwhile takes nothing: its exit code will say so.
    """
    stdin, process.stdin = process.stdin, None
    if stdin is not None:
        with contextlib.suppress(BrokenPipeError), stdin:
            stdin.write(text)


class Running:
    """A command that was started here, until it ends: waited for as long as one likes, as often as one likes.

    Waiting with a limit as the standard library does is sleeping and looking again: half a millisecond at
    least, after all has been done.
    """

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self._said: list[bytes] = []
        self._text: str | None = None
        try:
            self._ended: int | None = os.pidfd_open(process.pid)
        except OSError:  # before Linux 5.3
            self._ended = None
        self._source = process.stderr

    @property
    def said(self) -> str:
        """What it had to say, once it has ended."""
        return b"".join(self._said).decode(errors=BYTES) if self._text is None else self._text

    @property
    def descriptors(self) -> list[int]:
        """Those of which one can be read when there is something to go on with; none: it is not told."""
        found = [] if self._ended is None else [self._ended]
        return found + ([self._source.fileno()] if found and self._source is not None else [])

    def wait(self, seconds: float, news: Collection[int] = ()) -> bool:
        """Wait for it to end, so long at most; return whether it has.

        ``news``: other descriptors that end the wait when one of them can be read.
        """
        if self._ended is None:
            return self._communicated(seconds)
        poll = select.poll()
        for descriptor in (*self.descriptors, *news):
            poll.register(descriptor, select.POLLIN)
        end = time.monotonic() + seconds
        running = True
        while running or poll.poll(0):
            left = max(0.0, 1000 * (end - time.monotonic()))
            ready = [fd for fd, _ in poll.poll(left)]
            if not ready or not set(news).isdisjoint(ready):
                return False
            if self._ended in ready:
                running = False
                poll.unregister(self._ended)
            if self._source is not None and self._source.fileno() in ready:
                data = os.read(self._source.fileno(), select.PIPE_BUF)
                if not data:
                    poll.unregister(self._source.fileno())
                    self._source.close()
                    self._source = None
                self._said.append(data)
        if self._source is not None:
            self._source.close()
        self.process.wait()
        return True

    def _communicated(self, seconds: float) -> bool:
        try:
            self._text = self.process.communicate(timeout=max(0.0, seconds))[1]
        except subprocess.TimeoutExpired:
            return False
        return True

    def kill(self) -> None:
        """End it, and leave nothing of it."""
        self.process.kill()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()
        self.close()

    def close(self) -> None:
        """Let go of the descriptor that tells of its end."""
        if self._ended is not None:
            os.close(self._ended)
            self._ended = None


def outcome(process: subprocess.Popen[str], seconds: float) -> str:
    """Wait for a command that was started here to end; return what it had to say.

    Raises subprocess.TimeoutExpired when it has not ended in time.
    """
    running = Running(process)
    try:
        if not running.wait(seconds):
            raise subprocess.TimeoutExpired(process.args, seconds)
    finally:
        running.close()
    return running.said


class Waiter(NamedTuple):
    """A command that waits, and the beginning of its input that it has been given."""

    process: subprocess.Popen[str]
    beginning: str


class Waiting:
    """Commands that wait, at most one of each kind. Not thread-safe."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, ...], Waiter] = {}

    def take(self, command: list[str], size: int) -> Waiter | None:
        """Hand over a command that waits; None if there is none.

        Also None if ``size`` bytes may not fit into its pipe, since writing them could block.
        """
        found = self._waiting.get(tuple(command))
        if found is None or found.process.stdin is None:
            return None
        if size + len(found.beginning) > fcntl.fcntl(found.process.stdin, _F_GETPIPE_SZ):
            return None
        del self._waiting[tuple(command)]
        if found.process.poll() is not None:
            _end(found.process)
            return None
        return found

    def prepare(self, command: list[str], beginning: str = "") -> None:
        """Start a command that waits, unless one does. If that fails, who needs the command reports why."""
        key = tuple(command)
        if key in self._waiting:
            return
        with contextlib.suppress(OSError):
            process = start(command)
            self._waiting[key] = Waiter(process, beginning)
            if beginning and process.stdin is not None:
                process.stdin.write(beginning)
                process.stdin.flush()

    def close(self) -> None:
        """End those that wait."""
        while self._waiting:
            _end(self._waiting.popitem()[1].process)


def _end(process: subprocess.Popen[str]) -> None:
    give(process, "")
    with contextlib.suppress(subprocess.TimeoutExpired):
        process.wait(1.0)
    if process.poll() is None:
        process.kill()
    process.communicate()
