"""Which absences from a list are believed at once, and which only when a later list says the same.

A list that lacks some objects is the usual way to hear that they are gone. One that lacks *every* object
that was there, or whose version is older than what was told, far more often comes from a server that has
lost its data, or from another cluster, and believing it would open every pod of the node. So that is believed
when another list, some time later, says it too. What a watch says was deleted is gone at once: there the
server names it.
"""

from __future__ import annotations

from collections.abc import Iterable

from agent.kube.model import Key
from agent.sources.apiserver.versions import Versions

CONFIRM_EMPTY_SECONDS = 30.0
"""How long after a doubtful list another one must say the same, unless a setting says otherwise."""


class Absence:
    """Judges the lists of one kind.

    ``seconds``: how long after a doubtful list another must say the same; with 0 nothing is doubted.
    ``remembered``: an agent before this one was told of objects, whose names are not known any more. Times
    are passed in, those of one monotonic clock.
    """

    def __init__(self, seconds: float, *, remembered: bool = False) -> None:
        self._seconds = seconds
        self._remembered = remembered
        self._held: set[Key] = set()
        self._nothing = False
        self._back = False
        self._due = 0.0
        self._trusting = False

    @property
    def due(self) -> float | None:
        """When to list again, to have it confirmed; None when nothing is in doubt."""
        return self._due if self._held or self._nothing or self._back else None

    def doubt(self, objects: str) -> str:
        """Say what is in doubt of the list of ``objects``, and what becomes of it; "" when nothing is."""
        if self.due is None:
            return ""
        what = []
        if self._back:
            what.append(
                "is older than what was told before (a cluster restored from a backup, or another store "
                "behind the address)"
            )
        if self._held:
            what.append(f"lacks all {len(self._held)} that were there")
        if self._nothing:
            what.append("is empty, and there were some before this agent started")
        return (
            f"the list of {objects} {' and '.join(what)}; what is in force stays until a second list, "
            f"{self._seconds:g} s later, says the same (--confirm-empty); if that is wrong, check the API "
            "server and its store"
        )

    def trust(self) -> None:
        """Believe the next list, whatever it says: a person has confirmed the cluster."""
        self._clear()
        self._trusting = True

    def told(self, key: Key) -> None:
        """Doubt an object no longer: a watch told of it, or of its deletion."""
        self._held.discard(key)

    def goes_back(self, now: float) -> bool:
        """Return whether a whole list is believed now that is older than what was told before."""
        if self._trusting or not self._seconds:
            return True
        if self._back and now >= self._due:
            self._back = False
            return True
        if not self._back:
            # Whatever else is in doubt: the second list is to say all of it.
            self._back = True
            self._due = now + self._seconds
        return False

    def goes_on(self) -> None:
        """Note a whole list that is not older than what was told before: an older one was wrong."""
        if self._back:
            self._held.clear()
        self._back = False

    def gone(self, known: Iterable[Key], listed: Versions, now: float) -> list[Key]:
        """Return which known objects are gone, where those of a whole list are ``listed``."""
        absent = []
        some_left = False
        for key in known:
            if key in listed:
                some_left = True
                self._held.discard(key)
            else:
                absent.append(key)
        if self._trusting or not self._seconds:
            self._clear()
            return absent
        if len(listed):
            self._nothing = False
        news = [key for key in absent if key not in self._held]
        unnamed = self._remembered and not len(listed) and not absent
        self._remembered = False
        if (news or unnamed) and not some_left:
            self._held.update(news)
            self._nothing = self._nothing or unnamed
            self._due = now + self._seconds
            return []
        if self.due is not None and now < self._due:
            return news
        back = self._back
        self._clear()
        self._back = back
        return absent

    def _clear(self) -> None:
        self._held.clear()
        self._nothing = self._back = self._trusting = self._remembered = False
