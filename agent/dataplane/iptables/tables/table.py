"""A filter table as text, and how a command on it fails."""

from __future__ import annotations

Table = dict[str, tuple[str, ...]]
"""Chain name, built-in ones too, to its rules, each without the leading ``-A CHAIN``."""


class TableError(Exception):
    """An iptables command failed.

    ``line`` is the text of the restore line it names, where it names one. ``refused``: what it was given was
    not taken, so a part of that may do better; else the command did not get to work, or took too long.
    ``unknown``: it may have done it all the same. ``remedy`` is what a person can do, where that is known.
    """

    def __init__(
        self,
        command: str,
        reason: str,
        line: str = "",
        *,
        refused: bool = True,
        unknown: bool = False,
        remedy: str = "",
    ) -> None:
        self.command = command
        self.reason = reason
        self.line = line
        self.refused = refused
        self.unknown = unknown
        self.remedy = remedy
        at = f" at '{line}'" if line else ""
        super().__init__(f"{command} failed{at}: {reason}")
