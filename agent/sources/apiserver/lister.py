"""One kind's list: from its pages to what is told of them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

from agent import log
from agent.kube.events import Sink, Synced
from agent.kube.model import Kind
from agent.kube.wire import Decoded, Page
from agent.sources.apiserver.absence import Absence
from agent.sources.apiserver.contact import Clock
from agent.sources.apiserver.faults import resource
from agent.sources.apiserver.listing import pages
from agent.sources.apiserver.proof import UnprovenError, number
from agent.sources.apiserver.told import Told
from agent.sources.apiserver.versions import Versions

_log = log.get(__name__)

MANY_EXPIRED = 2
"""After so many lists that expired before their end, one is asked for in one piece."""
_AFTER_SECONDS = 5.0


class DoubtedError(Exception):
    """A list is not believed until another one, later, says the same."""


class Lister:
    """Tells of one kind what there is, what has changed since it was listed last, and what is gone.

    ``get`` sends a query and returns the answer's body; ``heard`` is called for each that is what was asked
    for. ``verify`` makes sure that the same cluster answers still, and raises what it finds; ``known`` says
    whether there is one to compare with. ``anything``: nothing that could be lost holds here, so that the
    first list may be as old as the server likes. ``first``: a fieldSelector of objects to be told before all,
    which wait for ``after`` then.
    """

    def __init__(
        self,
        kind: Kind,
        told: Told,
        absence: Absence,
        sink: Sink,
        get: Callable[[Mapping[str, str]], bytes],
        heard: Callable[[], None],
        verify: Callable[[], None],
        known: Callable[[], bool],
        *,
        stopping: threading.Event,
        anything: bool,
        first: str,
        after: Sequence[threading.Event],
        clock: Clock,
    ) -> None:
        self.synced = False
        """Whether everything that there was at first has been told."""
        self._kind = kind
        self._told = told
        self._absence = absence
        self._sink = sink
        self._get = get
        self._heard = heard
        self._verify = verify
        self._known = known
        self._stopping = stopping
        self._anything = anything
        self._first = first
        self._after = after
        self._clock = clock

    def tell(self, expired: int) -> str:
        """List, and return the resourceVersion to watch from; "" when it was stopped.

        Until synced, each page is told as it comes. Later nothing is told before all of it is known to be a
        list, and of the same cluster. ``expired``: so many lists before this one were too old. Raises
        UnprovenError, DoubtedError, and what ``get`` and ``verify`` raise.
        """
        if self._first:
            self._tell_first(expired)
        began = time.monotonic()
        listed = Versions()
        kept: list[list[Decoded]] = []
        last: Page | None = None
        back = at_once = False
        for page in self._pages({}, expired):
            if last is None:
                back = self._goes_back(page)
                at_once = not self.synced and not back
                if at_once and self._known():
                    self._verify()
            last = page
            before = len(listed)
            for item in page.items:
                listed.note(item.key, 0)
            if len(listed) != before + len(page.items):
                raise UnprovenError("a list names an object twice")
            if at_once:
                self._tell_page(page)
            else:
                kept.append(page.items if back else self._told.news(page.items))
        if self._stopping.is_set() or last is None:
            return ""
        if not at_once:
            self._verify()
        self._finish(number(last.resource_version), listed, kept, back=back)
        _log.info(
            "listed",
            kind=self._kind.value,
            objects=len(listed),
            seconds=round(time.monotonic() - began, 3),
            resource_version=last.resource_version,
        )
        return last.resource_version

    def _tell_first(self, expired: int) -> None:
        """Tell what is wanted before all else, once, and leave the machine to what else is wanted then."""
        for at, page in enumerate(self._pages({"fieldSelector": self._first}, expired)):
            if not at and self._known():
                self._verify()
            self._tell_page(page)
        self._first = ""
        self._sink([Synced(self._kind, here=True)])
        until = time.monotonic() + _AFTER_SECONDS
        for event in self._after:
            event.wait(max(0.0, until - time.monotonic()))

    def _pages(self, selector: Mapping[str, str], expired: int) -> Iterator[Page]:
        """Yield the pages of a list, or of a part of it."""
        # Of one node's pods there are few: asked for in pages, servers that page from their store alone
        # would read every pod of the cluster there. And a whole answer cannot expire before its end.
        whole = bool(selector) or expired >= MANY_EXPIRED
        not_older = {} if expired else self._not_older()
        for page in pages(self._kind, lambda query: self._get({**query, **selector}), not_older, whole=whole):
            self._heard()
            yield page
            if self._stopping.is_set():
                return

    def _tell_page(self, page: Page) -> None:
        self._told.reach(number(page.resource_version))
        self._told.tell(self._told.news(page.items))

    def _not_older(self) -> dict[str, str]:
        """Return what of a request says how old its answer may be (API concepts, resource versions)."""
        # The version 0 would mean anything at all, too, but is answered in one piece.
        version = self._told.latest or int(self._anything)
        if not version or self._absence.due is not None:
            return {}
        return {"resourceVersion": str(version), "resourceVersionMatch": "NotOlderThan"}

    def _goes_back(self, page: Page) -> bool:
        """Whether a list is older than what was told, where that says something of what holds here."""
        version = number(page.resource_version)
        if version >= self._told.latest:
            return False
        if self._anything and not self.synced:
            self._told.start_over(version)
            return False
        return True

    def _finish(self, version: int, listed: Versions, kept: list[list[Decoded]], *, back: bool) -> None:
        """Take in what a whole list says, as far as it is believed."""
        now = self._clock()
        before = self._absence.due is not None
        if not back:
            self._absence.goes_on()
        believed = not back or self._absence.goes_back(now)
        gone = self._absence.gone(self._told, listed, now)
        self._say_doubt(before)
        if not believed:
            raise DoubtedError
        if back:
            _log.warning(
                "the cluster is in an older state than before",
                kind=self._kind.value,
                resource_version=version,
            )
            self._told.start_over(version)
        self._told.reach(version)
        for items in kept:
            self._told.tell(items)
        self._told.gone(gone)
        self._anything = False
        self._told.counts.lists += 1
        if not self.synced and self._absence.due is None:
            self._sink([Synced(self._kind)])
            self.synced = True

    def _say_doubt(self, before: bool) -> None:
        fault = self._absence.doubt(resource(self._kind))
        if fault and not before:
            _log.warning("a list is not believed yet", kind=self._kind.value, fault=fault)
        elif before and not fault:
            _log.warning("a list that was doubted is settled by a later one", kind=self._kind.value)
