"""The connections of addresses that change hands: none may go on as the next owner's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Set

from agent import log
from agent.fault import Fault
from agent.kernel.conntrack import ConntrackError

_log = log.get(__name__)


class Connections:
    """Has connection tracking forget addresses, and remembers which ones it has yet to forget.

    ``unforgotten``: those that it could not forget, which get into no set and are not opened. ``vacant``:
    those that nobody has, whose connections are forgotten together when it is quiet.
    """

    def __init__(self, forget: Callable[[Iterable[bytes]], int]) -> None:
        """``forget`` returns how many connections there were. It may raise ConntrackError."""
        self._forget = forget
        self.unforgotten: set[bytes] = set()
        self.vacant: set[bytes] = set()
        self.forgotten = 0
        """How many connections have been forgotten."""

    def forget(self, released: Set[bytes]) -> list[Fault]:
        """Forget connections of released addresses, and those that could not be forgotten before."""
        wanted = self.unforgotten | released
        if not wanted:
            return []
        # One walk of the table costs the same for all of them.
        wanted |= self.vacant
        self.vacant = set()
        try:
            count = self._forget(wanted)
        except ConntrackError as error:
            self.unforgotten = wanted
            return [error.fault()]
        self.unforgotten = set()
        self.forgotten += count
        if count:
            _log.info("connections forgotten", addresses=len(wanted), connections=count)
        return []

    def forget_vacant(self) -> list[Fault]:
        """Forget those of addresses that nobody has, too: it is quiet."""
        return self.forget(self.vacant)
