"""Processes that end with the one that started them."""

from __future__ import annotations

import os
from collections.abc import Sequence


def dies_with_us(command: Sequence[str]) -> list[str]:
    """Return a command that the kernel kills when the thread that started it ends (``prctl(2)``).

    A parent that ended before the child could ask for that is not told of any more: then its parent is
    another one already, and it ends by itself. The process keeps its number all the way.
    """
    check = '[ "$PPID" = "$0" ] && exec "$@"'
    return ["setpriv", "--pdeathsig", "KILL", "sh", "-c", check, str(os.getpid()), *command]
