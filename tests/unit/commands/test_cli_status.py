"""The command ``status``, and what it says of an agent."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType

import pytest

from agent.dataplane.backend import KernelView
from agent.kube.model import Kind
from agent.observe.health import Health
from agent.observe.routes import Routes
from agent.observe.server import StatusServer
from agent.observe.snapshot import Facts, StatusSnapshot, take
from agent.observe.status.policy import PolicyView, decode, rules_route
from agent.policy.lower.lowered import LoweredProgram
from agent.sources.source import SyncState
from tests.unit.commands.test_cli import netpol_agent


class Served:
    """An agent's status, ready or not, over a real socket."""

    def __init__(self, more: Routes = MappingProxyType({})) -> None:
        self.ready = True
        self.server = StatusServer("127.0.0.1", 0, self.health, self.status, (), more)

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
    assert result.output.startswith("worker-1  ready  netpol-agent 0.1.0, up 5 s")
    assert "\x1b" not in result.output


def test_status_of_one_that_is_not(served: Served) -> None:
    served.ready = False
    result = netpol_agent("status", "--url", f"http://127.0.0.1:{served.server.port}/")
    assert result.exit_code == 1
    assert "worker-1  not ready" in result.output


def test_all_of_the_status_and_one_pod(served: Served) -> None:
    port = str(served.server.port)
    everything = netpol_agent("status", "--all", "--health-port", port)
    assert (everything.exit_code, "Caches" in everything.output) == (0, True)
    pod = netpol_agent("status", "--pod", "shop/db", "--health-port", port)
    assert (pod.exit_code, pod.output.startswith("shop/db  no policy on this node isolates it")) == (0, True)
    answer = json.loads(netpol_agent("status", "--pod", "shop/db", "--json", "--health-port", port).output)
    assert answer == {"pod": "shop/db", "isolated": None, "policies": []}
    assert netpol_agent("status", "--all", "--pod", "a/b", "--health-port", port).exit_code == 2


def test_one_policy_and_one_that_nobody_knows() -> None:
    view = PolicyView("shop/db", "all pods", (), None, ())
    found = {"shop/db": view}
    served = Served({"/rules": rules_route(lambda key: found.get(str(key)))})
    served.server.start()
    try:
        port = str(served.server.port)
        shown = netpol_agent("status", "--policy", "shop/db", "--health-port", port)
        assert (shown.exit_code, shown.output.splitlines()[0]) == (0, "shop/db  selects all pods")
        asked = netpol_agent("status", "--policy", "shop/db", "--json", "--health-port", port)
        assert decode(asked.output.encode()) == view
        none = netpol_agent("status", "--policy", "shop/other", "--health-port", port)
        assert (none.exit_code, "knows no policy shop/other" in none.output) == (2, True)
        served.ready = False
        assert netpol_agent("status", "--policy", "shop/db", "--health-port", port).exit_code == 1
    finally:
        served.server.stop()


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
