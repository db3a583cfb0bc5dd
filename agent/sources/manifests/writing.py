"""Whether a file is still being written: a part of a manifest can be a valid manifest that allows more.

Cut off after ``ports:``, a rule opens every port; cut off between two documents, it takes the later ones
away. A program that replaces a file by renaming another onto its name never shows a part. One that writes
in place does, for as long as it has the file open: the kernel tells by refusing a read lease (fcntl(2),
``F_SETLEASE``). Where it grants none, or cannot know of writers on another machine, quiet has to do.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import os
import signal
from collections.abc import Iterator
from pathlib import Path

QUIET_SECONDS = 1.0
"""How long a file must be left alone before it counts as whole, where the kernel cannot tell."""
UNENDED_SECONDS = 1.0
"""How long a text must be left alone that was written in place and does not end with a newline.

Its writer has closed it, and may have been ended in the middle: whoever started that one has this long to
write it again."""

_F_SETSIG = 10
_LOCAL = frozenset({"btrfs", "ext2", "ext3", "ext4", "f2fs", "overlay", "ramfs", "tmpfs", "xfs", "zfs"})


class BeingWrittenError(Exception):
    """A file has a writer, or may have one; the text says which."""


@contextlib.contextmanager
def unwritten(file: int, quiet: float) -> Iterator[None]:
    """Keep an open regular file from being written while in the context.

    ``quiet`` is for how many seconds it is known to have been left alone. Raises BeingWrittenError.
    """
    try:
        # Of a writer that comes meanwhile the kernel would tell by a signal that ends the process; not by
        # this one. The writer waits.
        fcntl.fcntl(file, _F_SETSIG, signal.SIGURG)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except BlockingIOError:
        raise BeingWrittenError("a program has it open for writing") from None
    except OSError:
        leased = False
    else:
        leased = True
    try:
        if quiet < QUIET_SECONDS and not (leased and _is_local(os.fstat(file).st_dev)):
            raise BeingWrittenError("it has just been written")
        yield
    finally:
        if leased:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)


@functools.cache
def _is_local(device: int) -> bool:
    """Whether only this machine writes to a file system."""
    wanted = f"{os.major(device)}:{os.minor(device)}"
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/mountinfo").read_text(errors="replace").splitlines():
            mount, _, source = line.partition(" - ")
            if mount.split(" ", 3)[2] == wanted:
                return source.split(" ", 1)[0] in _LOCAL
    return False
