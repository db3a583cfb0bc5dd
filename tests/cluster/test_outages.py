"""After an outage of the API server a new policy soon holds: by packets, with a gate before a real one."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest

from tests.cluster.behind import Behind, behind_a_gate
from tests.cluster.scene import pods
from tests.cluster.test_lies import GONE, POLICIES
from tests.conftest import Measured
from tests.lab.cluster import Cluster, http_get, wait_until
from tests.lab.gate import Reply, pass_on
from tests.lab.lab import flows
from tests.lab.node import Layout, Mode
from tests.lab.probe import Verdict

pytestmark = pytest.mark.xdist_group("outages")

PATIENCE = 15.0
"""Seconds in which a busy machine sees what takes 3 s at most; without being woken, a kind waits 30."""


@pytest.fixture(scope="module")
def behind(cluster: Cluster) -> Iterator[Behind]:
    with behind_a_gate(cluster, "outages", Layout.ROUTED, Mode.NFT) as found:
        found.start().wait_ready()
        yield found


def holds_soon(behind: Behind, measured: Measured, what: str) -> None:
    """Make a policy now, when the server has just come back, and see it hold; then remove it."""
    began = time.monotonic()
    behind.workspace.policy(behind.namespace, "new", pods(app="server"), policyTypes=["Ingress"])
    denied = dict.fromkeys(flows(behind.client, behind.server, tcp=[80]), Verdict.DENIED)
    behind.lab.wait_for(denied, PATIENCE)
    measured(f"after {what}: a new policy holds {time.monotonic() - began:.1f} s after the server's return")
    wait_until(lambda: "warning" not in behind.ready(), PATIENCE)
    behind.workspace.delete_policy(behind.namespace, "new")
    behind.expect(open=True)


def refusing(behind: Behind, reply: Reply, seconds: float) -> None:
    """Refuse everything for so long."""
    behind.gate.instead = lambda _: reply
    behind.gate.cut()
    warned(behind, seconds)
    behind.gate.instead = pass_on


def warned(behind: Behind, seconds: float) -> None:
    """Wait so long, and see that every kind is warned about, with the age of its contact."""
    end = time.monotonic() + seconds
    wait_until(lambda: behind.ready().count(" warning") >= 3, 60.0)
    time.sleep(max(0.0, end - time.monotonic()))
    status, text = http_get(behind.node, "/readyz")
    assert status == 200
    assert re.search(r"last contact \d+ s ago|no contact for \d+ s", text)
    assert text.count(" warning") >= 3


@pytest.mark.guarantee("4.3")
@pytest.mark.parametrize("seconds", [5, 30])
def test_a_server_that_was_away(behind: Behind, measured: Measured, seconds: int) -> None:
    behind.gate.away()
    warned(behind, seconds)
    behind.until_ready_says("connection refused")
    behind.gate.back()
    holds_soon(behind, measured, f"{seconds} s away")


@pytest.mark.parametrize(
    ("headers", "name"), [({}, "429"), ({"Retry-After": "1"}, "429 with Retry-After")], ids=["bare", "after"]
)
def test_a_server_that_limited_requests(
    behind: Behind, measured: Measured, headers: dict[str, str], name: str
) -> None:
    refusing(behind, Reply(429, b"{}", {"Content-Type": "application/json", **headers}), 5)
    holds_soon(behind, measured, f"5 s of {name}")


def test_a_server_that_has_forgotten_how_far_it_told(behind: Behind, measured: Measured) -> None:
    """Its first answer to each watch is 410: each kind is listed again at once."""
    first: set[str] = set()

    def forgotten(path: str) -> Reply | None:
        kind = urlsplit(path).path
        if "watch" not in path or kind in first:
            return None
        first.add(kind)
        return GONE

    behind.gate.away()
    warned(behind, 5)
    behind.gate.instead = forgotten
    behind.gate.back()
    holds_soon(behind, measured, "5 s away and 410")
    assert len(first) == 3
    behind.gate.instead = pass_on


@pytest.mark.guarantee("4.3")
def test_a_server_that_failed_to_list_one_kind(behind: Behind, measured: Measured) -> None:
    """So often that the kind waits at least 10 s before its next list."""
    failed = Reply(500, b"{}", {"Content-Type": "application/json"})
    lists: list[float] = []

    def instead(path: str) -> Reply | None:
        asked = urlsplit(path)
        if asked.path != POLICIES:
            return None
        if "watch" in asked.query:
            return GONE
        if "limit=500" in asked.query:
            lists.append(time.monotonic())
        return failed

    behind.gate.instead = instead
    behind.gate.cut()
    behind.until_ready_says("failed to list networkpolicies: HTTP 500")
    wait_until(lambda: len(lists) > 1 and lists[-1] - lists[-2] >= 10, 120)
    time.sleep(1)
    behind.gate.instead = pass_on
    holds_soon(behind, measured, f"{len(lists)} failed lists of one kind")


def test_a_token_that_had_expired(behind: Behind, measured: Measured) -> None:
    """The API server itself says what it thinks of it; the new one is in the same file."""
    path = behind.gate.kubeconfig("agent")
    config = json.loads(path.read_text())
    behind.gate.expired = config["users"][0]["user"]["token"]
    behind.gate.cut()
    warned(behind, 5)
    behind.until_ready_says("not authorized to list namespaces (401)")
    config["users"][0]["user"]["token"] = behind.cluster.api.agent_token()
    path.write_text(json.dumps(config))
    holds_soon(behind, measured, "5 s of an expired token")


def test_a_real_server_that_is_started_again(behind: Behind, measured: Measured) -> None:
    behind.cluster.api.stop()
    warned(behind, 5)
    behind.cluster.api.start()
    holds_soon(behind, measured, "a restart of kube-apiserver")


def test_a_path_that_was_lost(behind: Behind, measured: Measured) -> None:
    """No packet says that anything is wrong: connections seem to be there, and are silent."""

    def drop(*, on: bool) -> None:
        rule = f"link set {_uplink(behind)} {'down' if on else 'up'}"
        behind.lab.underlay.ip(rule)

    drop(on=True)
    try:
        warned(behind, 30)
    finally:
        drop(on=False)
    behind.lab.underlay.wait_for_link(_uplink(behind))
    holds_soon(behind, measured, "30 s without a path")


def _uplink(behind: Behind) -> str:
    return f"n{behind.node.index}"
