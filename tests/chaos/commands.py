"""The commands by which the agent reads and writes rules, and how they are made to fail."""

from __future__ import annotations

import enum
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.lab.node import Node

_PROGRAMS = tuple(
    f"{program}-{mode}-{action}"
    for program in ("iptables", "ip6tables")
    for mode in ("nft", "legacy")
    for action in ("restore", "save")
)


class Fails(enum.Enum):
    """How a command fails. Each is a line of a shell script."""

    AT_ONCE = 'echo "$0: Could not fetch rule set generation id: out of luck" >&2; exit 4'
    WITHOUT_END = "exec sleep 120"
    KILLED = "kill -KILL $$"
    KILLED_AFTER_WRITING = '{found} "$@"; kill -KILL $$'
    """As when the kernel runs out of memory at that moment: nobody knows whether it has written."""


class Commands:
    """Stands between an agent and the commands; to be made before the agent of the node starts."""

    def __init__(self, node: Node) -> None:
        self._directory = node.directory / "commands"
        self._directory.mkdir()
        path = f"{os.environ['PATH']}:/usr/sbin:/sbin"
        for name in _PROGRAMS:
            found = shutil.which(name, path=path)
            assert found is not None, f"{name} is not installed"
            fault = self._fault(name.rpartition("-")[2])
            lines = "".join(f"  {kind.name}) {kind.value.replace('{found}', found)} ;;\n" for kind in Fails)
            wrapper = self._directory / name
            wrapper.write_text(
                f'#!/bin/sh\ncase "$(cat {fault} 2>/dev/null)" in\n{lines}esac\nexec {found} "$@"\n'
            )
            wrapper.chmod(0o755)
        node.netns.environment["PATH"] = f"{self._directory}:{path}"

    def _fault(self, action: str) -> Path:
        return self._directory / f"fault-{action}"

    @contextmanager
    def failing(self, how: Fails, action: str = "restore") -> Iterator[None]:
        """Have all commands fail that ``restore`` or ``save`` rules, from those on that are started now."""
        part = self._directory / "part"
        part.write_text(how.name)
        part.rename(self._fault(action))
        try:
            yield
        finally:
            self._fault(action).unlink()
