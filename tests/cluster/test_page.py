"""The page as a real agent serves it, with what a real kernel has counted; in a browser: ``tests/page``."""

from __future__ import annotations

import contextlib
import http.client
import re

from tests.cluster.scene import Scene, Way, pods, port, rule
from tests.lab.cluster import HEALTH_PORT
from tests.lab.node import Node

BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


def page(
    node: Node, path: str, accept: str = BROWSER, host: str = ""
) -> tuple[int, str, http.client.HTTPMessage]:
    connection = http.client.HTTPConnection("127.0.0.1", HEALTH_PORT, timeout=10)
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
    assert "last seen to grow just now" in after
    assert page(scene.near, f"/policy?name={namespace}/none")[0] == 404


def test_who_takes_no_html_gets_the_index(scene: Scene) -> None:
    for accept in ("*/*", "", "text/plain", "text/html;q=0, text/plain"):
        status, text, headers = page(scene.near, "/", accept)
        assert (status, headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
        assert text.startswith("netpol-agent\n\n/healthz")
