"""Keeps the links of this node's pods known while some of them are isolated, off the path of events.

::

    Engine ──► whose addresses are here ──► thread: looks at the kernel, when links or addresses change
                                               │
    Backend.relink ◄── what is not another's ◄─┘
"""

from __future__ import annotations

import contextlib
import os
import weakref
from collections.abc import Callable, Mapping
from typing import NamedTuple

from agent import log
from agent.clock import NEVER, SYSTEM, Clock
from agent.dataplane.podlinks import LinkFinder, PodLink, PodLinkChanges
from agent.kube.model import Key
from agent.observe.links import NO_LINKS, count
from agent.policy.engine import Engine
from agent.policy.lower.lowered import Delta
from agent.runtime.inbox import Inbox
from agent.runtime.threads import StartThread, Thread, start_thread

_log = log.get(__name__)

PAUSE = 0.2
"""Seconds between two looks at the kernel, or at what the engine knows, whatever happens."""
AFTER_NEWS = 1.0
"""Seconds after a look that found something else: a pod that changes its addresses all the time does not have
rules written all the time."""
REST = 20
"""How many times as long as a look took the thread waits until the next."""
AT_LATEST = 0.5
"""Seconds after which rules are written though other things go on."""
UNHEARD = 5.0
"""Seconds between two looks where the kernel does not tell of changes in pods' namespaces."""
LONGEST = 60.0
"""Seconds between two looks though nothing is heard."""
RETRY = 5.0

_NOTHING: tuple[tuple[PodLink, ...], frozenset[bytes]] = ((), frozenset())

CLOSED = Key("", "")
"""Stands for whoever had an address that stays closed though no pod has it."""


def owners_of(engine: Engine, *, of_all: bool = False) -> dict[bytes, Key]:
    """Return whose the addresses are that links are looked for by.

    None where nobody is isolated and new pods are open, unless those ``of_all`` pods are wanted.
    """
    program = engine.lowered
    closed = set().union(*program.closed.values())
    if not (program.pods or closed or program.known is not None or of_all):
        return {}
    owners = dict.fromkeys(closed, CLOSED)
    return owners | {address: pod.key for pod in engine.local_pods() for address in pod.addresses}


def without_others_addresses(engine: Engine, links: tuple[PodLink, ...]) -> tuple[PodLink, ...]:
    """Take away what a pod claims though the API says that it is another's, on whatever node."""
    return tuple(
        link._replace(others=tuple(a for a in link.others if engine.owner(a) is None)) for link in links
    )


class _Found(NamedTuple):
    """A look: the links, None if they are as before, and for whose it looked, None if that failed.

    ``inside``: all addresses that were seen inside pods, where the links are not as before.
    """

    links: tuple[PodLink, ...] | None
    owners: Mapping[bytes, Key] | None
    inside: frozenset[bytes] = frozenset()


class LinkedPods:
    """Used by the main loop's thread, but for :attr:`counts`, which any thread may read.

    ``senders``: the links of all pods are wanted, and who sends by each.
    """

    def __init__(
        self,
        engine: Engine,
        inbox: Inbox,
        clock: Clock = SYSTEM,
        start_thread: StartThread = start_thread,
        *,
        senders: bool = False,
    ) -> None:
        self._engine = engine
        self._clock = clock
        self._senders = senders
        always = engine.lowered.known is not None
        self._watch = _Watch(inbox, self._found, clock, start_thread, senders=senders, always=always)
        self._links: tuple[PodLink, ...] = ()
        self._looked_for: Mapping[bytes, Key] | None = None
        """For whose links it was looked last; None: that failed, or is still to come."""
        self._owners_due = False
        self._at = 0.0
        self._since: float | None = None
        self.counts = NO_LINKS
        self.changes = 0
        """How often links or pods have changed."""
        self.inside: frozenset[bytes] = frozenset()
        """The addresses inside pods, as they were found last."""

    def start(self) -> None:
        """Begin to look, as soon as a pod is isolated."""
        self._watch.start()

    def stop(self) -> None:
        """Have the thread end."""
        self._watch.stop()

    @property
    def alive(self) -> bool:
        """Whether the thread is."""
        return self._watch.alive

    def changed(self, delta: Delta) -> None:
        """Take note that events came, and of what they changed."""
        self._owners_due = True
        if delta.pods:
            self._changed()

    def synced(self) -> None:
        """Take note that the kernel was moved to the whole program."""
        self._owners_due = True
        self._changed()

    def look(self) -> tuple[PodLink, ...]:
        """Look for links now, on this thread; none where that fails, which the other thread tells."""
        try:
            self._links = LinkFinder(senders=self._senders).find(self._owners())
        except OSError:
            self._links = ()
        return self.known()

    @property
    def looked(self) -> bool:
        """Whether the last look found what there was."""
        return self._looked_for is not None

    @property
    def written(self) -> bool:
        """Whether the backend was told of the links as they are known, since pods have changed last."""
        return self._since is None

    @property
    def settled(self) -> bool:
        """Whether it looked for the links of all pods that are known now."""
        return self._looked_for == self._owners()

    def known(self) -> tuple[PodLink, ...]:
        """Return the links that were found last."""
        return without_others_addresses(self._engine, self._links)

    def pods_by_link(self) -> dict[str, Key]:
        """Return whose each link is, by the interface's name. For any thread."""
        return {link.name: link.pod for link in self._links if link.pod is not None}

    def due(self, quiet_at: float) -> float:
        """Return when to :meth:`take`; ``quiet_at``: when it will have been quiet long enough."""
        due = self._at if self._owners_due else NEVER
        return due if self._since is None else min(due, quiet_at, self._since + AT_LATEST)

    def take(self, now: float, *, quiet: bool) -> tuple[PodLink, ...] | None:
        """Return the links that the backend is to know of, where something changed and it is time for it.

        ``quiet``: nothing else is to be written.
        """
        if self._owners_due and now >= self._at:
            self._owners_due, self._at = False, now + PAUSE
            self._watch.want(self._owners())
        if self._since is None or not (quiet or now >= self._since + AT_LATEST):
            return None
        self._since = None
        links = self.known()
        self.counts = count(self._engine.lowered, links)
        return links

    def _owners(self) -> dict[bytes, Key]:
        return owners_of(self._engine, of_all=self._senders)

    def _found(self, found: _Found) -> None:
        self._looked_for = found.owners
        if found.links is not None:
            self._links, self.inside = found.links, found.inside
            self._changed()

    def _changed(self) -> None:
        self.changes += 1
        if self._since is None:
            self._since = self._clock.monotonic()


class _Watch:
    """The thread that looks at the kernel."""

    def __init__(
        self,
        inbox: Inbox,
        found: Callable[[_Found], None],
        clock: Clock,
        start_thread: StartThread,
        *,
        senders: bool,
        always: bool,
    ) -> None:
        """Do nothing yet. ``always``: it is to look though no pod is known."""
        self._senders = senders
        self._always = always
        self._inbox = inbox
        self._found = found
        self._clock = clock
        self._start_thread = start_thread
        self._owners: Mapping[bytes, Key] = {}
        self._wakes = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        weakref.finalize(self, os.close, self._wakes)
        self._thread: Thread | None = None
        self._stopped = False

    def start(self) -> None:
        self._thread = self._start_thread("pod-links", self._run)

    def stop(self) -> None:
        self._stopped = True
        os.eventfd_write(self._wakes, 1)

    @property
    def alive(self) -> bool:
        return self._thread is not None and self._thread.is_alive()

    def want(self, owners: Mapping[bytes, Key]) -> None:
        """Have the links of pods with these addresses looked for."""
        if owners != self._owners:
            self._owners = owners
            os.eventfd_write(self._wakes, 1)

    def _run(self) -> None:
        while not self._stopped:
            try:
                with PodLinkChanges() as changes:
                    self._look(changes)
            except Exception as error:
                # Whatever it is: pods are judged by their addresses all the same, and this thread goes on.
                _log.warning("the links of pods cannot be found", error=str(error) or type(error).__name__)
                self._tell(_Found((), None))
                self._clock.sleep(RETRY)

    def _look(self, changes: PodLinkChanges) -> None:
        """Look now, and whenever something may have changed. Raises OSError."""
        finder = LinkFinder(senders=self._senders)
        looked: tuple[tuple[PodLink, ...], frozenset[bytes]] | None = None
        told: Mapping[bytes, Key] | None = None
        at_latest = LONGEST if changes.everywhere else UNHEARD
        if not changes.everywhere:
            _log.info("addresses inside pods are looked for", every=UNHEARD, missing="CAP_NET_BROADCAST")
        while not self._stopped:
            owners = self._owners
            began = self._clock.monotonic()
            found = _NOTHING
            if owners or self._always:
                found = finder.find(owners), finder.inside
            pause = PAUSE
            if found != looked:
                looked, pause = found, AFTER_NEWS
                links, inside = found
                self._tell(_Found(links, owners, inside))
            elif owners is not told:
                self._tell(_Found(None, owners))
            told = owners
            self._clock.sleep(max(pause, REST * (self._clock.monotonic() - began)))
            while not self._stopped:
                changes.wait_with(self._wakes, at_latest)
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self._wakes)
                if owners or self._owners or self._always:
                    break

    def _tell(self, found: _Found) -> None:
        self._inbox.call(lambda: self._found(found))
