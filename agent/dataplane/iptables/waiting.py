"""Commands that are started before they are needed: a restore begins with the reading of its lines.

Starting ``iptables-nft-restore`` takes as long as most of what it then does, and loading what it needs to
read its first rules is a good part of the rest. So one that waits for the rest of its input may have been
given the beginning, in which nothing is to be changed. It has asked the kernel for nothing yet but what it
knows of matches, holds no lock, and ends when that input does: with the agent, however that ends. In legacy
mode there is no such command, lest one be found waiting there with the lock.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import select
import subprocess
import time
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


def outcome(process: subprocess.Popen[str], seconds: float) -> str:
    """Wait for a command that was started here to end; return what it had to say.

    Raises subprocess.TimeoutExpired when it has not ended by then. Waiting with a limit as the standard
    library does is sleeping and looking again: half a millisecond at least, after all has been done.
    """
    try:
        ended = os.pidfd_open(process.pid)
    except OSError:  # before Linux 5.3
        return process.communicate(timeout=seconds)[1]
    said: list[bytes] = []
    with contextlib.ExitStack() as stack:
        stack.callback(os.close, ended)
        poll = select.poll()
        poll.register(ended, select.POLLIN)
        source = process.stderr
        if source is not None:
            poll.register(source.fileno(), select.POLLIN)
        end = time.monotonic() + seconds
        running = True
        while running or poll.poll(0):
            left = max(0.0, 1000 * (end - time.monotonic()))
            ready = [fd for fd, _ in poll.poll(left)]
            if not ready:
                raise subprocess.TimeoutExpired(process.args, seconds)
            if ended in ready:
                running = False
                poll.unregister(ended)
            if source is not None and source.fileno() in ready:
                data = os.read(source.fileno(), select.PIPE_BUF)
                if not data:
                    poll.unregister(source.fileno())
                    source.close()
                    source = None
                said.append(data)
        if source is not None:
            source.close()
    process.wait()
    return b"".join(said).decode(errors=BYTES)


class Waiter(NamedTuple):
    """A command that waits, and the beginning of its input that it has been given."""

    process: subprocess.Popen[str]
    beginning: str


class Waiting:
    """Commands that wait, at most one of each kind. Not thread-safe."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[str, ...], Waiter] = {}

    def take(self, command: list[str], size: int) -> Waiter | None:
        """Return a command that waits, which is the caller's from then on; None where none does.

        None, too, where so many bytes may not fit into its pipe: writing them could block.
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
        """Have a command wait, unless one does; where it cannot be started, whoever needs it will say why."""
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
