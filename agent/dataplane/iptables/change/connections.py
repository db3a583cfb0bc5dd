"""The connections of addresses that change hands: none may go on as the next owner's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set

from agent import log
from agent.dataplane.iptables.held import Tracked
from agent.fault import Fault
from agent.kernel.conntrack import ConntrackError

_log = log.get(__name__)


class Connections:
    """Has connection tracking forget addresses, and keeps the record of those that it has yet to forget."""

    def __init__(self, forget: Callable[[Iterable[bytes]], int], tracked: Tracked) -> None:
        """``forget`` returns how many connections there were. It may raise ConntrackError."""
        self._forget = forget
        self._tracked = tracked
        self.forgotten = 0
        """How many connections have been forgotten."""

    def forget(self, released: Set[bytes]) -> list[Fault]:
        """Forget connections of released addresses, and those that could not be forgotten before."""
        wanted = self._tracked.unforgotten | released
        if not wanted:
            return []
        # One walk of the table costs the same for all of them.
        wanted |= self._tracked.vacant
        self._tracked.vacant = set()
        try:
            count = self._forget(wanted)
        except ConntrackError as error:
            self._tracked.unforgotten = wanted
            return [error.fault()]
        self._tracked.unforgotten = set()
        self.forgotten += count
        if count:
            _log.info("connections forgotten", addresses=len(wanted), connections=count)
        return []

    def forget_vacant(self) -> list[Fault]:
        """Forget those of addresses that nobody has, too: it is quiet."""
        return self.forget(self._tracked.vacant)
