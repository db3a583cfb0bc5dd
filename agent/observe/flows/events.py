"""Denied connections as Kubernetes Events of the pod, so that ``kubectl describe pod`` shows them.

An Event is told once in a while for the same pod, direction and reason, and few altogether: API servers keep
them in etcd. What waits is bounded, and nobody waits for the API server.
"""

from __future__ import annotations

import collections
import threading
from typing import Protocol

import msgspec

from agent import log
from agent.clock import Clock
from agent.dataplane.logged import Decided
from agent.fault import Fault
from agent.net import Direction
from agent.observe.flows.flow import Flow, Report
from agent.sources.apiserver.connect import Connection

_log = log.get(__name__)

AGAIN = 300.0
"""Seconds before an Event of the same pod, direction and policies is told again."""
REMEMBERED = 1024
"""So many pods, directions and policies are remembered for that."""
WAITING = 50
"""Events that wait for the API server; what is more is given up."""
PAUSE = 1.0
"""Seconds between two Events."""
_SECONDS = 10.0
_LONGEST = 1000
"""Characters of a message: API servers take 1,024 bytes of it."""


class Post(Protocol):
    """How JSON is sent to the API server."""

    def __call__(self, path: str, body: bytes) -> int:
        """Send it to a path and return the status code of the answer. May raise anything."""
        ...


class EventSink:
    """Takes reports, and tells the API server of denied connections on a thread of its own."""

    def __init__(self, post: Post, node: str, clock: Clock) -> None:
        self._post = post
        self._node = node
        self._clock = clock
        self._told: collections.OrderedDict[tuple[str, Direction, tuple[str, ...]], float] = (
            collections.OrderedDict()
        )
        self._waiting: collections.deque[Flow] = collections.deque(maxlen=WAITING)
        self._wake = threading.Event()
        self._stopping = threading.Event()
        self._fault: tuple[Fault, ...] = ()

    def put(self, report: Report) -> None:
        """Take a report; waits for nothing."""
        if not isinstance(report, Flow) or report.verdict is not Decided.DENIED or not report.pod:
            return
        which, now = _which(report), self._clock.monotonic()
        if now - self._told.get(which, float("-inf")) < AGAIN:
            return
        self._told[which] = now
        self._told.move_to_end(which)
        if len(self._told) > REMEMBERED:
            self._told.popitem(last=False)
        self._waiting.append(report)
        self._wake.set()

    def faults(self) -> tuple[Fault, ...]:
        """Return why Events are not told, if so. For any thread."""
        return self._fault

    def stop(self) -> None:
        self._stopping.set()
        self._wake.set()

    def run(self) -> None:
        """Tell what comes, until stopped."""
        while not self._stopping.is_set():
            self._wake.wait()
            self._wake.clear()
            while self._waiting and not self._stopping.is_set():
                self.tell(self._waiting.popleft())
                self._stopping.wait(PAUSE)

    def tell(self, flow: Flow) -> None:
        """Tell the API server of a denied connection; raises nothing. What fails is told when more comes."""
        namespace, _, _ = flow.pod.partition("/")
        try:
            code = self._post(f"/api/v1/namespaces/{namespace}/events", event_of(flow, self._node))
            why = "" if code < 300 else f"the API server answers {code}"
        except Exception as error:
            why = " ".join(str(error).split())[:300] or type(error).__name__
        fault = Fault(
            f"denied connections cannot be told as Events: {why}",
            "add the component deploy/components/events, which has the right to create them, or leave out "
            "--events",
            blocking=False,
        )
        if why and self._fault != (fault,):
            _log.warning("denied connections cannot be told as Events", why=why)
        self._fault = (fault,) if why else ()
        if why:
            self._told.pop(_which(flow), None)


def _which(flow: Flow) -> tuple[str, Direction, tuple[str, ...]]:
    return flow.pod, flow.direction, flow.policies


def event_of(flow: Flow, node: str) -> bytes:
    """Return the Event (core/v1) of a denied connection, as JSON."""
    namespace, _, name = flow.pod.partition("/")
    own = flow.destination if flow.direction is Direction.INGRESS else flow.source
    peer = flow.source if flow.direction is Direction.INGRESS else flow.destination
    way = "from" if flow.direction is Direction.INGRESS else "to"
    port = flow.destination.port
    who = str(msgspec.structs.replace(peer, port=None))
    what = f"{flow.protocol}{'' if port is None else f' {port}'}"
    message = f"{flow.direction} {what} {way} {who} was denied: {flow.why}"
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"generateName": f"{name[:200]}.", "namespace": namespace},
        "involvedObject": {
            "apiVersion": "v1",
            "kind": "Pod",
            "namespace": namespace,
            "name": name,
            "uid": own.uid,
        },
        "reason": "ConnectionDenied",
        "message": message if len(message) <= _LONGEST else message[: _LONGEST - 3] + "...",
        "type": "Warning",
        "source": {"component": "netpol-agent", "host": node},
        "reportingComponent": "netpol-agent",
        "reportingInstance": node,
        "firstTimestamp": flow.first.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "lastTimestamp": flow.last.strftime("%Y-%m-%dT%H:%M:%SZ"),
        "count": flow.count,
    }
    return msgspec.json.encode(event)


def by(connection: Connection) -> Post:
    """Return what sends to an API server by a connection."""

    def post(path: str, body: bytes) -> int:
        answer = connection.post(path, body, _SECONDS)
        try:
            return int(answer.status)
        finally:
            answer.drain_conn()
            answer.release_conn()

    return post
