"""The command ``status``, and what it says of an agent."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.dataplane.backend import KernelView
from agent.kube.model import Kind
from agent.observe.health import Health
from agent.observe.server import StatusServer
from agent.observe.snapshot import Facts, StatusSnapshot, take
from agent.policy.lower.lowered import LoweredProgram
from agent.sources.source import SyncState
from tests.unit.commands.test_cli import netpol_agent


class Served:
    """An agent's status, ready or not, over a real socket."""

    def __init__(self) -> None:
        self.ready = True
        self.server = StatusServer("127.0.0.1", 0, self.health, self.status)

    def health(self) -> Health:
        now = time.time()
        return Health(now, now, {Kind.POD: SyncState(self.ready, 0, now, now)}, applied=True)

    def status(self) -> StatusSnapshot:
        now = time.time()
        return take(
            Facts("worker-1", "0.1.0", now, now - 5, ready=self.ready), LoweredProgram(), KernelView({}, {})
        )


@pytest.fixture
def served() -> Iterator[Served]:
    served = Served()
    served.server.start()
    yield served
    served.server.stop()


def test_status_of_an_agent_that_is_ready(served: Served) -> None:
    result = netpol_agent("status", "--health-port", str(served.server.port))
    assert result.exit_code == 0
    assert result.output.startswith("worker-1  ready  netpol-agent 0.1.0, up 5 s\n")
    assert "\x1b" not in result.output


def test_status_of_one_that_is_not(served: Served) -> None:
    served.ready = False
    result = netpol_agent("status", "--url", f"http://127.0.0.1:{served.server.port}/")
    assert result.exit_code == 1
    assert "worker-1  not ready" in result.output


def test_status_as_json(served: Served) -> None:
    result = netpol_agent("status", "--json", "--health-port", str(served.server.port))
    assert json.loads(result.output)["node"] == "worker-1"


def test_status_does_not_ask_a_proxy(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert netpol_agent("status", "--health-port", str(served.server.port)).exit_code == 0


@pytest.mark.parametrize("address", ["0.0.0.0", "127.0.0.1"])
def test_status_follows_the_settings_of_the_agent(
    served: Served, monkeypatch: pytest.MonkeyPatch, address: str
) -> None:
    monkeypatch.setenv("NETPOL_AGENT_HEALTH_ADDRESS", address)
    monkeypatch.setenv("NETPOL_AGENT_HEALTH_PORT", str(served.server.port))
    assert netpol_agent("status").exit_code == 0


def test_status_of_none(served: Served) -> None:
    served.server.stop()
    result = netpol_agent("status", "--health-port", str(served.server.port))
    assert result.exit_code == 2
    assert "no agent answers at http://127.0.0.1" in result.output
    assert netpol_agent("status", "--url", "127.0.0.1:1").exit_code == 2


def test_status_of_something_else(served: Served, tmp_path: Path) -> None:
    (tmp_path / "status").write_text("{}")
    result = netpol_agent("status", "--url", f"http://127.0.0.1:{served.server.port}/healthz")
    assert result.exit_code == 2
    assert "answers 404" in result.output
