"""What follows when the API server says that a resourceVersion is too old (410 Gone): another list, and when.

A list is dear, so that one that nothing came of is asked for after ever longer pauses. To be refused is not:
each second it is seen whether the server still refuses, and a node does not wait for a list's pause when the
server is itself again.
"""

from __future__ import annotations

import random
import time
from math import inf

from agent.sources.apiserver.backoff import LIMITED_SECONDS, Backoff, Uniform
from agent.sources.apiserver.contact import Clock


class Expiry:
    """Answers of one kind that say so, one after the other. ``backoff`` is that of all its failures.

    ``lists``: how many lists in a row came to nothing since they, or the watch after one, were too old.
    """

    def __init__(
        self, backoff: Backoff, clock: Clock = time.monotonic, uniform: Uniform = random.uniform
    ) -> None:
        self.lists = 0
        self._backoff = backoff
        self._clock = clock
        self._uniform = uniform
        self._due = inf

    @property
    def waits(self) -> bool:
        """Whether a list is to be asked for later, and a watch from the one before is tried meanwhile."""
        return self._due < inf

    def begin(self, *, watches: bool) -> bool:
        """Return whether to ask for a list now, and not only for a watch, which it can where ``watches``."""
        listing = not watches or self._clock() >= self._due
        if listing:
            self._due = inf
        elif not self.waits:
            self.lists = 0
        return listing

    def goes_on(self) -> None:
        """Take note that a list has been good for long: a watch from it still tells something, or is open."""
        self._backoff.reset()
        self._due = inf

    def refused_list(self, *, answered: bool) -> float:
        """Return the seconds to wait after a list was refused; ``answered``: a page of it had come."""
        self.lists += 1
        return self._backoff.next(None if answered else LIMITED_SECONDS)

    def refused_watch(self, *, listed: bool, lately: bool) -> float:
        """Return the seconds to wait after a watch was refused.

        ``listed``: it was the first after a list. ``lately``: that list was made only just now, whatever was
        told since: a server may tell a little after each list.
        """
        if not self.waits:
            if not lately:
                # The server has answered: what it did before says nothing of now.
                self._backoff.reset()
            self.lists = int(listed)
            pause = self._backoff.next()
            if not lately or pause <= LIMITED_SECONDS:
                return pause
            self._due = self._clock() + pause
        return min(max(0.0, self._due - self._clock()), LIMITED_SECONDS * self._uniform(0.5, 1.0))
