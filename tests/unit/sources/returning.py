"""A small API server that goes away and comes back, and a source that hears it."""

from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

from agent.kube.events import Event, Upsert
from agent.kube.model import Kind
from agent.sources.apiserver import backoff
from agent.sources.apiserver.source import ApiSource
from agent.sources.source import SyncState
from tests.unit.sources.scripted import Answer, Json, begin_stream, pod, refuse, send

LISTS = {
    "/api/v1/pods": "PodList",
    "/api/v1/namespaces": "NamespaceList",
    "/apis/networking.k8s.io/v1/networkpolicies": "NetworkPolicyList",
}
UID = "11111111-aaaa"


class Server:
    """A small API server of one pod, which can be away, or refuse all that it is asked.

    Its port is its own while it is away, too: nobody else gets it, and who connects is refused.
    """

    def __init__(self) -> None:
        self._port = socket.socket()
        self._port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._port.bind(("127.0.0.1", 0))
        self.pods: list[Json] = [pod("a", 1)]
        self.version = 5
        self.refuses: Answer | None = None
        self.expired = False
        self.asked: list[str] = []
        self.port: int = self._port.getsockname()[1]
        self.open: list[BaseHTTPRequestHandler] = []
        self._server: ThreadingHTTPServer | None = None

    def start(self) -> None:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                server.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._server = _Server(("127.0.0.1", self.port), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def stop(self) -> None:
        """Go away: every connection ends, and new ones are refused."""
        assert self._server is not None
        self._server.shutdown()
        self._server.server_close()
        self.end_watches()

    def close(self) -> None:
        """Go away for good."""
        self.stop()
        self._port.close()

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        query = {k: v[0] for k, v in parse_qs(urlsplit(handler.path).query).items()}
        self.asked.append(handler.path)
        (self.refuses or self.serve)(handler, query)

    def serve(self, handler: BaseHTTPRequestHandler, query: dict[str, str]) -> None:
        """Answer a request that is not refused."""
        url = urlsplit(handler.path)
        if "watch" in query:
            self._watch(handler, query)
        else:
            items = self.pods if url.path.endswith("/pods") else []
            if "fieldSelector" in query:
                items = [{"metadata": {"name": "kube-system", "uid": UID, "resourceVersion": "1"}}]
            group = "networking.k8s.io/v1" if "networking" in url.path else "v1"
            meta = {"resourceVersion": str(self.version)}
            body = {"kind": LISTS[url.path], "apiVersion": group, "metadata": meta, "items": items}
            send(handler, 200, body)

    def _watch(self, handler: BaseHTTPRequestHandler, query: dict[str, str]) -> None:
        if self.expired and int(query["resourceVersion"]) < self.version:
            refuse(410)(handler, query)
            return
        begin_stream(handler)
        self.open.append(handler)
        while handler in self.open:
            time.sleep(0.005)
        handler.close_connection = True

    def end_watches(self) -> None:
        """Break the connections of all watches."""
        self.open.clear()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that went away."""


LONG = 600.0
"""Seconds of a pause that no test waits for."""


def pause(failures: backoff.Backoff, longest: float | None = None) -> float:
    """Be patient once, and then no more: what has failed twice waits longer than any test."""
    failures._failures += 1
    return 0.05 if failures._failures == 1 else min(LONG, longest or LONG)


class Heard:
    def __init__(self, kubeconfig: Path) -> None:
        self.pauses: dict[str, float] = {}
        """For how long each thread that pauses does."""
        self.events: list[Event] = []
        self.source = ApiSource(str(kubeconfig))
        self.source.start(self.events.extend)

    def states(self) -> list[SyncState]:
        return list(self.source.states().values())

    def current(self) -> bool:
        return all(state.synced and state.current and not state.fault for state in self.states())

    def none_current(self) -> bool:
        return all(state.fault and not state.current for state in self.states())

    def all_say(self, words: str) -> bool:
        return self.none_current() and all(words in state.fault for state in self.states())

    def at_rest(self) -> bool:
        """Whether nobody but the probe will ask before the server is back."""
        return sum(seconds >= LONG for seconds in self.pauses.copy().values()) == len(self.states())


def pods(heard: Heard) -> list[str]:
    return [e.object.name for e in heard.events if isinstance(e, Upsert) and e.kind is Kind.POD]
