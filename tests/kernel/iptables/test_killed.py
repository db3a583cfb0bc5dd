"""An agent killed at any moment leaves nothing open that its rules and sets deny, whatever is cached.

Packets of new connections are sent all the time, so that some are being judged while a permission is taken
away, by a member of a set or by rules. What comes through after the kill has to be what the rules let through
without the verdict cache.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from random import Random

import pytest

from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.variant import MODES, Mode
from agent.net import Family
from tests.kernel.revoking import WAYS
from tests.kernel.stream import Stream
from tests.lab.cluster import wait_until
from tests.lab.forking import Forked
from tests.lab.lab import Lab
from tests.lab.node import Node, Pod
from tests.patience import PATIENCE
from tests.workers import grouped

PORT = 5000
RATE = 10_000
KILLED, AT_MOST = 5, 50
"""Agents that are killed, each at another moment; more where none of them had taken the permission away."""


class Scene:
    """A node with two pods."""

    def __init__(self, lab: Lab, mode: Mode) -> None:
        self.mode = mode
        self.node: Node = lab.node("n", "routed", mode)
        self.client: Pod = lab.pod(self.node, "client")
        self.server: Pod = lab.pod(self.node, "server")
        # Each packet is a new connection, and there is room for as many.
        self.node.netns.sysctl({"net.netfilter.nf_conntrack_udp_timeout": 1})

    def start(self, way: str) -> Forked:
        """Start an agent, which is alone in its session with what it starts."""
        reading, writing = os.pipe()
        with open(reading, "rb") as told:
            with open(writing, "wb") as output:
                agent = self.node.fork(
                    "tests.kernel.revoking", self.mode, way, self.client.v4, self.server.v4, output=output
                )
            assert told.readline() == b"revoking\n"
        return agent

    def close_cache(self) -> None:
        self.node.run("ipset", "flush", names.cache(self.mode, Family.V4).lookup)


def kill(agent: Forked) -> None:
    """Kill an agent, and wait for the end of the commands that it started: they may write rules yet."""
    agent.kill()
    agent.wait(PATIENCE)

    def ended() -> bool:
        try:
            os.killpg(agent.pid, 0)
        except ProcessLookupError:
            return True
        return False

    wait_until(ended)


@pytest.fixture(scope="module", params=grouped("killed", MODES))
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    with Lab() as lab:
        yield Scene(lab, request.param)


@pytest.mark.parametrize("way", WAYS)
def test_what_comes_through_after_a_kill_is_what_the_rules_allow(scene: Scene, way: str) -> None:
    random = Random()
    killed = denied = 0
    with Stream(scene.client, scene.server, PORT, RATE, burst=4) as stream:
        while killed < KILLED or (not denied and killed < AT_MOST):
            agent = scene.start(way)
            time.sleep(random.uniform(0, 0.08))
            kill(agent)
            killed += 1
            passes = stream.arrives()
            scene.close_cache()
            allowed = stream.arrives()
            assert passes is allowed
            denied += not allowed
    # Else there was nothing to be seen.
    assert denied
