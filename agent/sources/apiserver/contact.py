"""Whether the API server serves, as all kinds' threads share it: the first that hears it wakes the others."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable

from agent import log
from agent.sources.apiserver.backoff import Uniform

_log = log.get(__name__)

RETURN_SECONDS = 1.0
"""Within so long after the server is back all is asked for again: a fleet is not to come as one."""

_SAID = 10
"""So many faults of one outage are logged."""

Clock = Callable[[], float]


class Contact:
    """How the server was heard last. Thread-safe; ``clock`` is ``time.monotonic``, or a test's.

    A thread whose request fails says so (:meth:`trouble`), which has the server probed. Only where the probe
    fails, too, is the server away: then nobody asks it but the probe, and whoever is answered first, ends
    it for all. Where the probe is answered, the trouble is that of one request, and waits for itself.
    """

    def __init__(self, clock: Clock = time.monotonic, uniform: Uniform = random.uniform) -> None:
        self._clock = clock
        self._uniform = uniform
        self._changed = threading.Condition()
        self._stopped = False
        self._suspected = False
        self._away_since = 0.0
        self._returns = 0
        self._fault = ""
        self._said: set[str] = set()

    @property
    def returns(self) -> int:
        """How often the server has come back: for :meth:`pause`, taken before a request is begun."""
        return self._returns

    @property
    def outages(self) -> int:
        """How often the server has been away, an outage that lasts included."""
        return self._returns + self.away

    @property
    def stopped(self) -> bool:
        return self._stopped

    @property
    def away(self) -> bool:
        return self._away_since > 0.0

    @property
    def fault(self) -> str:
        """Why the probe was not answered last, while the server is away; else ""."""
        return self._fault if self._away_since else ""

    def trouble(self) -> None:
        """Have the server probed soon: a request has failed."""
        with self._changed:
            self._suspected = True
            self._changed.notify_all()

    def lost(self, fault: str) -> None:
        """Note that the probe was not answered as by a server that serves."""
        with self._changed:
            self._suspected = True
            if not self._away_since:
                self._away_since = self._clock()
                self._said.clear()
            self._fault = fault
            # One that changes to and fro is said once, and a text that is never the same not without end.
            news = fault not in self._said and len(self._said) < _SAID
            if news:
                self._said.add(fault)
        if news:
            _log.warning("API server away", fault=fault)

    def served(self) -> None:
        """Note that a new request was answered as it should be."""
        if not self._suspected:
            return
        with self._changed:
            self._suspected = False
            if not self._away_since:
                return
            seconds = self._clock() - self._away_since
            self._away_since = 0.0
            self._returns += 1
            self._changed.notify_all()
        _log.info("API server answers again", away_seconds=round(seconds, 1))

    def pause(self, seconds: float, returns: int) -> bool:
        """Wait so many seconds, while the server is away until it is back; return whether it came back.

        ``returns`` is what it was before the request that failed: a server that came back since is one that
        has come back. Then the wait is a moment within :data:`RETURN_SECONDS`.
        """
        with self._changed:
            end = self._clock() + seconds
            while not self._stopped and self._returns == returns and (left := end - self._clock()) > 0:
                self._changed.wait(left)
            if self._returns == returns or self._stopped:
                return False
            end = self._clock() + self._uniform(0.0, RETURN_SECONDS)
            while not self._stopped and (left := end - self._clock()) > 0:
                self._changed.wait(left)
            return True

    def wait_for_trouble(self, seconds: float) -> bool:
        """Wait until a request has failed, at most so long; return whether one has."""
        with self._changed:
            self._changed.wait_for(lambda: self._suspected or self._stopped, seconds)
            return self._suspected

    def rest(self, seconds: float) -> None:
        """Wait so many seconds, or until :meth:`stop`."""
        with self._changed:
            self._changed.wait_for(lambda: self._stopped, seconds)

    def stop(self) -> None:
        """End every wait, and have none from now on."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()
