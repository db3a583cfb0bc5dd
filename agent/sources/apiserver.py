"""The API server as a source: each kind listed and watched on a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from pathlib import Path

import urllib3

from agent import log
from agent.kube.events import Sink
from agent.kube.model import Kind
from agent.sources.connect import Connection
from agent.sources.faults import failure
from agent.sources.kubeconfig import ConfigurationError
from agent.sources.reflector import Reflector
from agent.sources.seen import Seen
from agent.sources.source import SyncState

_log = log.get(__name__)

_QUIET_SECONDS = 25.0
_PROBE_SECONDS = 10.0
_LOOK_SECONDS = 2.0


class ApiSource:
    """Pods, namespaces, network policies, and nodes when asked for, from an API server.

    ``kubeconfig`` and ``context`` name the configuration; without them it is the pod's own, else the
    user's. ``state`` is a directory in which to remember how far the server has told this node;
    ``anything``: the kernel holds nothing of an earlier run, so that, where nothing is remembered, the
    first list may be as old as the server likes. ``first``: the node whose pods are told before the others.
    Nothing is read before ``start``, and no failure ends it: failures are named in ``states``.

    A connection that is silently dead is noticed within a minute, in three ways, because each sees what
    the others cannot. The kernel's keepalive ends one whose other end does not acknowledge (40 s): a
    lost path, a host that is gone. A server that acknowledges and does not answer (stopped, or stuck) is
    found by a probe: when no watch at all has heard anything for 25 s, one small request must be answered
    in 10. And a single watch that starves behind a proxy misses its bookmark, which comes about each
    minute, and is begun anew after 90 s. Busy clusters never probe: any event on any watch is proof enough.
    """

    def __init__(
        self,
        kubeconfig: str | None = None,
        context: str | None = None,
        *,
        nodes: bool = False,
        state: Path | None = None,
        anything: bool = False,
        first: str = "",
    ) -> None:
        self._connection = Connection(kubeconfig, context)
        self._kinds = [Kind.NAMESPACE, Kind.POD, Kind.POLICY] + ([Kind.NODE] if nodes else [])
        self._state = state
        self._anything = anything
        self._first = first
        self._reflectors: list[Reflector] = []
        self._threads: list[threading.Thread] = []
        self._stopping = threading.Event()

    def start(self, sink: Sink) -> None:
        """Begin; events arrive on one thread for each kind."""
        for kind in sorted(self._kinds, key=lambda kind: kind is Kind.POD):
            pods = kind is Kind.POD and bool(self._first)
            self._reflectors.append(
                Reflector(
                    kind,
                    self._connection,
                    sink,
                    self._seen(kind),
                    anything=self._anything,
                    first=f"spec.nodeName={self._first}" if pods else "",
                    after=[other.listed for other in self._reflectors] if pods else (),
                )
            )
        work = [(f"source-{r.kind.value.lower()}", r.run) for r in self._reflectors]
        work.append(("source-probe", self._look))
        for name, run in work:
            thread = threading.Thread(target=run, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def _seen(self, kind: Kind) -> Seen:
        return Seen(self._state / "seen" / kind.value if self._state is not None else None)

    def stop(self) -> None:
        """End every connection and wait for the threads, at most two seconds in all."""
        self._stopping.set()
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

    def _look(self) -> None:
        """Probe the server when every open watch is silent, and drop them all when it does not answer."""
        answered = 0.0
        while not self._stopping.wait(_LOOK_SECONDS):
            heard = [reflector.heard for reflector in self._reflectors if reflector.heard]
            if not heard or time.monotonic() - max(*heard, answered) < _QUIET_SECONDS:
                continue
            fault = self._probe()
            answered = time.monotonic()
            if fault and not self._stopping.is_set():
                _log.warning("API server silent", fault=fault)
                for reflector in self._reflectors:
                    reflector.drop(fault)

    def _probe(self) -> str:
        """Ask for something small that any user may read; return what went wrong, "" for any answer."""
        try:
            response = self._connection.get("/version", {}, _PROBE_SECONDS)
            response.read()
            response.release_conn()
        except (urllib3.exceptions.HTTPError, OSError, ConfigurationError) as error:
            return failure(error)
        return ""
