"""While the backend works, real packets: none that is denied arrives, none that is allowed is lost."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from agent.dataplane.iptables.variant import MODES, Mode
from agent.kube.events import Event, Upsert
from agent.kube.model import Kind, Pod, Rule
from agent.policy.engine import Engine
from tests.build import labelled, packed
from tests.kernel.kernel_state import (
    HERE,
    gone,
    make_backend,
    namespace,
    namespaces_of,
    our_sets,
    pod_event,
    pods_of,
    policy,
)
from tests.kernel.stream import Stream
from tests.lab import lab as labs
from tests.lab import node as nodes
from tests.workers import grouped

FLIPS, ENOUGH = 60, 5_000
"""Changes, and packets that are sent meanwhile, at least."""
RESTARTS = 15


@dataclass
class Scene:
    """A node with three pods of the lab, which the test's thread has entered."""

    mode: Mode
    client: nodes.Pod
    server: nodes.Pod
    other: nodes.Pod


@pytest.fixture(scope="module", params=grouped("backend-packets", MODES))
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    with labs.Lab() as lab:
        node = lab.node("node", nodes.Layout.ROUTED, request.param)
        pods = [lab.pod(node, name) for name in ("client", "server", "other")]
        with node.netns.entered(), pytest.MonkeyPatch.context() as patch:
            patch.setenv("XTABLES_LOCKFILE", node.netns.environment["XTABLES_LOCKFILE"])
            yield Scene(request.param, *pods)


def member(found: nodes.Pod, space: str = "default", **labels: str) -> Upsert:
    """Return a pod of the lab as the agent knows it."""
    addresses = (packed(found.v4), packed(found.v6))
    return Upsert(Kind.POD, Pod(space, found.name, found.name, labels, HERE, addresses))


def flipped(role: str) -> list[Event]:
    return [namespace("clients", role=role), namespace("servers", role=role)]


def test_labels_that_open_one_side_and_close_the_other_let_no_packet_through(scene: Scene) -> None:
    engine = Engine(HERE)
    backend = make_backend(scene.mode)
    engine.apply(
        [
            *flipped("out"),
            member(scene.client, "clients"),
            member(scene.server, "servers"),
            policy("leave", namespace="clients", egress=[Rule((namespaces_of(role="out"),))]),
            policy("enter", namespace="servers", ingress=[Rule((namespaces_of(role="in"),))]),
        ],
        0.0,
    )
    assert backend.sync(engine.lowered).faults == ()
    usual = set(our_sets())
    with Stream(scene.client, scene.server, 9001) as stream:
        for number in itertools.count():
            if number >= FLIPS and stream.count() > ENOUGH:
                break
            delta = engine.apply(flipped("out" if number % 2 else "in"), 1.0)
            assert backend.apply(engine.lowered, delta).faults == ()
            if number % 3 == 0:
                assert backend.tidy(engine.lowered).faults == ()
    assert stream.arrived == 0
    backend.tidy(engine.lowered)
    assert set(our_sets()) == usual
    backend.close()


def test_restarts_and_changes_that_concern_others_let_nothing_through_and_lose_nothing(scene: Scene) -> None:
    engine = Engine(HERE)
    backend = make_backend(scene.mode)
    others = [pod_event(f"p{n}", n, app="x") for n in range(1, 30)]
    rules = [
        policy(f"q{n}", selector=labelled(app="x"), ingress=[Rule((pods_of(app="x"),))]) for n in range(5)
    ]
    engine.apply(
        [
            namespace("default"),
            member(scene.client, app="client"),
            member(scene.server, app="server"),
            member(scene.other, app="other"),
            policy("enter", selector=labelled(app="server"), ingress=[Rule((pods_of(app="client"),))]),
            policy("leave", selector=labelled(app="client"), egress=[Rule((pods_of(app="server"),))]),
        ],
        0.0,
    )
    assert backend.sync(engine.lowered).faults == ()
    with contextlib.ExitStack() as stack:
        allowed = stack.enter_context(Stream(scene.client, scene.server, 9002, rate=2000))
        denied = [
            stack.enter_context(Stream(scene.other, scene.server, 9003)),
            stack.enter_context(Stream(scene.client, scene.other, 9004)),
        ]
        for number in range(RESTARTS):
            come: list[Event] = [others[number], others[-number - 1], rules[number % 5]]
            leave = [gone(others[number - 1]), gone(rules[(number + 2) % 5])]
            assert backend.apply(engine.lowered, engine.apply(come, 1.0)).faults == ()
            # What changes while no agent runs is found by the next.
            engine.apply(leave if number % 2 else [], 1.0)
            backend.close()
            backend = make_backend(scene.mode)
            backend.adopt()
            assert backend.sync(engine.lowered).faults == ()
            assert backend.tidy(engine.lowered).faults == ()
    assert [stream.arrived for stream in denied] == [0, 0]
    assert all(stream.sent > 1_000 for stream in denied)
    assert allowed.sent > 1_000
    assert allowed.arrived == allowed.sent
    backend.close()


def test_a_stream_arrives_whole_where_nothing_is_enforced(scene: Scene) -> None:
    """Or the tests above would show nothing."""
    backend = make_backend(scene.mode)
    assert backend.sync(Engine(HERE).lowered).faults == ()
    assert backend.tidy(Engine(HERE).lowered).faults == ()
    with Stream(scene.other, scene.client, 9005, rate=5000) as stream:
        pass
    assert stream.sent == stream.arrived > 0
    backend.close()
