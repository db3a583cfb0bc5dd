"""The page as a real agent serves it, with what a real kernel has counted; in a browser: ``tests/page``."""

from __future__ import annotations

import contextlib
import http.client
import json
import re

from agent.kube.logging import DENIED_ANNOTATION
from tests.cluster.scene import Scene, Way, pods, port, rule
from tests.lab.cluster import HEALTH_PORT, http_get, wait_until
from tests.lab.node import Node
from tests.patience import PATIENCE

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


def page(
    node: Node, path: str, accept: str = BROWSER, host: str = ""
) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", HEALTH_PORT, timeout=PATIENCE)
    with node.netns.entered():
        connection.connect()
    with contextlib.closing(connection):
        headers = {"Accept": accept} | ({"Host": host} if host else {})
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read().decode(), answer.headers


def packets(text: str, direction: str, number: int) -> int:
    """Return what the page says that a rule has counted."""
    section = text.partition(f'id="{direction}-{number}"')[2].partition("</section>")[0]
    found = re.search(r"(\d+) packets? allowed", section)
    assert found is not None, section
    return int(found[1])


def test_each_page_of_a_real_agent(scene: Scene) -> None:
    namespace = scene.namespace("a")
    server = scene.pod(scene.near, namespace, "server", {"app": "server"})
    client = scene.pod(scene.near, namespace, "client", {"app": "client"})
    scene.are_open([Way(client, server)])
    friendly = rule({"podSelector": pods(app="client")}, ports=[port(80)])
    scene.policy(namespace, "in", pods(app="server"), ingress=[friendly, rule(ports=[port(81)])])
    scene.expect(allowed=[Way(client, server)])

    asked = f"from={namespace}/client&to={server.name}&port=80"
    expected = {
        "/": f"Node {scene.near.name}",
        "/pods": server.name,
        f"/pod?name={server.name}": server.v4,
        "/policies": f"{namespace}/in",
        f"/policy?name={namespace}/in": "from pods[app=client] port 80/TCP",
        "/denied": "Denied connections",
        f"/changes?policy={namespace}/in": "+isolates ingress",
        f"/ask?{asked}": "in the kernel",
        f"/grid?pod={namespace}/client+{server.name}&port=80": "allowed",
        "/health": "cache/NetworkPolicy",
    }
    # The history is written by a thread of its own.
    changes = f"/changes?policy={namespace}/in"
    wait_until(lambda: expected[changes] in page(scene.near, changes)[1])
    for path, words in expected.items():
        status, text, headers = page(scene.near, path)
        assert status == 200, path
        assert words in text, path
        assert headers["Content-Type"] == "text/html; charset=utf-8"
        (nonce,) = set(re.findall(r'nonce="([^"]+)"', text))
        policy = headers["Content-Security-Policy"]
        assert policy.startswith("default-src 'none'; ")
        assert f"script-src 'nonce-{nonce}'; style-src 'nonce-{nonce}'" in policy
        assert "unsafe" not in policy
        assert page(scene.near, path, host="evil.example")[0] == 403

    _, before, _ = page(scene.near, f"/policy?name={namespace}/in")
    assert packets(before, "ingress", 0) > 0
    assert packets(before, "ingress", 1) == 0
    scene.near.run("ipset", "flush", f"KUBE-CACHE-{scene.near.mode}-4")
    scene.expect(allowed=[Way(client, server)])
    _, after, _ = page(scene.near, f"/policy?name={namespace}/in")
    assert packets(after, "ingress", 0) > packets(before, "ingress", 0)
    assert re.search(r"last seen to grow (just now|\d s ago)", after)
    assert page(scene.near, f"/policy?name={namespace}/none")[0] == 404


def test_a_denial_is_one_click_from_its_rule(scene: Scene) -> None:
    namespace = scene.namespace("a")
    logged = {"metadata": {"annotations": {DENIED_ANNOTATION: "all"}}}
    scene.cluster.client.patch(f"/api/v1/namespaces/{namespace}", logged)
    server = scene.pod(scene.near, namespace, "server", {"app": "server"})
    stranger = scene.pod(scene.far, namespace, "stranger", {"app": "stranger"})
    scene.are_open([Way(stranger, server)])
    friendly = rule({"podSelector": pods(app="client")}, ports=[port(80)])
    scene.policy(namespace, "in", pods(app="server"), ingress=[friendly])
    link = f'href="/policy?name={namespace}/in#ingress-0"'

    def told() -> bool:
        scene.expect(denied=[Way(stranger, server)])
        return link in page(scene.near, f"/denied?pod={server.name}")[1]

    wait_until(told, 30)
    _, text, _ = page(scene.near, "/denied")
    assert f'href="/pod?name={stranger.name}"' in text
    assert f"from={namespace}%2Fstranger&amp;to={namespace}%2Fserver&amp;port=80%2Ftcp" in text
    assert link in page(scene.near, f"/policy?name={namespace}/in")[1]
    assert link not in page(scene.near, f"/denied?pod={namespace}/nobody")[1]
    status, body = http_get(scene.near, f"/explain?from={stranger.name}&to={server.name}&port=80")
    assert status == 200
    first, *_ = json.loads(body)["denied"]
    assert f"denied ingress TCP {stranger.name}" in first
    _, body = http_get(scene.near, f"/explain?from={server.name}&to={stranger.name}&port=80")
    assert "denied" not in json.loads(body)


def test_who_takes_no_html_gets_the_index(scene: Scene) -> None:
    for accept in ("*/*", "", "text/plain", "text/html;q=0, text/plain"):
        status, text, headers = page(scene.near, "/", accept)
        assert (status, headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
        assert text.startswith("netpol-agent\n\n/healthz")
