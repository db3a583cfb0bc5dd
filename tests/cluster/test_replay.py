"""``replay`` asked of a running agent: what it says of real connections, and what the change then does."""

from __future__ import annotations

import json
from pathlib import Path

from click.testing import CliRunner, Result

from agent.commands.cli import main
from agent.convert.manifest import to_yaml
from agent.convert.read import read_line
from agent.net import Family
from tests.cluster.scene import Scene, Way, pods, port, rule
from tests.lab.client import Json
from tests.lab.cluster import HEALTH_PORT
from tests.lab.node import Node


def replay(node: Node, *arguments: str) -> Result:
    with node.netns.entered():
        return CliRunner().invoke(main, ["replay", *arguments, "--health-port", str(HEALTH_PORT)])


def moved(result: Result, what: str) -> set[tuple[str, str, str]]:
    """Return source, destination and port of the connections between pods that would be cut or opened."""
    found: list[Json] = json.loads(result.stdout)[what]
    return {(one["source_pod"], one["destination_pod"], one["port"]) for one in found}


def test_what_replay_says_is_what_the_change_then_does(scene: Scene, tmp_path: Path) -> None:
    namespace = scene.namespace("a")
    server = scene.pod(scene.near, namespace, "server", {"app": "server"}, tcp=[80, 81])
    friend = scene.pod(scene.far, namespace, "friend", {"app": "friend"})
    stranger = scene.pod(scene.near, namespace, "stranger", {"app": "stranger"})
    kept, other_port, cut, out = (
        Way(friend, server),
        Way(friend, server, 81),
        Way(stranger, server),
        Way(server, friend),
    )
    scene.are_open([kept, other_port, cut, out])
    scene.policy(namespace, "in", pods(app="server"), ingress=[rule()])
    scene.expect(allowed=[kept, other_port, cut, out])

    change = tmp_path / "change.yaml"
    lines = (
        f"allow {namespace}/server from {namespace}/friend on tcp/80 as in",
        f"allow {namespace}/server to {namespace}/friend on tcp/80 as out",
    )
    change.write_text(to_yaml(map(read_line, lines)))
    # A connection that was reset is tracked for ten seconds.
    scene.are_open([kept, other_port, cut, out])
    said = replay(scene.near, str(change), "--json")
    assert said.exit_code == 1, said.stderr
    assert moved(said, "cut") == {
        (friend.name, server.name, "tcp/81"),
        (stranger.name, server.name, "tcp/80"),
    }
    assert moved(said, "opened") == set()
    found = json.loads(said.stdout)
    assert found["nodes"] == [scene.near.name]
    assert found["changes"] == [f"edited {namespace}/in", f"added {namespace}/out"]
    addresses = {one["source"] for one in found["cut"]}
    assert addresses == {p.address(family) for p in (friend, stranger) for family in Family}
    assert all(one["tracked"] > 0 for one in found["cut"])
    told = replay(scene.near, str(change)).stdout
    assert f"ingress of {server.name} by {namespace}/in: 4 kinds" in told

    # The other node has seen the friend's connections, and not those within this one.
    scene.are_open([kept, other_port, cut, out])
    far = replay(scene.far, str(change), "--json")
    assert moved(far, "cut") == {(friend.name, server.name, "tcp/81")}

    friendly = rule({"podSelector": pods(app="friend")}, ports=[port(80)])
    scene.replace_policy(namespace, "in", pods(app="server"), ingress=[friendly])
    to_friend = rule({"podSelector": pods(app="friend")}, ports=[port(80)], key="to")
    scene.policy(namespace, "out", pods(app="server"), policyTypes=["Egress"], egress=[to_friend])
    scene.expect(allowed=[kept, out], denied=[other_port, cut])

    again = replay(scene.near, str(change), "--json")
    assert (again.exit_code, moved(again, "cut"), moved(again, "opened")) == (0, set(), set())
    undone = replay(scene.near, "--remove", f"{namespace}/in", "--json")
    assert undone.exit_code == 0
    assert json.loads(undone.stdout)["changes"] == [f"removed {namespace}/in"]
    unknown = replay(scene.near, "--remove", f"{namespace}/none")
    assert (unknown.exit_code, unknown.stdout) == (2, "")
    assert f"there is no policy {namespace}/none to remove" in unknown.stderr
