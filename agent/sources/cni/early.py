"""The addresses that plugins gave, put into what a source tells of this node's pods.

A network plugin gives a pod its addresses one to two seconds before ``status.podIPs`` says them, and before
anything of the pod runs. So the pods of this node are told on with what their results say::

    source ──events──► Early ──events──► sink
    results ────────────▲  │
    answers of the API ─┘  └─► pods to ask for by name

The rules, of one pod:

- A result counts for the pod whose namespace, name and uid it names; without a uid, for a pod that was
  created before it. Pods say only in which second they were created: one that was taken for an older pod of
  the name does not count for another one that was created in the same second. Of several, the newest: a pod's
  sandbox may be made anew.
- In a family of which its status says no address, the pod has the result's. Where its status says another
  one, the status holds, unless the result is newer than what the status says.
- A result that goes takes no address from its pod: the pod does, or its status, or a newer result. Where an
  interface of the node that the result names is gone, too, the pod's network has been taken away: the pod has
  no address, whatever its status says, until that says another one or a newer result comes.
- An address belongs to the pod that was given it last (:class:`agent.kube.model.Attached`).
"""

from __future__ import annotations

import contextlib
import datetime
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from typing import NamedTuple

from msgspec.structs import replace

from agent.kube.events import Delete, Event, Origin, Sink, Synced, Upsert
from agent.kube.model import UNATTACHED, Attached, Key, Kind, Pod
from agent.sources.cni.result import Result

ORIGIN = Origin("cni")
"""Who says an address before the API server does."""
Withdraw = Callable[[Upsert, Collection[bytes]], None]
"""Closes packed addresses at once; the event that says why is told next."""
TOLD = "nri:"
"""How names of results begin that a container runtime has told, and that are no files."""


def nothing_to_withdraw(_event: Upsert, _addresses: Collection[bytes]) -> None:
    """Leave addresses to who takes the events."""


_MOST_ENDED = 1000
"""Pods whose network has ended before they were told, that are remembered."""
_SECOND = 1_000_000_000
"""Nanoseconds: pods say when they were created in whole seconds."""


class _Known:
    """A pod of this node: as the source tells it, as it was told on, and what holds of its results."""

    __slots__ = ("before", "gone", "had", "kept", "pod", "told")

    def __init__(self, pod: Pod) -> None:
        self.pod = pod
        self.told = pod
        self.kept: tuple[bytes, ...] = ()
        """Addresses of a result that is gone, or of the one that counts."""
        self.before: tuple[bytes, ...] | None = None
        """What the status said when a newer sandbox was given other addresses."""
        self.gone: frozenset[bytes] = frozenset()
        """What it had when the network of its last sandbox was taken away: its status may say that later."""
        self.had = bool(pod.addresses)
        """Whether a sandbox of it is known, or must have been."""


class _Asked(NamedTuple):
    """A pod that was asked for by name, which the source has not told yet."""

    uid: str
    held: Event | None = None
    """The last that the source told of the name meanwhile: of an older pod, or of an older state."""


class Counts(NamedTuple):
    """How many results are known, and how often a pod had an address before its status said it."""

    results: int
    early: int


class Early:
    """Merges two streams into one. Thread-safe: each event is passed on before the next is taken.

    ``sink`` waits for nothing, since it is called while others wait to tell: whoever can wait for room does
    so before. ``node``: whose pods have results here. ``wanted`` is called with a pod that has a result and
    of which the source has told nothing.
    """

    def __init__(
        self,
        node: str,
        sink: Sink,
        wanted: Callable[[Key], None] = lambda _: None,
        is_link: Callable[[str], bool] = lambda _: True,
        withdraw: Withdraw = nothing_to_withdraw,
    ) -> None:
        """``is_link``: whether the node has an interface of a name.

        ``withdraw`` is called with addresses that no pod has any more, before that is told. It does not wait
        for who takes the events, and nothing is told meanwhile: an address that is given again is told after.
        """
        self._is_link = is_link
        self._withdraw = withdraw
        self._node = node
        self._sink = sink
        self._wanted = wanted
        self._lock = threading.Lock()
        self._pods: dict[Key, _Known] = {}
        self._results: dict[str, Result] = {}
        self._of_pods: dict[Key, set[str]] = {}
        self._ended: dict[Key, Result] = {}
        """The last result of each pod that nobody has told yet, where its network has been taken away."""
        self._asked: dict[Key, _Asked] = {}
        self._due: list[Key] = []
        """Pods to be asked for, once nothing is held that others wait for."""
        self._synced = False
        self._last = 0
        self._early = 0

    def counts(self) -> Counts:
        return Counts(len(self._results), self._early)

    @contextlib.contextmanager
    def _merging(self) -> Iterator[None]:
        with self._lock:
            yield
            due, self._due = self._due, []
        for key in due:
            self._wanted(key)

    # --- What the source tells -------------------------------------------------------------------------

    def take(self, events: Sequence[Event]) -> None:
        """Pass on what the source tells, with what results say of this node's pods."""
        with self._merging():
            changed: dict[int, Event | None] = {}
            for number, event in enumerate(events):
                if event.kind is not Kind.POD:
                    continue
                if isinstance(event, Upsert) and isinstance(event.object, Pod):
                    if event.object.node == self._node or event.object.key in self._asked:
                        changed[number] = self._upsert(event, event.object)
                    elif event.object.key in self._pods:
                        del self._pods[event.object.key]
                elif isinstance(event, Delete):
                    changed[number] = self._delete(event)
                elif isinstance(event, Synced):
                    self._synced = True
            if changed:
                found = (changed.get(n, event) for n, event in enumerate(events))
                events = [event for event in found if event is not None]
            if events:
                self._sink(events)

    def _upsert(self, event: Upsert, pod: Pod) -> Event | None:
        asked = self._asked.get(pod.key)
        if asked is not None:
            if asked.uid != pod.uid or pod.node != self._node:
                self._hold(pod.key, asked, event)
                return None
            del self._asked[pod.key]
        known = self._pods.get(pod.key)
        if known is None or known.pod.uid != pod.uid:
            known = self._pods[pod.key] = self._first(pod)
        known.pod = pod
        self._remember(known, self._merged(known))
        return event if known.told is pod else event._replace(object=known.told)

    def _delete(self, event: Delete) -> Event | None:
        asked = self._asked.get(event.key)
        if asked is not None:
            self._hold(event.key, asked, event)
            return None
        known = self._pods.pop(event.key, None)
        for name in tuple(self._of_pods.get(event.key, ())):
            # No file tells of its end: the runtime does, if it is asked then.
            if name.startswith(TOLD) and known is not None and _counts(self._results[name], known.pod):
                self._forget(name, self._results[name])
        return event

    def _hold(self, key: Key, asked: _Asked, event: Event) -> None:
        """Put an event aside until the API server has said whether it is the newest of its name."""
        self._asked[key] = asked._replace(held=event)
        self._due.append(key)

    # --- What results say ------------------------------------------------------------------------------

    def found(self, name: str, result: Result, *, live: bool) -> None:
        """Take a result, by the name of its file; ``live``: it was written just now."""
        with self._merging():
            if live:
                # In the order in which they came, whatever the clock did meanwhile.
                result = result._replace(at=max(result.at, self._last + 1))
            self._last = max(self._last, result.at)
            before = self._results.get(name)
            if before is not None:
                if before.pod != result.pod:
                    self._forget(name, before)
                elif before.sandbox == result.sandbox:
                    result = result._replace(first=before.first)
            self._results[name] = result
            self._of_pods.setdefault(result.pod, set()).add(name)
            known = self._pods.get(result.pod)
            if known is None:
                if live and self._synced:
                    self._due.append(result.pod)
                return
            if live and known.pod.addresses and self._newest(known.pod) is result:
                known.before = known.pod.addresses
            self._tell(known)

    def lost(self, name: str) -> None:
        """Take it that a result's file is gone. Its addresses stay its pod's: see the module's text."""
        with self._merging():
            result = self._results.get(name)
            if result is None:
                return
            self._forget(name, result)
            is_gone = not all(map(self._is_link, result.links))
            if is_gone and (same := self._results.get(f"{TOLD}{result.sandbox}")) is not None:
                # The runtime may tell of the end of a sandbox later than its network ends.
                self._forget(f"{TOLD}{result.sandbox}", same)
            known = self._pods.get(result.pod)
            if known is None:
                if is_gone:
                    self._end(result)
                return
            if is_gone and _counts(result, known.pod) and self._newest(known.pod) is None:
                known.kept = ()
                known.gone = frozenset((*result.addresses, *known.pod.addresses))
            self._tell(known, withdrawing=True)

    def _forget(self, name: str, result: Result) -> None:
        del self._results[name]
        names = self._of_pods[result.pod]
        names.discard(name)
        if not names:
            del self._of_pods[result.pod]

    def _first(self, pod: Pod) -> _Known:
        """Begin with a pod that was not known: its network may have come and gone before it was told."""
        known = _Known(pod)
        ended = self._ended.pop(pod.key, None)
        if ended is not None and _counts(ended, pod):
            known.gone = frozenset(ended.addresses)
        return known

    def _end(self, result: Result) -> None:
        self._ended.pop(result.pod, None)
        self._ended[result.pod] = result
        if len(self._ended) > _MOST_ENDED:
            del self._ended[next(iter(self._ended))]

    def _newest(self, pod: Pod) -> Result | None:
        """Return the newest result of a pod."""
        names = self._of_pods.get(pod.key)
        if not names:
            return None
        counting = (r for name in names if _counts(r := self._results[name], pod))
        return max(counting, key=lambda result: result.at, default=None)

    def _merged(self, known: _Known) -> Pod:
        """Return a pod as it is told on."""
        pod = known.pod
        if pod.host_network or pod.finished:
            return pod
        if known.before is not None and known.before != pod.addresses:
            known.before = None
        result = self._newest(pod)
        if result is not None:
            self._take_for(known, result)
            known.kept, known.gone = result.addresses, frozenset()
        if known.gone:
            if known.gone.issuperset(pod.addresses):
                return replace(pod, addresses=()) if pod.addresses else pod
            known.gone = frozenset()
        given = known.kept
        if not given:
            return pod
        families = set() if known.before is not None else {len(address) for address in pod.addresses}
        more = tuple(a for a in given if len(a) not in families and a not in pod.addresses)
        addresses = (*more, *pod.addresses) if known.before is not None else (*pod.addresses, *more)
        attached = UNATTACHED
        if result is not None:
            attached = Attached(result.at, tuple(a for a in given if a in addresses), bool(more))
        elif more:
            attached = Attached(0, more, early=True)
        if attached == UNATTACHED and not more:
            return pod
        return replace(pod, addresses=addresses, attached=attached)

    def _take_for(self, known: _Known, result: Result) -> None:
        """Remember for which pod a result was taken first, where it is the first of this pod's."""
        if not known.had and not result.uid and not result.first:
            for name in self._of_pods[result.pod]:
                if self._results[name] is result:
                    self._results[name] = result._replace(first=known.pod.uid)
        known.had = True

    def _tell(self, known: _Known, *, withdrawing: bool = False) -> None:
        """Pass on a pod of which only a result has changed; ``withdrawing``: close at once what it lost."""
        before, merged = known.told.addresses, self._merged(known)
        if merged == known.told:
            return
        self._remember(known, merged)
        event = Upsert(Kind.POD, merged, ORIGIN)
        if withdrawing and (left := {*before} - {*merged.addresses}):
            # Another pod may have been given them before this one's result was removed.
            others = (one.told for one in self._pods.values() if not one.told.finished)
            if left := left.difference(*(pod.addresses for pod in others)):
                self._withdraw(event, left)
        self._sink([event])

    def _remember(self, known: _Known, merged: Pod) -> None:
        if merged.attached.early and not known.told.attached.early:
            self._early += 1
        known.told = merged

    # --- What the API server answers about one pod -----------------------------------------------------

    def answered(self, key: Key, pod: Pod | None) -> None:
        """Take what the API server says of one pod, None: there is none of that name."""
        with self._merging():
            asked = self._asked.get(key)
            if asked is not None:
                if pod is not None and pod.uid == asked.uid:
                    # What the source told is of before: it will tell this pod, too.
                    self._asked[key] = asked._replace(held=None)
                    return
                del self._asked[key]
                self._pods.pop(key, None)
                event = asked.held if asked.held is not None else Delete(Kind.POD, key)
                found = event.object if isinstance(event, Upsert) else None
                if isinstance(event, Upsert) and isinstance(found, Pod) and found.node == self._node:
                    event = self._upsert(event, found) or event
                self._sink([event])
                return
            if pod is None or pod.node != self._node or key in self._pods:
                return
            if self._newest(pod) is None:
                return
            known = self._first(pod)
            self._remember(known, self._merged(known))
            self._pods[key] = known
            self._asked[key] = _Asked(pod.uid)
            self._sink([Upsert(Kind.POD, known.told, ORIGIN)])

    def untold(self) -> Iterable[Key]:
        """Return the pods that are known by asking alone: to be asked for again."""
        with self._lock:
            return tuple(self._asked)


def _counts(result: Result, pod: Pod) -> bool:
    """Whether a result is of this pod, and of none that had its name before."""
    if result.uid and pod.uid:
        return result.uid == pod.uid
    if not pod.created:
        return True
    of_another = result.first not in ("", pod.uid)
    return result.at >= _nanoseconds(pod.created) + (_SECOND if of_another else 0)


def _nanoseconds(text: str) -> int:
    """Return an RFC 3339 time in nanoseconds since 1970; later than any where it cannot be read."""
    try:
        return int(datetime.datetime.fromisoformat(text).timestamp() * 1_000_000_000)
    except (ValueError, OverflowError):
        return 1 << 63
