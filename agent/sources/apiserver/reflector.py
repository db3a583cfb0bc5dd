"""Keeping one kind of object in step with an API server: a paged list, then a watch that never ends."""

from __future__ import annotations

import contextlib
import functools
import threading
import time
from collections.abc import Mapping, Sequence

import urllib3

from agent import log
from agent.kube.events import Sink
from agent.kube.model import Kind
from agent.sources.apiserver.absence import CONFIRM_EMPTY_SECONDS, Absence
from agent.sources.apiserver.answers import ExpiredError, raise_for
from agent.sources.apiserver.backoff import LIMITED_SECONDS, LONGEST_SECONDS, Backoff
from agent.sources.apiserver.connect import Getting, is_of_configuration
from agent.sources.apiserver.contact import Clock, Contact
from agent.sources.apiserver.ends import AnotherCluster, Due, Pause, Silent
from agent.sources.apiserver.expiry import Expiry
from agent.sources.apiserver.faults import PATHS, RequestFailedError, failure, refusal, resource
from agent.sources.apiserver.identity import ClusterIdentity, OtherClusterError
from agent.sources.apiserver.kubeconfig import ConfigurationError
from agent.sources.apiserver.lister import MANY_EXPIRED, DoubtedError, Lister
from agent.sources.apiserver.listing import version_reached
from agent.sources.apiserver.proof import EndedEarlyError, UnprovenError, number, prove_lines
from agent.sources.apiserver.refusals import SOON_SECONDS, Recovery, Refusals, longest_pause
from agent.sources.apiserver.seen import Seen
from agent.sources.apiserver.stream import NoLineError, allow_silence, batches, watch_query
from agent.sources.apiserver.told import Told
from agent.sources.source import SyncState

_log = log.get(__name__)

SILENCE_SECONDS = 90.0
"""How long one watch may be silent: API servers send a bookmark about each minute, if not always."""
_ANSWER_SECONDS = 30.0
_SMALL_ANSWER_SECONDS = 2.0
_WATCH_ANSWER_SECONDS = 15.0
"""A watch is answered when it begins; only a server that is overloaded lets it wait."""
_HEALTHY_SECONDS = 10.0
_CONFIRMED_SECONDS = 2.0
"""How often it is asked whether a person has confirmed another cluster."""
_SAYS_WHY = (401, 403, 429)
"""Refusals that another version would meet as well: of the credentials, of a right, of too many requests."""
_TOO_LARGE = 504
"""A watch is ahead of the server: its cluster may have been restored, and give its versions out again."""


class Reflector:
    """One kind's list and watch, on the thread that calls ``run``.

    Of each object only its key, resourceVersion and uid are kept: a later list then tells what changed and
    what is gone. A list is never older than what this node was told, now or before a restart (``seen``); an
    API server can answer it from its cache. Where nothing is known it is a consistent read, or, with
    ``anything``, whatever the server has at hand. So it never goes back in time, unless the cluster was
    restored from a backup. No object is forgotten because of an error: it goes when the server says so, or
    when a whole list lacks it.
    """

    def __init__(
        self,
        kind: Kind,
        connection: Getting,
        sink: Sink,
        seen: Seen,
        *,
        anything: bool = False,
        first: str = "",
        after: Sequence[threading.Event] = (),
        contact: Contact | None = None,
        identity: ClusterIdentity | None = None,
        confirm_empty: float = CONFIRM_EMPTY_SECONDS,
        clock: Clock = time.monotonic,
    ) -> None:
        """``first``: a fieldSelector of objects to be told before all, which wait for ``after`` then.

        ``contact`` is what all kinds know of the server; ``identity`` tells its cluster from another;
        ``confirm_empty`` is in how many seconds a second list must say what is not believed at once.
        """
        self.kind = kind
        self.listed = threading.Event()
        """Set when everything that there was at first has been told."""
        self.heard = 0.0
        """``time.monotonic()`` of the last bytes from the server while a watch is open, else 0.0."""

        self._connection = connection
        self._stopping = threading.Event()
        self._response: urllib3.BaseHTTPResponse | None = None
        self._told = Told(kind, sink, seen)
        self._clock = clock
        self._contact = contact or Contact()
        self._backoff, self._soon = Backoff(), Backoff()  # before a list, and before what costs little
        self._identity = identity
        self._epoch = identity.epoch if identity is not None else 0
        self._absence = Absence(confirm_empty, remembered=seen.some and not anything)
        self._lister = Lister(
            kind,
            self._told,
            self._absence,
            sink,
            self._get,
            self._served,
            self._verify,
            lambda: identity is not None and identity.known,
            stopping=self._stopping,
            anything=anything,
            first=first,
            after=after,
            clock=clock,
        )
        self._resource_version = ""
        self._expiry = Expiry(self._backoff)
        self._current = False
        self._fault = ""
        self._garbled = False
        """The fault is that a watch could not be read: one that can, or has nothing to tell, ends it."""
        self._dropped = ""
        self._refusals = Refusals()
        small = functools.partial(version_reached, connection, kind, _SMALL_ANSWER_SECONDS)
        self._recovery = Recovery(small, self._contact)
        self._listed_at = self._last_contact = 0.0

    def state(self) -> SyncState:
        doubted = self._absence.doubt(resource(self.kind))
        return SyncState(
            synced=self._lister.synced,
            objects=len(self._told),
            last_event=self._told.last_event,
            last_contact=self._last_contact,
            fault="; ".join(filter(None, (doubted, self._fault and (self._contact.fault or self._fault)))),
            faults=self._told.refused,
            resource_version=self._resource_version,
            current=self._current and not doubted,
            counts=self._told.counts.read(self._contact.outages),
        )

    def stop(self) -> None:
        """Make ``run`` return soon; does not wait for it."""
        self._stopping.set()
        self._contact.stop()
        self.listed.set()
        self.drop()

    def drop(self, fault: str = "") -> None:
        """End the connection that is open now because of a fault, waking the thread that reads it."""
        self._dropped = fault
        if (response := self._response) is not None:
            with contextlib.suppress(Exception):
                response.shutdown()

    def run(self) -> None:
        """List and watch until stopped, through every failure."""
        while not self._stopping.is_set():
            returns = self._contact.returns
            self._dropped = ""
            pause = self._step()
            if self._dropped:
                self._failed(self._dropped)
            self.heard = 0.0
            self._stopping.wait(pause.least)
            # While the server is away the probe asks, for all kinds, and so more often than each of them may.
            seconds = LONGEST_SECONDS if self._contact.away else pause.seconds
            wait = self._recovery.pause if pause.recovers else self._contact.pause
            if seconds and wait(seconds, returns):
                self._backoff.reset()
                self._soon.reset()

    def _step(self) -> Pause:
        """List where nothing is known, then watch, until either ends; return how long to wait then."""
        listing = self._expiry.begin(watches=bool(self._resource_version))
        verb, began = "list" if listing else "watch", time.monotonic()
        try:
            if listing:
                self._resource_version = ""
                self._resource_version = self._lister.tell(self._expiry.lists)
                self._listed_at = time.monotonic()
                self._recovery.listed()
                if self._lister.synced:
                    self.listed.set()
            if self._stopping.is_set():
                return Pause()
            verb, began = "watch", time.monotonic()
            self._watch()
        except ExpiredError:
            return self._too_old(verb, began, listing=listing)
        except (Due, AnotherCluster):
            self._resource_version = ""
            return Pause()
        except DoubtedError:
            due = self._absence.due
            return Pause(max(0.0, (due or 0.0) - self._clock()))
        except Silent:
            # An API server that was started anew sends no bookmarks of what has not changed since.
            self._expiry.goes_on()
        except RequestFailedError as error:
            return self._refused(verb, error)
        except OtherClusterError as error:
            self._failed(str(error))
            return Pause(_CONFIRMED_SECONDS)
        except UnprovenError as error:
            self._failed(failure(error, self._connection.address))
            self._garbled, self._resource_version = verb == "watch", ""
            if isinstance(error, EndedEarlyError):
                self._expiry.lists = MANY_EXPIRED
            self._contact.trouble()
            return Pause(self._backoff.next(), recovers=verb == "list")
        except (ConfigurationError, urllib3.exceptions.HTTPError, OSError) as error:
            self._failed(failure(error, self._connection.address))
            if is_of_configuration(error):
                self._connection.reset()
            self._contact.trouble()
        except Exception as error:
            # A fault of ours must not end the watch: the node would go stale in silence.
            _log.exception("watch failed", kind=self.kind.value)
            self._failed(failure(error))
            return Pause(self._backoff.next())
        # A list that took long and failed is what a server in trouble should not be asked for at once.
        if verb == "list":
            return Pause(self._backoff.next(), recovers=True)
        if self.heard <= began:
            return Pause(self._soon.next(max(SOON_SECONDS)))
        # However it ended and little as it told: a proxy may end each watch that is silent for a minute.
        if time.monotonic() - began > _HEALTHY_SECONDS:
            self._backoff.reset()
            self._soon.reset()
            return Pause()
        # Or each that was open for some seconds, or has told something: the next event is not to wait.
        return Pause(self._soon.next(LIMITED_SECONDS))

    def _too_old(self, verb: str, began: float, *, listing: bool) -> Pause:
        self._current = False
        if not self._expiry.waits:
            _log.info("listing again", kind=self.kind.value, reason="resource version expired")
            self._told.counts.expired += 1
        if verb == "list":
            self._contact.trouble()
            return Pause(self._expiry.refused_list(answered=self.heard > began))
        pause = self._expiry.refused_watch(listed=listing, lately=not self._is_settled())
        if not self._expiry.waits:
            self._resource_version = ""
        return Pause(pause)

    def _refused(self, verb: str, error: RequestFailedError) -> Pause:
        self._failed(refusal(self.kind, verb, error))
        if error.code == 401:
            self._connection.reset()
        told = verb == "watch" and not self._resource_version  # so that all is listed
        longest = None if told else longest_pause(verb, error.code, self._soon.failures)
        if verb == "watch" and error.code not in _SAYS_WHY and self._refusals.another():
            self._resource_version = ""
            self._told.doubt()
        if error.code not in (403, 404):
            self._contact.trouble()
        pause = self._backoff.next() if longest is None else self._soon.next(longest)
        return Pause(pause, error.retry_after, recovers=longest is None and not told)

    def _is_settled(self) -> bool:
        """Whether the last list is so old that another one is due at once where it is needed."""
        return time.monotonic() - self._listed_at > _HEALTHY_SECONDS

    def _verify(self) -> None:
        """Make sure that the same cluster answers still; see :meth:`ClusterIdentity.verify`."""
        if self._identity is None:
            return
        epoch = self._identity.verify(self._clock())
        if epoch != self._epoch:
            self._epoch = epoch
            self._told.start_over(0)
            self._absence.trust()
            raise AnotherCluster

    def _see_that_time_goes_on(self) -> None:
        """Make sure that the server has got as far as the watch that has just begun.

        API servers take a watch from a version that they have not reached, and tell nothing, not even a
        bookmark, until they have: for hours, where the cluster was restored from a backup. Raises
        ExpiredError. Each kind may have a store of its own, so it is asked for this one's version.
        """
        asked = number(self._resource_version)
        if self._identity is None or self._identity.version >= asked:
            return
        if version_reached(self._connection, self.kind, _ANSWER_SECONDS) < asked:
            self._told.doubt()
            raise ExpiredError

    def _get(self, query: Mapping[str, str]) -> bytes:
        response = self._connection.get(PATHS[self.kind], query, _ANSWER_SECONDS)
        self._response = response
        try:
            raise_for(response)
            body: bytes = response.read()
        finally:
            # A page that nobody waits for any more may come while another request is under way.
            if self._response is response:
                self._response = None
            response.release_conn()
        return body

    def _watch(self) -> None:
        """Watch from the last resourceVersion until the server ends it."""
        query = watch_query(self._resource_version)
        response = self._connection.get(PATHS[self.kind], query, _WATCH_ANSWER_SECONDS)
        self._response = response
        try:
            raise_for(response)
            self._verify()
            self._see_that_time_goes_on()
            self._served()
            if not self._garbled:
                self._in_step()
            allow_silence(response, self._silence())
            # A stop or drop while the request was on its way found no response to end.
            if self._stopping.is_set() or self._dropped:
                return
            try:
                for lines in batches(response, SILENCE_SECONDS):
                    self._take(lines)
                    if self._stopping.is_set():
                        return
                    self._confirm_if_due()
            except (urllib3.exceptions.ReadTimeoutError, NoLineError):
                self._confirm_if_due()
                # It was open for a while and told nothing that cannot be read: the next is believed again.
                self._garbled = False
                raise Silent from None
            self._confirm_if_due()
        finally:
            self._response = None
            # Never back to the pool: what is left of its body would be read as the next answer.
            response.close()

    def _silence(self) -> float:
        """Return how long a watch that begins now may be silent."""
        due = self._absence.due
        most = _HEALTHY_SECONDS if self._garbled else SILENCE_SECONDS
        return most if due is None else min(most, max(0.05, due - self._clock()))

    def _confirm_if_due(self) -> None:
        due = self._absence.due
        if due is not None and self._clock() >= due:
            raise Due

    def _take(self, lines: list[bytes]) -> None:
        """Tell what lines of a watch say, up to the first that is an error or cannot be read."""
        items, version, status, problem = prove_lines(self.kind, lines, number(self._resource_version))
        self._told.reach(version)
        self._told.tell(items)
        if self._absence.due is not None:
            for item in items:
                self._absence.told(item.key)
        self._resource_version = str(version)
        if problem is not None:
            raise problem
        if status is None:
            self._refusals.end()
            if self._is_settled():
                self._expiry.goes_on()
            self._answered()
            self._in_step()
            return
        if status.code == 410:
            raise ExpiredError
        # What a watch has not told that ends so, only a list says.
        self._resource_version = ""
        if status.code == _TOO_LARGE:
            self._told.doubt()
        raise RequestFailedError(status.code, status)

    def _served(self) -> None:
        """Note that a request was just answered as it should be."""
        self._answered()
        self._contact.served()

    def _answered(self) -> None:
        """Note that the server has just given an answer, or a line of one, that can be used."""
        self.heard = time.monotonic()
        self._last_contact = time.time()

    def _in_step(self) -> None:
        """Note that what is known is what there is, as far as the server has told."""
        self._current = True
        self._garbled = False
        if self._fault:
            self._fault = ""
            _log.info("in step with the API server again", kind=self.kind.value)

    def _failed(self, fault: str) -> None:
        if self._stopping.is_set():
            return
        # Why a connection was dropped says more than how its reader met the end.
        fault = self._dropped or fault
        self._current = False
        self._garbled = False
        self._told.counts.failures += 1
        if fault != self._fault:
            _log.warning("API server trouble", kind=self.kind.value, fault=fault)
        self._fault = fault
