"""Which pods count, whose an address is, and what becomes of it when its pod goes."""

from __future__ import annotations

import json

import pytest

from agent.kube.model import Kind, Pod
from agent.kube.wire import object_from
from agent.net import Direction, Family
from tests.build import packed
from tests.kernel.semantics.stage import Stage, gone
from tests.kernel.semantics.written import Fields, isolated, labels, pods, policy, port

S = labels(pod="s")
BOTH = ("Ingress", "Egress")


def but(field: str) -> Fields:
    return {field: True}


@pytest.mark.parametrize("what", ["host_network", "finished"])
def test_host_network_and_finished_pods_are_no_targets(stage: Stage, what: str) -> None:
    stage.given(stage.pod("s", **but(what)), isolated("s", "t", types=BOTH))
    stage.expect("a c out -> s", "s -> a out", denied=["a -> t", "t -> a"])


@pytest.mark.parametrize("what", ["host_network", "finished"])
def test_host_network_and_finished_pods_are_no_peers(stage: Stage, what: str) -> None:
    both = policy("s", S, ingress=[{"from": [pods()]}], egress=[{"to": [pods()]}], types=BOTH)
    stage.given(stage.pod("a", **but(what)), both)
    stage.expect("b f -> s", "s -> b f", denied=["a -> s", "s -> a"])


@pytest.mark.parametrize("what", ["host_network", "finished"])
def test_their_named_ports_are_nobodys(stage: Stage, what: str) -> None:
    stage.given(
        stage.pod("a", ports={"http": 80}, **but(what)),
        stage.pod("b", ports={"http": 80}),
        policy("s", S, egress=[{"ports": [port("http")]}], types=["Egress"]),
    )
    stage.expect("s -> b: tcp/80", denied="s -> a: tcp/80")


def test_a_host_network_pod_isolates_nothing_of_its_node(stage: Stage) -> None:
    addresses = (packed(stage.near.v4), packed(stage.near.v6))
    stage.given(
        stage.pod("t", addresses=addresses, host_network=True),
        policy("all", ingress=[{"from": [pods(pod="t")]}], types=BOTH, egress=[]),
    )
    stage.expect("c out -> t", "near -> s", "s out -> near: tcp/80", denied="c far -> s")


def test_a_pod_without_an_address_counts_from_when_it_has_one(stage: Stage) -> None:
    bare = stage.pod("s", addresses=())
    stage.given(bare, isolated("s"), policy("t", labels(pod="t"), ingress=[{"from": [pods(pod="s")]}]))
    stage.expect("a c -> s", denied="s -> t")
    stage.then(stage.pod("s"))
    stage.expect("s -> t", denied="a c -> s")
    stage.then(bare)
    stage.expect("a c -> s", denied="s -> t")


def test_a_pod_of_one_family_is_isolated_in_it(stage: Stage) -> None:
    for family in Family:
        only = packed(stage.pods["s"].address(family))
        stage.given(stage.pod("s", addresses=(only,)), isolated("s"))
        other = Family.V6 if family is Family.V4 else Family.V4
        stage.expect(f"IPv{int(other)} a -> s", denied=f"IPv{int(family)} a -> s")


def _from_server(stage: Stage, name: str, **metadata: object) -> Pod:
    place = stage.pods[name]
    body = {
        "metadata": {"name": name, "namespace": "x", "labels": {"pod": name}, **metadata},
        "spec": {
            "nodeName": place.node.name,
            "containers": [
                {"name": "one", "ports": [{"name": "web", "containerPort": 80}]},
                {"name": "two", "ports": [{"name": "web", "containerPort": 81}]},
            ],
            "initContainers": [
                {"ports": [{"name": "init", "containerPort": 8000}]},
                {
                    "restartPolicy": "Always",
                    "ports": [
                        {"name": "web", "containerPort": 8001},
                        {"name": "side", "containerPort": 8009},
                    ],
                },
            ],
        },
        "status": {"phase": "Running", "podIPs": [{"ip": place.v4}, {"ip": place.v6}]},
    }
    found = object_from(Kind.POD, json.dumps(body).encode())
    assert isinstance(found, Pod)
    return found


def test_a_terminating_pod_counts_until_it_is_gone(stage: Stage) -> None:
    leaving = {"deletionTimestamp": "2024-01-01T00:00:00Z", "deletionGracePeriodSeconds": 30}
    s, a = _from_server(stage, "s", **leaving), _from_server(stage, "a", **leaving)
    stage.given(s, a, policy("s", S, ingress=[{"from": [pods(pod="a")]}]))
    stage.expect("a -> s", denied="b c -> s")
    stage.then(gone(a))
    stage.expect(denied="a b c -> s")


def test_a_name_twice_is_the_first_container_then_the_first_sidecar(stage: Stage) -> None:
    stage.given(
        _from_server(stage, "s"),
        policy("s", S, ingress=[{"ports": [port("web"), port("side"), port("init")]}]),
    )
    stage.expect("a -> s: tcp/80 tcp/8009", denied="a -> s: tcp/81 tcp/8001 tcp/8000")


# Whose an address is


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"started": "2024-01-01T00:00:00Z"}, {"started": "2024-01-01T00:00:01Z"}),
        ({"started": "", "created": "2024-01-01T00:00:09Z"}, {"started": "2024-01-01T00:00:00Z"}),
        ({"created": "2024-01-01T00:00:00Z"}, {"created": "2024-01-01T00:00:01Z"}),
        ({"uid": "1"}, {"uid": "2"}),
    ],
    ids=["startTime", "one has started", "creationTimestamp", "uid"],
)
@pytest.mark.parametrize("order", ["old first", "new first"])
def test_an_address_belongs_to_the_pod_that_started_last(
    stage: Stage, old: Fields, new: Fields, order: str
) -> None:
    before = stage.pod("s", **old)
    after = stage.pod("z", place=stage.pods["s"], ns="x", labels={"pod": "new"}, **new)
    rules = [
        policy("old", S, ingress=[{"from": [pods(pod="a")]}]),
        policy("new", labels(pod="new"), ingress=[{"from": [pods(pod="b")]}]),
        policy("peer", labels(pod="t"), ingress=[{"from": [pods(pod="new")]}]),
    ]
    stage.given(gone(before), *rules)
    stage.then(*((before, after) if order == "old first" else (after, before)))
    stage.expect("b -> s", "s -> t", denied="a c -> s")
    stage.then(gone(after))
    stage.expect("a -> s", denied=["b c -> s", "s -> t"])


def test_a_pod_of_another_node_may_own_an_address_that_an_isolated_pod_here_had(stage: Stage) -> None:
    stage.given(isolated("s"))
    stage.expect(denied="a -> s")
    elsewhere = stage.pod("z", ns="x", place=stage.pods["s"], node="far", started="2025-01-01T00:00:00Z")
    stage.then(elsewhere)
    stage.expect("a -> s")


# After its pod


def test_the_address_of_an_isolated_pod_stays_closed_after_it(stage: Stage) -> None:
    """Its namespace lives on and answers, as a pod deleted by force may: it neither gets nor sends."""
    stage.given(
        policy("s", S, ingress=[{"from": [pods(pod="a")]}], egress=[{"to": [pods(pod="a")]}], types=BOTH),
        policy("a", labels(pod="a"), ingress=[{"from": [pods(pod="s")]}]),
        linger=60,
    )
    stage.expect("a -> s", "s -> a", denied="b -> s")
    stage.then(gone(stage.pod("s")))
    stage.expect(denied=["a b c out -> s", "s -> a b c out"])
    stage.then(after=59)
    stage.expect(denied=["a b c out -> s", "s -> a b c out"])
    stage.then(after=2)
    stage.expect("a b c out -> s", "s -> b c out", denied="s -> a")


def test_a_closed_address_keeps_only_the_directions_it_was_isolated_in(stage: Stage) -> None:
    stage.given(isolated("s"), isolated("t", types=["Egress"]), linger=60)
    stage.then(gone(stage.pod("s")), gone(stage.pod("t")))
    stage.expect("s -> a out", "a out -> t", denied=["a out -> s", "t -> a out"])


def test_a_closed_address_is_its_new_pods_at_once(stage: Stage) -> None:
    stage.given(isolated("s", types=BOTH), linger=60)
    stage.then(gone(stage.pod("s")))
    stage.expect(denied="a -> s")
    newer = stage.pod("z", ns="x", place=stage.pods["s"], labels={"pod": "free"})
    stage.then(newer)
    stage.expect("a -> s", "s -> a")


def test_what_the_last_run_left_isolated_stays_closed_until_its_time_or_its_pod(stage: Stage) -> None:
    """A new start finds addresses isolated in the kernel whose pods it does not know (yet)."""
    stage.given(isolated("s", "t"))
    address = {packed(stage.pods["s"].v4), packed(stage.pods["s"].v6)}
    with stage.kernel():
        assert stage.backend is not None
        assert address <= stage.backend.adopt()[Direction.INGRESS]


def test_an_address_isolated_by_no_policy_does_not_linger(stage: Stage) -> None:
    stage.given(linger=60)
    stage.then(gone(stage.pod("s")))
    stage.expect("a c out -> s", "s -> a out")
