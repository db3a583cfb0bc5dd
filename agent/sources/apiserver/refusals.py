"""When one kind that the server refuses, while it serves others, is asked for again: soon, at little cost."""

from __future__ import annotations

import random
import time
from collections.abc import Callable

from agent.sources.apiserver.backoff import LIMITED_SECONDS, Uniform
from agent.sources.apiserver.contact import Clock, Contact

SOON_SECONDS = 1.0, 2.5
"""How often something small is asked, which costs the server little: between so many seconds, and so many."""
FIRST_LIST, LAST_LIST = 3, 24
"""After so many refused watches a list is asked for, then after twice as many, and after so many at most."""
FORBIDDEN = 30
FORBIDDEN_SECONDS = 5.0
"""A server that has just started forbids all until it has read who may what. After so many times in a row
it is a right that is missing, and it is asked less often."""


def longest_pause(verb: str, code: int, failures: int) -> float | None:
    """Return the longest pause after a refusal by an HTTP code; None: as long as failures make it.

    To give a list is dear to a server that failed. To refuse one is not, nor is a watch.
    """
    if code == 429:
        return LIMITED_SECONDS
    if verb == "list" and code >= 500:
        return None
    return FORBIDDEN_SECONDS if code in (403, 404) and failures >= FORBIDDEN else max(SOON_SECONDS)


class Refusals:
    """Refused watches of one kind, in a row: the refusal may be of the version that is asked for.

    A cluster restored from a backup is behind it, and says so with a timeout; a proxy may with a 400. Where
    the watches that follow a list are refused as well, the next list has time: it is dear.
    """

    def __init__(self) -> None:
        self._count = 0
        self._enough = FIRST_LIST

    def another(self) -> bool:
        """Note one more; return whether to list anew."""
        self._count += 1
        if self._count < self._enough:
            return False
        self._count, self._enough = 0, min(LAST_LIST, 2 * self._enough)
        return True

    def end(self) -> None:
        """Note that a watch has told something."""
        self._count, self._enough = 0, FIRST_LIST


class Recovery:
    """Waits where a list failed, and sees soon that the server can give it again.

    A list is dear to a server in trouble, so that it is asked for after ever longer pauses. Meanwhile ``ask``
    asks for one object of the kind, and raises what a request may. Only where that is refused, too, does it
    say something when it is answered: what had failed is not the size of the list.
    """

    def __init__(
        self,
        ask: Callable[[], object],
        contact: Contact,
        clock: Clock = time.monotonic,
        uniform: Uniform = random.uniform,
    ) -> None:
        self._ask = ask
        self._contact = contact
        self._clock = clock
        self._uniform = uniform
        self._early = 0
        """So many pauses in a row were ended before their time, each for a list that failed, too: the next
        one is ended after twice as many answers."""

    def listed(self) -> None:
        """Note that the list was given: what comes next is another failure."""
        self._early = 0

    def pause(self, seconds: float, returns: int) -> bool:
        """Wait as :meth:`Contact.pause` does, or until the kind is answered again."""
        end = self._clock() + seconds
        least, most = SOON_SECONDS
        early, self._early = self._early, 0
        answered = 0
        asks = seconds > most and not self._contact.away and self._is_refused()
        while asks and end - self._clock() > most and not (self._contact.away or self._contact.stopped):
            if self._contact.pause(self._uniform(least, most), returns):
                return True
            if not self._contact.stopped:
                answered = 0 if self._is_refused() else answered + 1
            if answered == 2**early:
                self._early = early + 1
                return False
        return self._contact.pause(end - self._clock() if asks else seconds, returns)

    def _is_refused(self) -> bool:
        try:
            self._ask()
        except Exception:
            # Whatever it is: the list meets it, too, and names it.
            return True
        return False
