"""The history of a real agent on a real API server: what changed, by whom, and when the kernel had it."""

from __future__ import annotations

import json
import re
import sqlite3
import time
from collections.abc import Iterator
from typing import Any

import pytest

from agent.history.change import Row
from agent.history.query import Query
from agent.history.store import NAME, read
from tests.cluster.behind import Behind, behind_a_gate
from tests.cluster.scene import pods, port, rule
from tests.lab.cluster import AgentProcess, Cluster, http_get, wait_until
from tests.lab.lab import flows
from tests.lab.node import Layout, Mode
from tests.lab.probe import Verdict

pytestmark = pytest.mark.xdist_group("history")

Json = dict[str, Any]


@pytest.fixture(scope="module")
def behind(cluster: Cluster) -> Iterator[Behind]:
    with behind_a_gate(cluster, "history", Layout.ROUTED, Mode.NFT) as found:
        found.start().wait_ready()
        yield found


def agent(behind: Behind) -> AgentProcess:
    return behind.cluster.agents[behind.node.name]


def rows(behind: Behind, **query: Any) -> list[Row]:
    return read(behind.node.directory / "state", Query(limit=1000, **query))


def new(behind: Behind, before: int, number: int, subject: str) -> list[Row]:
    """Wait for so many more rows about a subject than there were, and return them.

    What the kernel does not have soon is told before it has it.
    """

    def found() -> list[Row]:
        return [row for row in rows(behind) if row.subject.value == subject][before:]

    def is_whole(row: Row) -> bool:
        return row.kernel is not None or subject == "outage"

    wait_until(lambda: len(found()) >= number and all(map(is_whole, found())), 30.0)
    return found()


def count(behind: Behind, subject: str) -> int:
    return sum(row.subject.value == subject for row in rows(behind))


def in_order(row: Row) -> bool:
    """Whether the API server had it before this node saw it, and the kernel after."""
    assert row.api is not None
    assert row.kernel is not None
    return row.api <= row.seen <= row.kernel


def test_a_policy_that_is_applied_edited_and_deleted(behind: Behind) -> None:
    before, server = count(behind, "policy"), str(behind.server.name)
    began = time.time() - 1
    behind.workspace.policy(behind.namespace, "applied", pods(app="server"), ingress=[])
    (added,) = new(behind, before, 1, "policy")
    behind.lab.wait_for(dict.fromkeys(flows(behind.client, behind.server, tcp=[80]), Verdict.DENIED), 15.0)
    assert added.kernel is not None
    assert added.kernel.timestamp() <= time.time()
    assert added.object == f"{behind.namespace}/applied"
    assert added.what.value == "added"
    assert added.diff == ("+selects pods[app=server]", "+isolates ingress")
    assert added.effect.isolated_ingress == added.effect.selected == (server,)
    assert in_order(added)
    assert added.api is not None
    assert added.api.timestamp() >= began - 1
    assert added.who.endswith("(Update)")

    behind.workspace.replace_policy(
        behind.namespace,
        "applied",
        pods(app="server"),
        ingress=[rule({"podSelector": pods(app="client")}, ports=[port(80)])],
    )
    # Two changes that come together are one.
    new(behind, before, 2, "policy")
    behind.workspace.delete_policy(behind.namespace, "applied")
    edited, deleted = new(behind, before, 3, "policy")[1:]
    assert edited.diff == ("+ingress[0] from pods[app=client] port 80/TCP",)
    assert (edited.effect.isolated_ingress, edited.effect.selected) == ((), (server,))
    assert edited.effect.members_added + edited.effect.sets_added > 0
    assert in_order(edited)
    assert (deleted.what.value, deleted.who, deleted.api) == ("deleted", "", None)
    assert deleted.effect.opened_ingress == (server,)
    assert deleted.diff[0] == "-selects pods[app=server]"
    assert deleted.kernel is not None
    assert edited.seen <= deleted.seen <= deleted.kernel
    behind.expect(open=True)


def test_who_labels_a_pod_is_told_with_what_that_did(behind: Behind) -> None:
    behind.workspace.policy(behind.namespace, "label", pods(marked="yes"), policyTypes=["Egress"])
    before = count(behind, "pod")
    behind.workspace.label(behind.client, {"marked": "yes"})
    behind.cluster.settle()
    (row,) = new(behind, before, 1, "pod")
    assert (row.object, row.what.value, row.diff) == (behind.client.name, "changed", ("+label marked=yes",))
    assert row.effect.isolated_egress == (behind.client.name,)
    assert row.effect.policies == (f"{behind.namespace}/label",)
    assert in_order(row)
    behind.workspace.label(behind.client, {"marked": None})
    behind.workspace.delete_policy(behind.namespace, "label")
    behind.expect(open=True)


def netpol_agent(behind: Behind, *arguments: str) -> str:
    """Run a command of the agent's on the node; return what it prints."""
    return behind.node.agent(*arguments)


def test_when_a_pod_became_denied_and_by_what_is_one_command(behind: Behind) -> None:
    behind.workspace.policy(behind.namespace, "command", pods(app="server"), ingress=[])
    behind.cluster.settle()
    server = behind.server.name
    wait_until(lambda: "command added" in netpol_agent(behind, "history", "--pod", server))
    said = netpol_agent(behind, "history", "--pod", server, "--since", "1m")
    assert f"isolated for ingress: {server}" in said
    last = said.splitlines()[-2]
    assert last.startswith(f"{server} ingress: isolated since ")
    assert f"policy {behind.namespace}/command added by " in last
    served = json.loads(netpol_agent(behind, "history", "--policy", f"{behind.namespace}/command", "--json"))
    assert served["node"] == behind.node.name
    (row,) = served["rows"]
    assert row["effect"]["isolated_ingress"] == [server]
    status, body = http_get(behind.node, f"/history?namespace={behind.namespace}&limit=1")
    assert (status, json.loads(body)["rows"]) == (200, [row])
    behind.workspace.delete_policy(behind.namespace, "command")
    behind.expect(open=True)


@pytest.mark.guarantee("6.4")
def test_a_repair_says_what_somebody_else_changed(behind: Behind) -> None:
    behind.workspace.policy(behind.namespace, "flushed", pods(app="server"), ingress=[])
    behind.cluster.settle()
    before = count(behind, "repair")
    saved = behind.node.netns.run(["iptables-nft-save", "-t", "filter"]).splitlines()
    # Another pod's chain of a moment ago may be there still.
    chain = next(line.split()[1] for line in saved if line.startswith("-A KUBE-POD-FW-") and "server" in line)
    behind.node.netns.run(["iptables-nft", "-F", chain])
    (repair,) = new(behind, before, 1, "repair")
    assert any(chain in line for line in repair.detail)
    assert repair.kernel is not None
    assert re.fullmatch(r"iptables-nft \(pid \d+\)( of python\S* \(pid \d+\))?", repair.who)
    behind.workspace.delete_policy(behind.namespace, "flushed")
    behind.expect(open=True)


def test_an_outage_is_told_from_its_beginning_to_its_end(behind: Behind) -> None:
    before = count(behind, "outage")
    behind.gate.away()
    (began,) = new(behind, before, 1, "outage")
    assert (began.what.value, began.object) == ("begun", "API server")
    # Whoever hears of it first may only know yet that its connection has ended.
    assert "refused" in began.detail[1] or "broke" in began.detail[1]
    wait_until(lambda: behind.ready().count(" warning") == 3)
    # Which kinds were not read is looked at each second.
    time.sleep(3)
    behind.gate.back()
    _, ended = new(behind, before, 2, "outage")
    assert ended.what.value == "ended"
    assert ended.detail[1] == "not read: Namespace, NetworkPolicy, Pod"


def test_it_is_there_after_a_restart_and_only_what_changed_meanwhile_is_told_as_changed(
    behind: Behind,
) -> None:
    behind.workspace.policy(behind.namespace, "restart", pods(app="server"), ingress=[])
    behind.cluster.settle()
    wait_until(lambda: f"{behind.namespace}/restart" in [row.object for row in rows(behind)])
    before = len(rows(behind))
    agent(behind).stop()
    state = str(behind.node.directory / "state")
    said = netpol_agent(behind, "history", "--state-dir", state, "--limit", "1")
    assert said.rstrip().endswith("agent stopped")
    behind.start().wait_ready()
    wait_until(lambda: [row.what.value for row in rows(behind)[before:]].count("enforcing") == 1)
    stopped, started, enforcing = (row for row in rows(behind)[before:] if row.subject.value == "agent")
    assert [row.what.value for row in (stopped, started)] == ["stopped", "started"]
    assert enforcing.effect.isolated_ingress == ()
    assert behind.server.name in enforcing.effect.selected
    behind.workspace.delete_policy(behind.namespace, "restart")
    behind.expect(open=True)


def test_a_file_that_somebody_damages_stops_nothing(behind: Behind) -> None:
    agent(behind).stop()
    path = behind.node.directory / "state" / NAME
    path.write_bytes(b"damaged" * 1000)
    behind.start().wait_ready()
    wait_until(lambda: "was damaged" in json.dumps(agent(behind).status()["faults"]))
    behind.workspace.policy(behind.namespace, "damaged", pods(app="server"), ingress=[])
    behind.lab.wait_for(dict.fromkeys(flows(behind.client, behind.server, tcp=[80]), Verdict.DENIED), 15.0)
    wait_until(lambda: count(behind, "policy") == 1)
    assert sqlite3.connect(path).execute("PRAGMA integrity_check").fetchone() == ("ok",)
    behind.workspace.delete_policy(behind.namespace, "damaged")
    behind.expect(open=True)
