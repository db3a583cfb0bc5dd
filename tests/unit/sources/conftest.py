"""A scripted API server for one test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.sources.scripted import Running, Script, ScriptedServer, write_config


@pytest.fixture
def script() -> Script:
    return Script()


@pytest.fixture
def url(script: Script) -> Iterator[str]:
    server = ScriptedServer(script)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.ended.set()
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
