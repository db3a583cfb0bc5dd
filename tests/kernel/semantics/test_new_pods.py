"""``--new-pods deny``: an address of this node's pods is closed until a pod is known to have it."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from agent.kube.events import Delete
from agent.kube.model import Key, Kind, Object
from agent.net import Family
from tests.kernel.conversation import acknowledged
from tests.kernel.semantics.attached import NOBODYS, connects, raw, with_address
from tests.kernel.semantics.stage import Stage
from tests.kernel.semantics.test_nodes import by_output, node_object
from tests.kernel.semantics.wired import wired
from tests.kernel.semantics.written import isolated, labels, pods, policy
from tests.patience import PATIENCE

ALL_NODES = ("10.244.0.0/16", "fd00:10:244::/48")
"""The networks of all nodes' pods, as a person may give them to every node alike."""
T = Delete(Kind.POD, Key("x", "t"))


@pytest.fixture(autouse=True)
def _open_again(stage: Stage) -> Iterator[None]:
    yield
    stage.given()


def closing(stage: Stage, *told: Object | Delete) -> None:
    """Have the node close what is unknown in the networks that its Node object names."""
    stage.given(node_object(stage.near), node_object(stage.far), *told, deny_new=True)
    _nothing_differs(stage)


def _nothing_differs(stage: Stage) -> None:
    """Check that the kernel shows the rules as they were written: else they would be put back for ever."""
    with stage.kernel():
        assert stage.backend is not None
        assert stage.backend.audit(stage.engine.lowered) == []


@pytest.mark.both_modes
def test_an_unknown_pod_can_neither_send_nor_receive_but_from_its_node(stage: Stage) -> None:
    closing(stage, T)
    stage.expect(
        "near -> t",
        "t -> near: tcp/80",
        "a -> b c f out",
        "f out far -> a: tcp/80",
        denied=["a f out far -> t", "t -> a f out far"],
    )


def test_it_reaches_nothing_by_a_service_and_is_reached_by_none(stage: Stage) -> None:
    closing(stage, T)
    stage.expect("a -> service-s: tcp/1000", denied=["t -> service-s: tcp/1000", "a -> service-t: tcp/1000"])


@pytest.mark.both_modes
def test_a_pod_opens_when_it_is_known_and_closes_when_it_is_gone(stage: Stage) -> None:
    closing(stage, T)
    stage.then(stage.pod("t"))
    stage.expect("a f out -> t", "t -> a f out")
    stage.then(T)
    stage.expect("a -> b", denied=["a f out -> t", "t -> a f out"])
    stage.repair()
    stage.expect("a -> b", denied=["a f -> t", "t -> a f"])


@pytest.mark.guarantee("1.5")
@pytest.mark.both_modes
def test_an_address_is_withdrawn_on_another_thread_ahead_of_the_delta_that_says_so(stage: Stage) -> None:
    """With all that its pod was allowed: established connections, and the cache."""
    closing(stage)
    gone = stage.pod("t").addresses
    stage.expect("a f -> t", "t -> a b")
    assert stage.backend is not None
    with _connected(stage, "t", "a", Family.V4) as running, _connected(stage, "s", "a", Family.V4) as other:
        with stage.kernel():
            followed: list[None] = []
            thread = threading.Thread(target=stage.backend.withdraw, args=(gone, lambda _: bool(followed)))
            thread.start()
            thread.join()
        assert _is_silent(running)
        assert _answers(other)
    for _ in range(2):
        stage.expect("a -> b s", denied=["a f -> t", "t -> a b"])
        # Nor does a look at everything open them before the program has followed.
        with stage.kernel():
            stage.backend.sync(stage.engine.lowered)
    followed.append(None)
    stage.then(T)
    with stage.kernel():
        # As each second: the cache may open again.
        stage.backend.upkeep()
    _nothing_differs(stage)
    stage.then(stage.pod("t"))
    stage.expect("a f -> t", "t -> a b")


def test_a_new_pod_is_judged_by_its_policies_at_once(stage: Stage) -> None:
    allowing = policy("t", labels(pod="t"), ingress=[{"from": [pods(pod="a")]}])
    closing(stage, T, allowing)
    stage.expect(denied="a b -> t")
    stage.then(stage.pod("t"))
    stage.expect("a -> t", "t -> b", denied="b f -> t")


@pytest.mark.parametrize("changed", [{"finished": True}, {"node": "far"}, {"addresses": ()}], ids=str)
def test_a_pod_that_has_no_address_here_is_not_known(stage: Stage, changed: dict[str, Any]) -> None:
    """A finished one (Succeeded, Failed) has none: its sandbox is gone, or soon will be."""
    closing(stage)
    stage.then(stage.pod("t", **changed))
    stage.expect("a -> b", denied=["a -> t", "t -> a"])


def test_an_address_passes_from_a_pod_to_the_next_in_one_step(stage: Stage) -> None:
    """It is closed until the next one's policies hold."""
    closing(stage, policy("t", labels(pod="t"), ingress=[{"from": [pods(pod="a")]}]))
    stage.expect("a -> t", denied="b -> t")
    addresses = stage.pod("t").addresses
    other = stage.pod("t", uid="uid-other", labels={"pod": "other"}, started="2024-02-01T00:00:00Z")
    stage.then(other)
    assert stage.engine.lowered.known is not None
    assert stage.engine.lowered.known.issuperset(addresses)
    stage.expect("a b f -> t", "t -> a")


def test_one_family_is_known_alone(stage: Stage) -> None:
    whole = stage.pod("t")
    closing(stage, stage.pod("t", addresses=whole.addresses[1:]))
    stage.expect("IPv6 a -> t", "IPv6 t -> a", denied=["IPv4 a -> t", "IPv4 t -> a"])


def test_other_nodes_pods_in_the_same_networks_are_not_closed(stage: Stage) -> None:
    """Nor are pods of other nodes of which nothing is known."""
    stage.given(T, Delete(Kind.POD, Key("x", "f")), deny_new=True, pod_networks=ALL_NODES)
    _nothing_differs(stage)
    stage.expect("a -> f g b out", "f g out -> a", "near -> t", denied=["a f g out -> t", "t -> a f g out"])


@pytest.mark.bridge
def test_without_any_word_of_networks_those_of_the_pods_bridge_count(stage: Stage) -> None:
    stage.given(T, deny_new=True)
    stage.expect("a -> f b", "f -> a", "near -> t", denied=["a f -> t", "t -> a f"])
    everybody = [Delete(Kind.POD, Key("y" if name == "c" else "x", name)) for name in "sabc"]
    stage.then(*everybody)
    stage.repair()
    stage.expect("near -> a t", denied=["a -> b", "f -> a"])


@pytest.mark.routed
def test_where_nothing_tells_the_networks_nothing_is_closed(stage: Stage) -> None:
    stage.given(T, deny_new=True)
    stage.expect("a -> t", "t -> a")


@pytest.mark.bridge
def test_a_card_on_the_pods_bridge_is_outside(stage: Stage, family: Family) -> None:
    """Where a flat network is shared, its other ends have addresses like pods, and are none."""
    with wired(stage.near) as host:
        stage.given(T, deny_new=True, pod_networks=ALL_NODES)
        _nothing_differs(stage)
        stage.lab.serve(host, tcp=[80])
        a, t = stage.pods["a"], stage.pods["t"]
        try:
            assert connects(stage, a, host.address(family))
            assert connects(stage, host, a.address(family))
            assert not connects(stage, host, t.address(family))
            assert not connects(stage, t, host.address(family))
        finally:
            stage.lab.prober.stop(host)


def test_an_address_that_a_pod_takes_by_itself_is_closed(stage: Stage, family: Family) -> None:
    closing(stage)
    t, a, extra = stage.pods["t"], stage.pods["a"], NOBODYS[family]
    with with_address(stage, t, extra):
        assert not connects(stage, t, a.address(family), bound=extra)
        assert not connects(stage, a, extra)
        assert connects(stage, t, a.address(family), bound=t.address(family))
        stage.given()
        assert connects(stage, t, a.address(family), bound=extra)


def test_an_unknown_pod_gets_nowhere_by_a_neighbours_unknown_address(stage: Stage, family: Family) -> None:
    closing(stage, T, Delete(Kind.POD, Key("x", "b")))
    t, a, f = (stage.pods[name] for name in "taf")
    for to in (a, f):
        stage.none_arrive(to, raw(stage, t, stage.pods["b"].address(family), to))
        stage.none_arrive(to, raw(stage, t, NOBODYS[family], to))
        stage.all_arrive(to, raw(stage, stage.pods["s"], stage.pods["s"].address(family), to))


def test_what_the_node_sends_for_an_unknown_pod_is_closed(stage: Stage, family: Family) -> None:
    """As IPVS sends it on, after translation."""
    closing(stage, T)
    for source, to in (("t", "a"), ("a", "t")):
        assert stage.arrive(stage.pods[to], by_output(stage, source, to, family)) == 0
    assert stage.arrive(stage.pods["b"], by_output(stage, "a", "b", family)) == 5
    assert stage.arrive(stage.pods["t"], by_output(stage, "near", "t", family)) == 5


@pytest.mark.bridge
@pytest.mark.parametrize("source", ["169.254.1.1", "fe80::1234"])
def test_link_local_addresses_are_no_way_around_though_nobody_is_isolated(stage: Stage, source: str) -> None:
    stage.given()
    t, a = stage.pods["t"], stage.pods["a"]
    stage.all_arrive(a, raw(stage, t, source, a))
    closing(stage, T)
    stage.none_arrive(a, raw(stage, t, source, a))


def test_what_runs_goes_on_when_closing_begins_and_ends_with_its_pod(stage: Stage, family: Family) -> None:
    stage.given()
    t, a = stage.pods["t"], stage.pods["a"]
    with _connected(stage, "t", "a", family) as running, _connected(stage, "s", "a", family) as other:
        closing(stage, T)
        assert _answers(running)
        closing(stage)
        assert _answers(running)
        stage.then(T)
        assert _is_silent(running)
        assert _answers(other)
    assert not connects(stage, t, a.address(family))


def _connected(stage: Stage, source: str, destination: str, family: Family) -> socket.socket:
    kind = socket.AF_INET if family is Family.V4 else socket.AF_INET6
    with stage.pods[source].netns.entered():
        sock = socket.socket(kind, socket.SOCK_STREAM)
    sock.settimeout(PATIENCE)
    sock.connect((stage.pods[destination].address(family), 80))
    return sock


def _answers(sock: socket.socket, patience: float = PATIENCE) -> bool:
    """Whether what is sent is acknowledged."""
    sock.send(b"x")
    end = time.monotonic() + patience
    while not (found := acknowledged(sock)) and time.monotonic() < end:
        time.sleep(0.02)
    return found


def _is_silent(sock: socket.socket) -> bool:
    """Whether nothing that is sent is acknowledged within a second."""
    return not _answers(sock, 1.0)


@pytest.mark.iptables
def test_what_is_changed_of_it_is_found_and_put_right(stage: Stage) -> None:
    closing(stage, T)
    family = Family.V4
    t, a = (stage.pods[name].address(family) for name in "ta")
    for change in (
        ("ipset", "add", "KUBE-KNOWN-4", t),
        ("ipset", "del", "KUBE-KNOWN-4", a),
        ("ipset", "flush", "KUBE-PODNETS-4"),
    ):
        stage.near.run(*change)
        with stage.kernel():
            assert stage.backend is not None
            assert stage.backend.audit(stage.engine.lowered)
        stage.repair()
        stage.expect("a -> b", denied=["a -> t", "t -> a"])
    stage.near.iptables(family, "-F", "KUBE-NETPOL-UNKNOWN-EGRESS")
    stage.repair()
    stage.expect("a -> b", denied=["a -> t", "t -> a"])


@pytest.mark.iptables
def test_nothing_of_it_is_left_when_it_is_switched_off(stage: Stage) -> None:
    closing(stage, T, isolated("s"))
    with stage.kernel():
        assert _of_it(stage) == 8  # two chains and two sets in each family
    stage.given(isolated("s"))
    stage.tidy()
    with stage.kernel():
        assert _of_it(stage) == 0
    stage.expect("a -> t", denied="a -> s")


def _of_it(stage: Stage) -> int:
    return sum(any(part in what for part in ("UNKNOWN-", "KNOWN-", "PODNETS-")) for what in stage.kind.held())


def test_an_isolated_pod_is_not_opened_by_being_known(stage: Stage) -> None:
    closing(stage, isolated("t", types=["Ingress", "Egress"]))
    stage.expect("a -> b", denied=["a -> t", "t -> a"])
