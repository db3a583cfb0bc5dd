"""The API server as a source: each kind listed and watched on a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path

from agent.kernel.thread import start
from agent.kube.events import Room, Sink, after_room, enough
from agent.kube.model import Kind
from agent.sources.apiserver.absence import CONFIRM_EMPTY_SECONDS
from agent.sources.apiserver.answers import raise_for
from agent.sources.apiserver.connect import Connection, Getting
from agent.sources.apiserver.contact import Contact
from agent.sources.apiserver.faults import PATHS, RequestFailedError
from agent.sources.apiserver.identity import QUERY, ClusterIdentity, Records
from agent.sources.apiserver.probe import READ_SECONDS, Probe
from agent.sources.apiserver.reflector import Reflector
from agent.sources.apiserver.seen import Seen
from agent.sources.apiserver.selected import Selected
from agent.sources.source import SyncState


class ApiSource:
    """Pods, namespaces, network policies, and nodes when asked for, from an API server.

    ``nodes``: all nodes are read; else ``own_node`` alone, if it has a name.

    ``kubeconfig`` and ``context`` name the configuration; without them it is the pod's own, else the
    user's. ``state`` is a directory in which to remember which cluster it is and how far it has told this
    node; ``anything``: the kernel holds nothing of an earlier run, so that any cluster is the right one, and,
    where nothing is remembered, the first list may be as old as the server likes. ``first``: the node whose
    pods are told before the others. ``confirm_empty``: see
    :class:`agent.sources.apiserver.absence.Absence`. Nothing is read before ``start``, and no failure
    ends it: failures are named in ``states``.

    A connection that is silently dead is noticed within a minute and a half, in three ways, because each
    sees what the others cannot. The kernel's keepalive ends one whose other end does not acknowledge (15 s):
    a lost path, a host that is gone. A server that acknowledges and does not answer (stopped, or stuck) is
    found by the probe: when no watch at all has heard anything for 10 s, one small request must be answered
    in 5. And a single watch that starves behind a proxy misses its bookmark, which comes about each minute,
    and is begun anew after 90 s. Busy clusters never probe: any event on any watch is proof enough.
    """

    def __init__(
        self,
        kubeconfig: str | None = None,
        context: str | None = None,
        *,
        nodes: bool = False,
        own_node: str = "",
        state: Path | None = None,
        anything: bool = False,
        first: str = "",
        confirm_empty: float = CONFIRM_EMPTY_SECONDS,
    ) -> None:
        self._confirm_empty = confirm_empty
        self._contact = Contact()
        self._connection = Connection(kubeconfig, context)
        self._kinds = [Kind.NAMESPACE, Kind.POD, Kind.POLICY] + ([Kind.NODE] if nodes or own_node else [])
        self._nodes_by: Getting = (
            self._connection
            if nodes or not own_node
            else Selected(self._connection, f"metadata.name={own_node}")
        )
        self._state = state
        self._anything = anything
        self._first = first
        self._reflectors: list[Reflector] = []
        self._threads: list[threading.Thread] = []

    def start(self, sink: Sink, room: Room = enough) -> None:
        """Begin; events arrive on one thread for each kind."""
        sink = after_room(room, sink)
        identity = ClusterIdentity(
            self._ask_who,
            lambda: self._connection.address,
            Records(self._state),
            fresh=self._anything,
        )
        for kind in sorted(self._kinds, key=lambda kind: kind is Kind.POD):
            pods = kind is Kind.POD and bool(self._first)
            self._reflectors.append(
                Reflector(
                    kind,
                    self._nodes_by if kind is Kind.NODE else self._connection,
                    sink,
                    self._seen(kind),
                    anything=self._anything,
                    first=f"spec.nodeName={self._first}" if pods else "",
                    after=[other.listed for other in self._reflectors] if pods else (),
                    contact=self._contact,
                    identity=identity,
                    confirm_empty=self._confirm_empty,
                )
            )
        work = [(f"source-{r.kind.value.lower()}", r.run) for r in self._reflectors]
        probe = Probe(self._connection, identity, self._contact, self._reflectors)
        work.append(("source-probe", probe.run))
        for name, run in work:
            thread = threading.Thread(target=run, name=name, daemon=True)
            self._threads.append(thread)
            start(thread)

    def _seen(self, kind: Kind) -> Seen:
        return Seen(self._state / "seen" / kind.value if self._state is not None else None)

    def stop(self) -> None:
        """End every connection and wait for the threads, at most two seconds in all."""
        self._contact.stop()
        for reflector in self._reflectors:
            reflector.stop()
        deadline = time.monotonic() + 2.0
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._connection.reset()

    def threads(self) -> Mapping[str, bool]:
        return {thread.name: thread.is_alive() for thread in self._threads}

    def states(self) -> Mapping[Kind, SyncState]:
        if not self._reflectors:
            return {kind: SyncState(False, 0, 0.0, 0.0, "not started") for kind in self._kinds}
        return {reflector.kind: reflector.state() for reflector in self._reflectors}

    def _ask_who(self, connect_seconds: float) -> bytes:
        response = self._connection.get(
            PATHS[Kind.NAMESPACE], QUERY, READ_SECONDS, connect_seconds=connect_seconds, anew=True
        )
        try:
            raise_for(response)
            body: bytes = response.read()
        except RequestFailedError as error:
            error.of = Kind.NAMESPACE, "list"
            raise
        finally:
            response.release_conn()
        return body
