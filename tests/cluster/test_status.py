"""What a person is shown of a node by a real agent, with real packets: the screen, a pod, a policy."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from tests.cluster.conftest import Pair
from tests.cluster.scene import Scene, Way, pods, port, rule
from tests.lab.cluster import http_get, wait_until
from tests.lab.node import Layout


def status(scene: Scene, *arguments: str) -> str:
    return scene.near.agent("status", *arguments)


def policy(scene: Scene, name: str) -> Any:
    return json.loads(status(scene, "--policy", name, "--json"))


def test_a_policy_shows_which_rules_packets_use_and_which_match_nobody(scene: Scene) -> None:
    namespace = scene.namespace("a")
    server = scene.pod(scene.near, namespace, "server", {"app": "server"}, tcp=[80, 81])
    client = scene.pod(scene.far, namespace, "client", {"app": "client"})
    scene.are_open([Way(client, server)])
    peers = [{"podSelector": pods(app=label)} for label in ("client", "misspelt")]
    scene.policy(
        namespace,
        "web",
        pods(app="server"),
        ingress=[rule(peers[0], ports=[port(80)]), rule(peers[0], ports=[port(81)]), rule(peers[1])],
    )
    scene.expect(allowed=[Way(client, server)])
    name = f"{namespace}/web"
    wait_until(lambda: bool(policy(scene, name)["rules"][0]["packets"]), 30)
    found = policy(scene, name)
    used, unused, misspelt = found["rules"]
    assert (found["ingress"], found["egress"], found["problems"]) == ([server.name], None, [])
    assert used["text"] == "from pods[app=client] port 80/TCP"
    assert (unused["packets"], unused["nobody"]) == (0, False)
    assert (misspelt["nobody"], misspelt["packets"] or 0) == (True, 0)
    # The history is written by a thread of its own.
    wait_until(lambda: f"policy {name} added by " in status(scene, "--policy", name), 30)
    shown = status(scene, "--policy", name)
    assert f"isolates for ingress: {server.name}" in shown
    assert "ingress[1] from pods[app=client] port 81/TCP  (unused since it was written)" in shown
    pod = status(scene, "--pod", server.name)
    assert f"ingress: isolated by {name}" in pod
    assert "egress: open" in pod
    assert "ingress[0] from pods[app=client] port 80/TCP  (" in pod
    screen = status(scene)
    assert f"{scene.near.name}  ready  netpol-agent" in screen
    assert f"policy {name} added by " in screen
    assert "repairs of drift" in screen or "repair of drift" in screen


@pytest.mark.guarantee("7.5")
@pytest.mark.parametrize("pair", [Layout.BRIDGE], ids=str, indirect=True)
@pytest.mark.xdist_group("cluster-bridge")
def test_a_policy_is_proved_at_each_generation_anew(pair: Pair, scene: Scene) -> None:
    """What the API server counts as another generation has to be proved again, and nothing else has to."""
    namespace = scene.namespace("proved")
    scene.pod(scene.near, namespace, "server", {"app": "server"})
    name = f"{namespace}/web"

    def known() -> Any:
        found = http_get(pair.near, f"/rules?policy={name}")
        return json.loads(found[1]) if found[0] == 200 else {"generation": 0}

    def prove() -> Any:
        found = http_get(pair.near, "/verify")
        assert json.loads(found[1])["differences"] == []
        return known()

    began = time.time()
    scene.policy(namespace, "web", pods(app="server"), ingress=[rule(ports=[port(80)])])
    wait_until(lambda: known()["generation"] == 1, 20.0)
    first = prove()
    assert first["generation"] == 1
    assert first["proved_since"] > began
    assert "proved to be enforced here (generation 1) since " in status(scene, "--policy", name)
    # The same spec, written again: the API server counts no other generation, and nothing has to be proved.
    scene.replace_policy(namespace, "web", pods(app="server"), ingress=[rule(ports=[port(80)])])
    assert prove()["proved_since"] == first["proved_since"]
    changed = time.time()
    scene.replace_policy(namespace, "web", pods(app="server"), ingress=[rule(ports=[port(81)])])
    wait_until(lambda: known()["generation"] == 2, 20.0)
    second = prove()
    assert second["generation"] == 2
    assert second["proved_since"] > changed
