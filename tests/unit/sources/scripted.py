"""A scripted API server, and one kind's reflector that reads it: what a real one does only rarely."""

from __future__ import annotations

import functools
import json
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest

from agent.kube.events import Event
from agent.kube.model import Kind
from agent.sources.apiserver import backoff
from agent.sources.apiserver.connect import Connection
from agent.sources.apiserver.reflector import Reflector
from agent.sources.apiserver.seen import Seen
from tests.lab.cluster import wait_until
from tests.patience import PATIENCE

Answer = Callable[[BaseHTTPRequestHandler, dict[str, str]], None]
Json = dict[str, Any]


class Script:
    """Answers lists and watches in the order given, the last one again and again."""

    def __init__(self) -> None:
        self.lists: list[Answer] = []
        self.watches: list[Answer] = []
        self.asked: list[dict[str, str]] = []
        self.bearers: list[str] = []

    def answer(self, handler: BaseHTTPRequestHandler) -> None:
        query = {k: v[0] for k, v in parse_qs(urlsplit(handler.path).query).items()}
        self.asked.append(query)
        self.bearers.append(handler.headers.get("Authorization", ""))
        script = self.watches if "watch" in query else self.lists
        (script.pop(0) if len(script) > 1 else script[0])(handler, query)


class ScriptedServer(ThreadingHTTPServer):
    """Serves a script; ``ended`` is set when the test has."""

    daemon_threads = True
    # Who connects while this process has no turn is not to wait for a packet that is sent again.
    request_queue_size = 128

    def __init__(self, script: Script) -> None:
        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                script.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        super().__init__(("127.0.0.1", 0), Handler)
        self.ended = threading.Event()

    def handle_error(self, request: object, client_address: object) -> None:
        """Say nothing of a client that went away."""


def write_config(path: Path, url: str, user: Json, *, insecure: bool = False) -> None:
    """Write a kubeconfig, at once and whole: an agent may read it at any moment."""
    cluster = {"server": url, "insecure-skip-tls-verify": insecure}
    config = {
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user}],
    }
    part = path.with_name(f".{path.name}")
    part.write_text(json.dumps(config))
    part.replace(path)


class Running:
    """A reflector on a thread, and what it told."""

    def __init__(
        self, kubeconfig: Path, seen: Path | None = None, kind: Kind = Kind.POD, **options: Any
    ) -> None:
        self.events: list[Event] = []
        self.batches: list[int] = []
        connection = Connection(str(kubeconfig))
        self.reflector = Reflector(kind, connection, self.sink, Seen(seen), **options)
        self.thread = threading.Thread(target=self.reflector.run, daemon=True)
        self.thread.start()

    def sink(self, events: Any) -> None:
        self.events += events
        self.batches.append(len(events))

    def stop(self) -> None:
        self.reflector.stop()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()


wait = functools.partial(wait_until, interval=0.002)
"""What a scripted server is asked comes within milliseconds."""


def every_fault(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return a list of each fault that reflectors will have, as their state says it: however short it is."""
    found: list[str] = []
    plain = Reflector._failed

    def failed(reflector: Reflector, fault: str) -> None:
        plain(reflector, fault)
        found.append(reflector.state().fault)

    monkeypatch.setattr(Reflector, "_failed", failed)
    return found


def pause_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have each pause take longer than a test waits."""
    for name in ("FIRST_SECONDS", "LONGEST_SECONDS"):
        monkeypatch.setattr(backoff, name, 600.0)


def pod(name: str, version: int) -> Json:
    meta = {"name": name, "namespace": "x", "uid": f"uid-{name}", "resourceVersion": str(version)}
    return {"kind": "Pod", "apiVersion": "v1", "metadata": meta}


def send(handler: BaseHTTPRequestHandler, code: int, body: Json, **headers: str) -> None:
    data = json.dumps(body).encode()
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Content-Length", str(len(data)))
    handler.end_headers()
    handler.wfile.write(data)


def page(version: int, *items: Json, more: str = "") -> Answer:
    meta = {"resourceVersion": str(version), "continue": more}
    body = {"kind": "PodList", "apiVersion": "v1", "metadata": meta, "items": list(items)}
    return lambda handler, _: send(handler, 200, body)


def refuse(code: int, **headers: str) -> Answer:
    return lambda handler, _: send(
        handler, code, {"kind": "Status", "code": code, "message": "no"}, **headers
    )


def begin_stream(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Type", "application/json")
    handler.send_header("Transfer-Encoding", "chunked")
    handler.end_headers()


def chunk(part: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(part), part)


def stream(*parts: bytes, pause: float = 0.05, hold: float | None = None) -> Answer:
    """Send chunks with a pause between them, then hold the stream open for some seconds, and end it.

    None holds it for as long as the test takes.
    """

    def answer(handler: BaseHTTPRequestHandler, _: dict[str, str]) -> None:
        assert isinstance(handler.server, ScriptedServer)
        begin_stream(handler)
        for part in parts:
            handler.wfile.write(chunk(part))
            handler.wfile.flush()
            time.sleep(pause)
        handler.server.ended.wait(hold)
        handler.wfile.write(chunk(b""))

    return answer


def line(kind: str, data: Json) -> bytes:
    return json.dumps({"type": kind, "object": data}).encode() + b"\n"


def bookmark(version: int) -> bytes:
    meta = {"resourceVersion": str(version), "creationTimestamp": None}
    return line("BOOKMARK", {"kind": "Pod", "apiVersion": "v1", "metadata": meta})


GONE = line("ERROR", {"kind": "Status", "code": 410, "message": "too old"})
