"""What a person is shown of a node by a real agent, with real packets: the screen, a pod, a policy."""

from __future__ import annotations

import json
from typing import Any

from tests.cluster.scene import Scene, Way, pods, port, rule
from tests.lab.cluster import wait_until


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
    wait_until(lambda: bool(policy(scene, name)["rules"][0]["packets"]))
    found = policy(scene, name)
    used, unused, misspelt = found["rules"]
    assert (found["ingress"], found["egress"], found["problems"]) == ([server.name], None, [])
    assert used["text"] == "from pods[app=client] port 80/TCP"
    assert (unused["packets"], unused["nobody"]) == (0, False)
    assert (misspelt["nobody"], misspelt["packets"] or 0) == (True, 0)
    shown = status(scene, "--policy", name)
    assert f"isolates for ingress: {server.name}" in shown
    assert "ingress[1] from pods[app=client] port 81/TCP  (unused since it was written)" in shown
    assert f"policy {name} added by " in shown
    pod = status(scene, "--pod", server.name)
    assert f"ingress: isolated by {name}" in pod
    assert "egress: open" in pod
    assert "ingress[0] from pods[app=client] port 80/TCP  (" in pod
    screen = status(scene)
    assert f"{scene.near.name}  ready  netpol-agent" in screen
    assert f"policy {name} added by " in screen
    assert "repairs of drift" in screen or "repair of drift" in screen
