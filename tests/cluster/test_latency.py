"""How long after an API call packets are treated the new way: measured and printed."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import pytest

from agent.net import Family, Protocol
from tests.cluster.scene import Scene, Way, block, pods, port, rule
from tests.lab.probe import Flow, Verdict

ROUNDS = 15
WANTED, TOO_LONG = 0.1, 2.0


def test_a_policy_takes_effect_quickly(scene: Scene, capsys: pytest.CaptureFixture[str]) -> None:
    namespace = scene.namespace("a", {"team": "a"})
    server = scene.pod(scene.near, namespace, "server", {"app": "server"}, ports=[("http", "TCP", 80)])
    client = scene.pod(scene.far, namespace, "client", {"app": "client"})
    for number in range(8):
        scene.pod((scene.near, scene.far)[number % 2], namespace, f"other-{number}", {"app": f"o{number}"})
    scene.are_open([Way(client, server)])
    flow = Flow(client, server.address(Family.V4), Protocol.TCP, 80)
    spec = {
        "ingress": [
            rule(
                {"podSelector": pods(role="friend")},
                {"namespaceSelector": pods(team="b")},
                block("10.0.0.0/8", "10.244.0.0/16"),
                ports=[port(80), port("http"), port(8000, endPort=8100)],
            )
        ]
    }
    took: dict[str, list[float]] = {}

    def measure(what: str, act: Callable[[], None], verdict: Verdict) -> None:
        begin = time.monotonic()
        act()
        while scene.lab.probe([flow], grace=0.001) != [verdict]:
            assert time.monotonic() - begin < 10, f"{what}: never {verdict}"
        took.setdefault(what, []).append(time.monotonic() - begin)
        scene.cluster.settle()

    for _ in range(ROUNDS):
        measure(
            "policy added",
            lambda: scene.policy(namespace, "p", pods(app="server"), **spec),
            Verdict.DENIED,
        )
        measure("peer label set", lambda: scene.workspace.label(client, {"role": "friend"}), Verdict.ALLOWED)
        measure("peer label removed", lambda: scene.workspace.label(client, {"role": None}), Verdict.DENIED)
        measure("policy removed", lambda: scene.workspace.delete_policy(namespace, "p"), Verdict.ALLOWED)
    medians = {what: statistics.median(times) for what, times in took.items()}
    with capsys.disabled():
        figures = ", ".join(f"{what} {1000 * median:.0f} ms" for what, median in medians.items())
        print(f"\n{scene.near.layout}, {scene.near.mode}: API call to packet, medians: {figures}")
        slow = [what for what, median in medians.items() if median > WANTED]
        if slow:
            print(f"over {1000 * WANTED:.0f} ms: {', '.join(slow)} (is the machine busy?)")
    assert max(medians.values()) < TOO_LONG
