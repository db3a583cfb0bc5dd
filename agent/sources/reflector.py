"""Keeping one kind of object in step with an API server: a paged list, then a watch that never ends."""

from __future__ import annotations

import contextlib
import random
import ssl
import threading
import time
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import urllib3

from agent import log
from agent.kube.events import Delete, Event, Invalid, Sink, Synced, Upsert
from agent.kube.model import Key, Kind, Pod
from agent.kube.wire import (
    Bookmark,
    Decoded,
    Page,
    Status,
    Unreadable,
    decode_status,
    decode_watch_line,
)
from agent.sources.connect import Connection
from agent.sources.faults import PATHS, RequestFailedError, failure, refusal
from agent.sources.kubeconfig import ConfigurationError
from agent.sources.listing import pages
from agent.sources.seen import Seen
from agent.sources.source import SyncState
from agent.sources.stream import allow_silence, batches
from agent.sources.versions import Versions

_log = log.get(__name__)

SILENCE_SECONDS = 90.0
"""How long one watch may be silent: API servers send a bookmark about each minute, if not always."""

_ANSWER_SECONDS = 30.0
_WATCH_SECONDS = (300, 600)
_BACKOFF_SECONDS = (0.2, 30.0)
_HEALTHY_SECONDS = 10.0
_REFUSALS = 3
_EXPIRED = 2
"""After so many lists that expired before their end, one is asked for in one piece."""
_AFTER_SECONDS = 5.0


class _Expired(Exception):  # noqa: N818 - not an error: the server no longer holds what was asked for
    """The resourceVersion or continue token is too old (410 Gone): list again."""


class _Silent(Exception):  # noqa: N818 - not an error: there may be nothing to tell
    """A watch that was open told nothing, not even a bookmark."""


class Reflector:
    """One kind's list and watch, on the thread that calls ``run``.

    Of each object only its key, resourceVersion and uid are kept, so that a later list tells what changed
    and what is gone. A list is never older than what this node was told, by this process or the one
    before (``seen``), which an API server can answer from its cache; where nothing is known, it is a
    consistent read, or, with ``anything``, whatever the server has at hand. So it never goes back in
    time, unless the cluster does: one restored from a backup gives its versions out again, so they say
    nothing then. No object is ever forgotten because of an error: it goes when the server says so, or
    when a whole list lacks it.
    """

    def __init__(
        self,
        kind: Kind,
        connection: Connection,
        sink: Sink,
        seen: Seen,
        *,
        anything: bool = False,
        first: str = "",
        after: Sequence[threading.Event] = (),
    ) -> None:
        """``first``: a fieldSelector of objects to be told before all, which wait for ``after`` then."""
        self.kind = kind
        self.listed = threading.Event()
        """Set when everything that there was at first has been told."""
        self.heard = 0.0
        """``time.monotonic()`` of the last bytes from the server while a watch is open, else 0.0."""

        self._connection = connection
        self._sink = sink
        self._stopping = threading.Event()
        self._response: urllib3.BaseHTTPResponse | None = None
        self._versions = Versions()
        """A hash of the resourceVersion and uid last told of each object: of 100,000 these would be 8 MB."""
        self._seen = seen
        self._anything = anything
        self._first = first
        self._after = after
        self._invalid: dict[Key, str] = {}
        self._resource_version = ""
        self._expired = 0
        """How many lists in a row came to nothing since they, or the watch after one, were too old."""
        self._synced = False
        self._fault = ""
        self._dropped = ""
        self._refusals = 0
        self._last_event = 0.0
        self._last_contact = 0.0

    def state(self) -> SyncState:
        return SyncState(
            synced=self._synced,
            objects=len(self._versions),
            last_event=self._last_event,
            last_contact=self._last_contact,
            fault=self._fault,
            faults=tuple(self._invalid.copy().values()),
            resource_version=self._resource_version,
        )

    def stop(self) -> None:
        """Make ``run`` return soon; does not wait for it."""
        self._stopping.set()
        self.listed.set()
        self.drop()

    def drop(self, fault: str = "") -> None:
        """End the connection that is open now because of a fault, waking the thread that reads it."""
        self._dropped = fault
        response = self._response
        if response is not None:
            with contextlib.suppress(Exception):
                response.shutdown()

    def run(self) -> None:
        """List and watch until stopped, through every failure."""
        attempt = 0
        while not self._stopping.is_set():
            began = time.monotonic()
            self._dropped = ""
            listing = not self._resource_version
            if not listing:
                self._expired = 0
            verb = "list" if listing else "watch"
            wait = 0.0
            try:
                if listing:
                    self._list()
                verb, began = "watch", time.monotonic()
                self._watch()
            except _Expired:
                _log.info("listing again", kind=self.kind.value, reason="resource version expired")
                # What one server has at hand may be too old for a second page, or for another's watch.
                self._expired = self._expired + 1 if verb == "list" else int(listing)
                self._resource_version = ""
            except _Silent:
                # An API server that was started anew sends no bookmarks of what has not changed since.
                _log.debug("watching again", kind=self.kind.value, reason="nothing came")
            except RequestFailedError as error:
                self._failed(refusal(self.kind, verb, error))
                wait = error.retry_after
                if error.code == 401:
                    self._connection.reset()
                if verb == "watch" and error.code >= 500:
                    self._count_refusal()
            except ConfigurationError as error:
                self._failed(str(error))
                self._connection.reset()
            except (urllib3.exceptions.HTTPError, OSError, msgspec.DecodeError) as error:
                self._failed(failure(error))
                if isinstance(error, urllib3.exceptions.SSLError | ssl.SSLError):
                    self._connection.reset()
            except Exception as error:
                # A fault of ours must not end the watch: the node would go stale in silence.
                _log.exception("watch failed", kind=self.kind.value)
                self._failed(f"internal error: {error!r}; retrying")
            if self._dropped:
                self._failed(self._dropped)
            # However it ended and little as it told: a proxy may end each watch that is silent for a minute.
            # A list that took long and failed is what a server in trouble should not be asked for at once.
            lasted = time.monotonic() - began > _HEALTHY_SECONDS
            healthy = verb == "watch" and lasted and self.heard > began
            self.heard = 0.0
            attempt = 0 if healthy else attempt + 1
            self._stopping.wait(max(min(wait, _BACKOFF_SECONDS[1]), _backoff(attempt)))

    def _count_refusal(self) -> None:
        """List anew after some refused watches.

        A cluster restored from a backup is behind the version asked for, and says so with a timeout.
        """
        self._refusals += 1
        if self._refusals >= _REFUSALS:
            self._refusals = 0
            self._resource_version = ""
            self._versions.doubt()

    def _list(self) -> None:
        """Tell every object, page by page, then what is gone since the last list, then Synced."""
        if self._first:
            self._list_first()
        began = time.monotonic()
        seen = Versions()
        unreadable = 0
        for page in self._told({}):
            unreadable += page.unreadable
            for item in page.items:
                seen.note(item.key, 0)
        if self._stopping.is_set():
            return
        self._finish_list(seen, unreadable)
        self._resource_version = page.resource_version
        _log.info(
            "listed",
            kind=self.kind.value,
            objects=len(seen),
            seconds=round(time.monotonic() - began, 3),
            resource_version=page.resource_version,
        )

    def _list_first(self) -> None:
        """Tell what is wanted before all else, once, and leave the machine to what else is wanted then."""
        for _ in self._told({"fieldSelector": self._first}):
            pass
        self._first = ""
        self._sink([Synced(self.kind, here=True)])
        until = time.monotonic() + _AFTER_SECONDS
        for event in self._after:
            event.wait(max(0.0, until - time.monotonic()))

    def _told(self, selector: Mapping[str, str]) -> Iterator[Page]:
        """Yield the pages of a list, or of a part of it, when what is news in each has been told."""
        # Of one node's pods there are few: asked for in pages, servers that page from their store alone
        # would read every pod of the cluster there. And a whole answer cannot expire before its end.
        whole = bool(selector) or self._expired >= _EXPIRED
        found = pages(
            self.kind, lambda query: self._get({**query, **selector}), self._not_older(), whole=whole
        )
        for page in found:
            self._look_for_a_restore(page.resource_version)
            self._tell([item for item in page.items if self._is_news(item)])
            yield page
            if self._stopping.is_set():
                return

    def _not_older(self) -> dict[str, str]:
        """Return what of a request says how old its answer may be (API concepts, resource versions)."""
        if self._expired:
            return {}
        # The version 0 would mean anything at all, too, but is answered in one piece.
        version = self._seen.latest or int(self._anything)
        if not version:
            return {}
        return {"resourceVersion": str(version), "resourceVersionMatch": "NotOlderThan"}

    def _look_for_a_restore(self, version: str) -> None:
        """Let nothing known pass for unchanged where the versions of the whole have gone back."""
        number = _number(version)
        if number < self._seen.latest:
            _log.warning("the cluster has gone back in time", kind=self.kind.value, resource_version=version)
            self._versions.doubt()
            self._seen.reset(number)
        self._seen.note(number)

    def _finish_list(self, seen: Versions, unreadable: int) -> None:
        if unreadable:
            # Which objects these are is unknown, so no absence is certain.
            _log.warning("objects without a readable name", kind=self.kind.value, objects=unreadable)
            gone = []
        else:
            gone = [key for key in self._versions if key not in seen]
        self._tell([Decoded(key, "", Delete(self.kind, key)) for key in gone])
        if not self._synced:
            self._sink([Synced(self.kind)])
            self._synced = True
            self.listed.set()

    def _get(self, query: Mapping[str, str]) -> bytes:
        response = self._connection.get(PATHS[self.kind], query, _ANSWER_SECONDS)
        self._response = response
        try:
            _raise_for(response)
            body: bytes = response.read()
        finally:
            # A page that nobody waits for any more may come while another request is under way.
            if self._response is response:
                self._response = None
            response.release_conn()
        self._contact()
        return body

    def _watch(self) -> None:
        """Watch from the last resourceVersion until the server ends it."""
        response = self._connection.get(
            PATHS[self.kind],
            {
                "watch": "true",
                "allowWatchBookmarks": "true",
                "resourceVersion": self._resource_version,
                "timeoutSeconds": str(random.randint(*_WATCH_SECONDS)),  # noqa: S311 - spreads load
            },
            _ANSWER_SECONDS,
        )
        self._response = response
        try:
            _raise_for(response)
            self._contact()
            allow_silence(response, SILENCE_SECONDS)
            # A stop or drop while the request was on its way found no response to end.
            if self._stopping.is_set() or self._dropped:
                return
            try:
                for lines in batches(response):
                    self._contact()
                    self._take(lines)
                    if self._stopping.is_set():
                        return
            except urllib3.exceptions.ReadTimeoutError:
                raise _Silent from None
        finally:
            self._response = None
            # Never back to the pool: what is left of its body would be read as the next answer.
            response.close()

    def _take(self, lines: list[bytes]) -> None:
        items: list[Decoded] = []
        version = ""
        status: Status | None = None
        for line in lines:
            change = decode_watch_line(self.kind, line)
            if isinstance(change, Decoded):
                items.append(change)
                version = change.resource_version or version
            elif isinstance(change, Bookmark):
                version = change.resource_version or version
            elif isinstance(change, Unreadable):
                _log.warning("watch event unreadable", kind=self.kind.value, problem=change.why)
            else:
                status = change
                break
        if version:
            self._seen.note(_number(version))
        self._tell(items)
        if version:
            self._resource_version = version
            self._refusals = 0
        if status is not None:
            if status.code == 410:
                raise _Expired
            raise RequestFailedError(status.code, status)

    def _is_news(self, item: Decoded) -> bool:
        return not item.resource_version or self._versions.get(item.key) != _version(item)

    def _tell(self, items: list[Decoded]) -> None:
        if not items:
            return
        events: list[Event] = [item.event for item in items]
        # Told first, remembered after: what the sink did not take is told again.
        self._sink(events)
        self._last_event = time.time()
        for item in items:
            key, _, event = item
            if isinstance(event, Delete):
                self._versions.forget(key)
                self._invalid.pop(key, None)
                continue
            self._versions.note(key, _version(item))
            if isinstance(event, Invalid):
                self._refuse(key, event)
            elif self._invalid:
                self._invalid.pop(key, None)

    def _refuse(self, key: Key, event: Invalid) -> None:
        self._invalid[key] = f"{self.kind} {key}: " + "; ".join(
            f"{p.field}: {p.message}" if p.field else p.message for p in event.problems
        )
        for problem in event.problems:
            _log.warning(
                "object refused",
                kind=self.kind.value,
                object=str(key),
                field=problem.field,
                problem=problem.message,
                meanwhile=event.meanwhile(None),
            )

    def _contact(self) -> None:
        self.heard = time.monotonic()
        self._last_contact = time.time()
        if self._fault:
            self._fault = ""
            _log.info("API server answers again", kind=self.kind.value)

    def _failed(self, fault: str) -> None:
        if self._stopping.is_set():
            return
        # Why a connection was dropped says more than how its reader met the end.
        fault = self._dropped or fault
        if fault != self._fault:
            _log.warning("API server trouble", kind=self.kind.value, fault=fault)
        self._fault = fault


def _version(item: Decoded) -> int:
    found = item.event.object if isinstance(item.event, Upsert) else None
    return hash((item.resource_version, found.uid if isinstance(found, Pod) else ""))


def _number(version: str) -> int:
    """Return a resourceVersion as the number that it is on every Kubernetes API server; 0 when it is none."""
    return int(version) if version.isdecimal() else 0


def _backoff(attempt: int) -> float:
    """Return seconds to wait before an attempt: exponential with full jitter above a half, capped."""
    if attempt == 0:
        return 0.0
    least, most = _BACKOFF_SECONDS
    return float(min(most, least * 2 ** min(attempt - 1, 20)) * random.uniform(0.5, 1.0))  # noqa: S311


def _raise_for(response: urllib3.BaseHTTPResponse) -> None:
    if response.status == 200:
        return
    status = decode_status(response.read())
    if response.status == 410:
        raise _Expired
    after = response.headers.get("Retry-After", "")
    raise RequestFailedError(response.status, status, float(after) if after.isdecimal() else 0.0)
