"""Whether another program has written rules since they were last read: asked in microseconds."""

from __future__ import annotations

from collections.abc import Iterable

from agent.dataplane.iptables.variant import Mode
from agent.kernel import x_tables
from agent.kernel.netlink import NetlinkSocket
from agent.kernel.nf_tables import generation
from agent.net import Family

Version = tuple[object, ...]
"""Of the rules, as the kernel tells it; only to be compared."""


class Generation:
    """Knows the version that the rules have when nobody but this agent wrote any.

    In nft mode the kernel counts everybody's commits, so each of ours counts one. In legacy mode it tells of
    each table how many rules there are and where its built-in chains begin: a rule that comes or goes shows,
    one put in another's place does not.
    """

    def __init__(self, mode: Mode, families: Iterable[Family], netlink: NetlinkSocket) -> None:
        self._mode = mode
        self._families = tuple(families)
        self._netlink = netlink
        self._expected: Version = ()
        self._quiet = False
        self.own = 0
        """How many transactions of this agent the kernel took, in nft mode."""
        self.unsure = False
        """Whether it may have taken one more, of a command whose outcome is not known."""

    def mark(self) -> None:
        """Note the present version. Call it before reading: a write during the reading then shows."""
        self._expected = self._version()

    @property
    def marked(self) -> Version:
        """The version that was seen last, this agent's own writes since included."""
        return self._expected

    def mark_made(self) -> None:
        """Note the version again if a legacy table was not there before: reading it has made it."""
        if self._mode == "legacy" and None in self._expected:
            self.mark()

    def changed(self) -> bool:
        """Whether another program has written since :meth:`mark`."""
        return self._version() != self._expected

    def certain(self) -> bool:
        """Whether nobody else can have written: no if that cannot be told, as in legacy mode."""
        return self.certain_since(self._expected)

    def certain_since(self, marked: Version) -> bool:
        """Whether nobody at all can have written since a version was the present one."""
        return self._mode == "nft" and marked not in ((), (None,)) and self._version() == marked

    def before_write(self) -> None:
        """Note that this agent is about to write."""
        self._quiet = self._mode == "legacy" and not self.changed()

    def after_write(self, commits: int) -> None:
        """Note that this agent wrote, and how many transactions the kernel took."""
        if self._mode == "legacy":
            if self._quiet:
                self._expected = self._version()
            return
        self.own += commits
        if self._expected and isinstance(count := self._expected[0], int):
            self._expected = (count + commits,)

    def beside(self, commits: int) -> None:
        """Note that this agent has made transactions in tables of its own."""
        if self._mode == "nft":
            self.after_write(commits)

    def _version(self) -> Version:
        if self._mode == "nft":
            return (generation(self._netlink),)
        return tuple(x_tables.extent(family) for family in self._families)
