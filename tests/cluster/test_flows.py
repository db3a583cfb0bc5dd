"""Denied connections of a running agent on a real API server: on its port, in a file, live, as Events."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest
import yaml

from agent.dataplane.logged import Decided
from agent.kube.logging import ALLOWED_ANNOTATION, DENIED_ANNOTATION
from agent.net import Family
from agent.observe.flows.client import follow
from agent.observe.flows.flow import Flow, from_json
from agent.observe.flows.hub import Wanted
from tests.cluster.scene import Scene, Way, pods, port, rule
from tests.lab.cluster import HEALTH_PORT, ROOT, Cluster, http_get, wait_until
from tests.lab.node import Layout, Mode, Node

COMPONENT = ROOT / "deploy/components/events/rbac.yaml"
RBAC = "/apis/rbac.authorization.k8s.io/v1"
REFUSED = "denied connections cannot be told as Events: the API server answers 403"


def annotate(cluster: Cluster, path: str, **annotations: str | None) -> None:
    names = {"denied": DENIED_ANNOTATION, "allowed": ALLOWED_ANNOTATION}
    asked = {names[name]: text for name, text in annotations.items()}
    cluster.client.patch(f"/api/v1/namespaces/{path}", {"metadata": {"annotations": asked}})


@contextlib.contextmanager
def granted(cluster: Cluster) -> Iterator[None]:
    """Give agents the right to create Events, as the component does."""
    made = []
    for document in yaml.safe_load_all(COMPONENT.read_text()):
        collection = f"{RBAC}/{document['kind'].lower()}s"
        cluster.client.post(f"{collection}?fieldValidation=Strict", document)
        made.append(f"{collection}/{document['metadata']['name']}")
    yield
    for path in reversed(made):
        cluster.client.delete(path)


def logs(node: Node) -> bool:
    """Whether any rule of a node logs."""
    return "NFLOG" in node.run(f"iptables-{node.mode}-save", "-t", "filter")


def told(node: Node, **query: str) -> list[Flow]:
    status, body = http_get(node, f"/flows?{urlencode(query)}")
    assert status == 200, body
    reports = [from_json(line.encode()) for line in body.splitlines()]
    return [report for report in reports if isinstance(report, Flow)]


def test_who_is_denied_is_told_where_the_annotation_says_so(scene: Scene) -> None:
    namespace = scene.namespace("a")
    server = scene.pod(scene.near, namespace, "server", {"app": "server"})
    friend = scene.pod(scene.far, namespace, "friend", {"app": "friend"})
    stranger = scene.pod(scene.far, namespace, "stranger", {"app": "stranger"})
    ways = [Way(friend, server), Way(stranger, server)]
    scene.are_open(ways)
    friendly = rule({"podSelector": pods(app="friend")}, ports=[port(80)])
    scene.policy(namespace, "in", pods(app="server"), ingress=[friendly])
    scene.expect(allowed=ways[:1], denied=ways[1:])
    assert told(scene.near, pod=server.name) == []

    annotate(scene.cluster, namespace, denied="all", allowed="sampled")
    wait_until(lambda: logs(scene.near))
    scene.cluster.settle()
    with scene.near.netns.entered():
        live = follow(f"http://127.0.0.1:{HEALTH_PORT}", Wanted(Decided.DENIED, server.name), 0)

        def both() -> bool:
            scene.expect(denied=ways[1:])
            found = told(scene.near, pod=server.name, verdict="denied")
            return {":" in flow.source.address for flow in found} == {False, True}

        wait_until(both, 30)
        line = from_json(next(live))
        live.close()
    assert isinstance(line, Flow)
    assert line.pod == server.name
    for family in Family:
        (flow, *_) = (
            one
            for one in told(scene.near, pod=server.name, verdict="denied")
            if one.source.address == stranger.address(family)
        )
        assert (flow.source.pod, flow.source.node) == (stranger.name, scene.far.name)
        assert (flow.destination.pod, flow.destination.port) == (server.name, 80)
        assert flow.policies == (f"{namespace}/in",)
        assert flow.nearest is not None
        assert (flow.nearest.rule, flow.nearest.peer, flow.nearest.port) == (0, False, True)
        assert flow.nearest.why == f"{stranger.name} does not match app=friend: it has app=stranger"
    scene.expect(allowed=ways[:1])
    wait_until(lambda: bool(told(scene.near, pod=friend.name, verdict="allowed")), 20)
    (allowed, *_) = told(scene.near, pod=friend.name, verdict="allowed")
    assert allowed.rules == (f"{namespace}/in[0]",)

    annotate(scene.cluster, namespace, denied="perhaps", allowed=None)
    wait_until(lambda: not logs(scene.near))
    warning = f"{DENIED_ANNOTATION}=perhaps of Namespace {namespace}"
    wait_until(lambda: warning in http_get(scene.near, "/readyz")[1])
    scene.expect(allowed=ways[:1], denied=ways[1:])


@pytest.mark.xdist_group("cluster-routed")
def test_settings_log_every_pod_into_a_file_and_as_events(cluster: Cluster, tmp_path: Path) -> None:
    log = tmp_path / "flows"
    node = cluster.node(
        "events-node", Layout.ROUTED, Mode.NFT, "--log-denied", "sampled", "--events", "--flow-log", str(log)
    )
    try:
        cluster.wait_ready()
        with cluster.workspace() as workspace:
            scene = Scene(workspace, node, node)
            namespace = scene.namespace("a")
            server = scene.pod(node, namespace, "server", {"app": "server"})
            client = scene.pod(node, namespace, "client")
            scene.are_open([Way(client, server)])
            scene.policy(namespace, "in", pods(app="server"), ingress=[])
            scene.expect(denied=[Way(client, server)])
            path = f"/api/v1/namespaces/{namespace}/events"

            def events() -> list[dict[str, object]]:
                # The packets that it is about: what was refused is told again when more come.
                scene.expect(denied=[Way(client, server)])
                found: list[dict[str, object]] = cluster.client.get(path)["items"]
                return [event for event in found if event["reason"] == "ConnectionDenied"]

            wait_until(lambda: REFUSED in http_get(node, "/readyz")[1], 20)
            with granted(cluster):
                wait_until(lambda: bool(events()), 60)
                (event, *_) = events()
                # The server has it before the agent has its answer.
                wait_until(lambda: REFUSED not in http_get(node, "/readyz")[1], 20)
            assert event["message"] in {
                f"ingress TCP 80 from {client.name} ({client.address(family)}) was denied: isolated by "
                f"{namespace}/in, without any ingress rule"
                for family in Family
            }
            pod = cluster.client.get(f"/api/v1/namespaces/{namespace}/pods/server")
            involved = event["involvedObject"]
            assert isinstance(involved, dict)
            assert involved["uid"] == pod["metadata"]["uid"]
        lines = [json.loads(line) for line in log.read_text().splitlines()]
        assert {line["pod"] for line in lines} == {server.name}
        assert log.stat().st_mode & 0o777 == 0o600
    finally:
        cluster.remove_node(node)
