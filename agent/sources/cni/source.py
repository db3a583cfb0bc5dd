"""A source whose pods of this node have the addresses that plugins gave, before their status says them."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
import weakref
from collections.abc import Iterable, Mapping, Sequence
from glob import escape
from pathlib import Path
from typing import NamedTuple

from agent import log
from agent.kernel.thread import start
from agent.kube.events import Room, Sink, enough
from agent.kube.model import Key, Kind
from agent.sources.cni.asking import Ask, Asking
from agent.sources.cni.early import TOLD, Counts, Early, Withdraw, nothing_to_withdraw
from agent.sources.cni.folder import Folders, Seen
from agent.sources.cni.result import INTERFACE, Result, read
from agent.sources.nri.messages import Sandbox
from agent.sources.source import Source, SyncState

_log = log.get(__name__)

AGAIN = 5.0
"""Seconds between two tries to watch a folder that cannot be watched."""

_LIMIT = "fs.inotify.max_user_instances"


class CniState(NamedTuple):
    """What is known of results. Times are ``time.time()`` seconds; 0.0 means never.

    ``synced``: every result that there was at the start has been read. ``folders``: which exist and are
    watched. ``early``: how often a pod had an address before its status said it. ``fault`` is empty while all
    is well.
    """

    synced: bool
    folders: tuple[str, ...]
    results: int
    early: int
    last_event: float
    fault: str = ""


class CniSource:
    """Puts early addresses into what another source tells. It is a Source itself."""

    def __init__(
        self,
        inner: Source,
        node: str,
        folders: Sequence[Path],
        ask: Ask | None,
        *,
        since: float | None = None,
    ) -> None:
        """``folders``: where libcni keeps results; those that exist or come are watched.

        ``ask`` answers for pods that the source has not told; None: nobody can. ``since``: results that were
        there before, in ``time.time()`` seconds, are of sandboxes that ended; by default, of before the boot.
        """
        self._inner = inner
        self._node = node
        self._folders = tuple(folders)
        self._ask = ask
        self._since = _booted() if since is None else since
        self._early: Early | None = None
        self._room: Room = enough
        self.withdraw: Withdraw = nothing_to_withdraw
        """Called with addresses as soon as the networks of the pods that had them are gone."""
        self._asking: Asking | None = None
        self._thread: threading.Thread | None = None
        self._sleeps, self._wakes = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        for end in (self._sleeps, self._wakes):
            weakref.finalize(self, os.close, end)
        self._stopping = False
        self._watching: Folders | None = None
        self._synced = False
        self._last_event = 0.0
        self._fault = ""

    def start(self, sink: Sink, room: Room = enough) -> None:
        early = self._early = Early(self._node, sink, self._want, _is_link, self.withdraw)
        self._room = room
        if self._ask is not None:
            # Answers do not wait for room: they are few, and a runtime may wait for the pod.
            self._asking = Asking(self._ask, early.answered, early.untold)
        self._thread = threading.Thread(target=lambda: self._run(early), name="cni", daemon=True)
        start(self._thread)
        self._inner.start(early.take, room)

    def stop(self) -> None:
        self._stopping = True
        os.write(self._wakes, b"\0")
        if self._asking is not None:
            self._asking.stop()
        self._inner.stop()
        if self._thread is not None:
            self._thread.join(2.0)

    def threads(self) -> Mapping[str, bool]:
        own = {} if self._thread is None else {self._thread.name: self._thread.is_alive()}
        asks = {} if self._asking is None else self._asking.threads()
        return {**self._inner.threads(), **own, **asks}

    def states(self) -> Mapping[Kind, SyncState]:
        return self._inner.states()

    def state(self) -> CniState:
        """Return the state of the results. For any thread."""
        counts = Counts(0, 0) if self._early is None else self._early.counts()
        watching = self._watching
        present = () if watching is None else tuple(str(folder) for folder in watching.present)
        faults = [] if watching is None else [f"{p}: {why}" for p, why in watching.faults.copy().items()]
        asking = "" if self._asking is None else self._asking.fault
        return CniState(
            self._synced,
            present,
            counts.results,
            counts.early,
            self._last_event,
            "; ".join(filter(None, (self._fault, *faults, asking))),
        )

    def began(self, sandbox: Sandbox) -> Sandbox | None:
        """Take a sandbox that the runtime has made just now; return it with its addresses, if it has any.

        Where the runtime does not say them, its result does. None: it is on the host's network. Waits for
        nothing, however many events wait: the runtime does not wait long.
        """
        early = self._early
        if early is None:
            return None
        if sandbox.addresses:
            given = Result(sandbox.pod, sandbox.uid, sandbox.id, sandbox.addresses, time.time_ns())
            early.found(f"{TOLD}{sandbox.id}", given, live=True)
            return sandbox
        for folder in self._folders:
            for path in folder.glob(f"*-{escape(sandbox.id)}-{INTERFACE}"):
                result = read(path)
                if result is not None and result.sandbox == sandbox.id:
                    early.found(str(path), result, live=True)
                    return sandbox._replace(addresses=result.addresses)
        return None

    def ended(self, sandbox: Sandbox) -> None:
        """Take a sandbox that ends."""
        if self._early is not None:
            self._early.lost(f"{TOLD}{sandbox.id}")

    def _want(self, key: Key) -> None:
        if self._asking is not None:
            self._asking.want(key)

    def _run(self, early: Early) -> None:
        poll = select.poll()
        poll.register(self._sleeps, select.POLLIN)
        while not self._stopping:
            try:
                self._watching = watching = Folders(self._folders)
                break
            except OSError as error:
                self._fault = f"results of network plugins cannot be watched: {error}; raise {_LIMIT}"
                _log.warning("early addresses are not known", detail=self._fault)
                poll.poll(AGAIN * 1000)
        else:
            return
        self._fault = ""
        self._note(early, watching.begin())
        self._synced = True
        poll.register(watching.fd, select.POLLIN)
        while not self._stopping:
            poll.poll(AGAIN * 1000 if watching.faults else None)
            self._note(early, watching.take())
            self._note(early, watching.again())

    def _note(self, early: Early, seen: Iterable[Seen]) -> None:
        for path, there, live in seen:
            if there and not live:
                # What is written just now is no more than pods start, and what follows may be taken away.
                self._room()
            result = read(path) if there else None
            if result is not None and (live or result.at >= self._since * 1_000_000_000):
                early.found(str(path), result, live=live)
            else:
                early.lost(str(path))
            if live:
                self._last_event = time.time()


def _is_link(name: str) -> bool:
    """Whether the network namespace of this agent, which is the node's, has an interface of a name."""
    try:
        socket.if_nametoindex(name)
    except OSError:
        return False
    return True


def _booted() -> float:
    """Return when the machine was started, in ``time.time()`` seconds."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)
