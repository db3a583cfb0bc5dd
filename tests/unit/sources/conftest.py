"""A scripted API server for one test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.unit.sources.scripted import Running, Script, write_config


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def url(script: Script) -> Iterator[str]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            script.answer(self)

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.fixture
def kubeconfig(url: str, tmp_path: Path) -> Path:
    path = tmp_path / "kubeconfig"
    write_config(path, url, {"token": "one"})
    return path


@pytest.fixture
def running(kubeconfig: Path, script: Script) -> Iterator[Callable[..., Running]]:
    del script
    started: list[Running] = []

    def start(seen: Path | None = None, **options: Any) -> Running:
        started.append(Running(kubeconfig, seen, **options))
        return started[-1]

    yield start
    for each in started:
        each.stop()


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    found = tmp_path / "manifests"
    found.mkdir()
    return found


@pytest.fixture
def state(tmp_path: Path) -> Path:
    return tmp_path / "state"
