"""A pod is judged by its link too: what it sends and is sent under addresses that do not name it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from agent.dataplane.podlinks import LinkFinder
from agent.kube.model import Key
from agent.net import Family
from tests.build import packed
from tests.kernel.semantics.attached import ELSEWHERE, NOBODYS, connects, given, raw, with_address
from tests.kernel.semantics.stage import Stage, serial
from tests.kernel.semantics.written import block, isolated, labels, pods, policy, port
from tests.lab import packets
from tests.lab.node import Layout, Pod
from tests.lab.place import Place

pytestmark = pytest.mark.both_modes


def test_every_pod_of_the_node_has_the_link_that_it_is_attached_by(stage: Stage, finder: LinkFinder) -> None:
    found = given(stage, finder, isolated("s"))
    assert {name: link.pod for name, link in found.items()} == {
        pod.veth: Key("y" if name == "c" else "x", name) for name, pod in stage.near.pods.items()
    }
    bridge = "cni0" if stage.layout is Layout.BRIDGE else ""
    assert {(link.bridge, link.shared, link.others) for link in found.values()} == {(bridge, False, ())}
    s = stage.pods["s"]
    assert found[s.veth].addresses == (packed(s.v4), packed(s.v6))


def test_nobodys_address_leaves_no_isolated_pod(stage: Stage, finder: LinkFinder, family: Family) -> None:
    given(stage, finder, isolated("t", types=["Egress"]))
    t, a, f = (stage.pods[name] for name in ("t", "a", "f"))
    for source in (NOBODYS[family], ELSEWHERE[family]):
        for to in (a, f):
            stage.none_arrive(to, raw(stage, t, source, to))
            assert stage.arrive(to, raw(stage, a if to is f else stage.pods["b"], source, to)) == 5


def test_an_isolated_pod_takes_no_other_pods_address(
    stage: Stage, finder: LinkFinder, family: Family
) -> None:
    """Not one of this node, nor one of another, nor one that may do what it may not."""
    t, s = stage.pods["t"], stage.pods["s"]
    given(
        stage,
        finder,
        isolated("t", types=["Egress"]),
        policy("s", labels(pod="s"), ingress=[{"from": [pods(pod="b"), pods(pod="f")]}]),
        policy("b", labels(pod="b"), egress=[{}], types=["Egress"]),
    )
    for name in ("b", "f"):
        stage.none_arrive(s, raw(stage, t, stage.pods[name].address(family), s))
    stage.all_arrive(s, raw(stage, stage.pods["b"], stage.pods["b"].address(family), s))


def test_what_passed_lately_passes_for_its_own_link_only(
    stage: Stage, finder: LinkFinder, family: Family
) -> None:
    given(
        stage,
        finder,
        isolated("t", types=["Egress"]),
        policy("s", labels(pod="s"), ingress=[{"from": [pods(pod="b")]}]),
    )
    b, s, t = (stage.pods[name] for name in "bst")
    for _ in range(2):
        stage.all_arrive(s, raw(stage, b, b.address(family), s))
        assert stage.arrive(s, raw(stage, t, b.address(family), s)) == 0
    assert connects(stage, b, s.address(family))
    send = raw(stage, t, b.address(family), s)

    def syn(tag: bytes) -> None:
        packet = packets.tcp_syn(b.address(family), s.address(family), 80, source_port=serial(), payload=tag)
        mac = s.mac if stage.layout is Layout.BRIDGE else t.gateway_mac
        packets.send_frame(t, packets.frame(t.mac, mac, packet))

    assert stage.arrive(s, syn) == 0
    assert stage.arrive(s, send) == 0


def test_a_second_address_is_judged_by_the_pods_egress(
    stage: Stage, finder: LinkFinder, family: Family
) -> None:
    t, a, b = (stage.pods[name] for name in "tab")
    extra = NOBODYS[family]
    allowing = policy(
        "t", labels(pod="t"), egress=[{"to": [pods(pod="a")], "ports": [port(80)]}], types=["Egress"]
    )
    given(stage, finder, allowing)
    with with_address(stage, t, extra):
        found = stage.link(finder)
        assert packed(extra) in found[t.veth].others
        assert connects(stage, t, a.address(family), bound=extra)
        assert not connects(stage, t, a.address(family), 81, bound=extra)
        assert not connects(stage, t, b.address(family), bound=extra)
        assert connects(stage, t, a.address(family))
        assert not connects(stage, t, b.address(family))
        given(stage, finder, isolated("t", types=["Egress"]))
        assert not connects(stage, t, a.address(family), bound=extra)
        given(stage, finder)
        assert connects(stage, t, a.address(family), bound=extra)


def test_an_isolated_pod_is_not_reached_at_a_second_address(
    stage: Stage, finder: LinkFinder, family: Family
) -> None:
    s, a, b, f = (stage.pods[name] for name in "sabf")
    extra = NOBODYS[family]
    given(stage, finder, policy("s", labels(pod="s"), ingress=[{"from": [pods(pod="a"), pods(pod="f")]}]))
    with with_address(stage, s, extra):
        stage.link(finder)
        assert connects(stage, a, extra)
        assert connects(stage, f, extra)
        assert not connects(stage, b, extra)
        given(stage, finder, policy("s", labels(pod="s"), ingress=[{"from": [pods(pod="b")]}]))
        assert not connects(stage, a, extra)
        assert not connects(stage, f, extra)
        assert connects(stage, b, extra)
        assert connects(stage, s, extra)
        given(stage, finder)
        assert connects(stage, a, extra)
        assert connects(stage, f, extra)


@pytest.mark.bridge
def test_a_frame_to_an_isolated_pods_port_has_to_be_for_that_pod(
    stage: Stage, finder: LinkFinder, family: Family
) -> None:
    """Whoever has it in its tables under that hardware address: nobody, or another pod."""
    given(stage, finder, isolated("s"))
    a, s = stage.pods["a"], stage.pods["s"]
    for address in (NOBODYS[family], ELSEWHERE[family], stage.pods["b"].address(family)):

        def send(tag: bytes, address: str = address) -> None:
            packet = packets.udp(a.address(family), address, 7777, tag, source_port=serial())
            packets.send_frame(a, packets.frame(a.mac, s.mac, packet))

        stage.none_arrive(s, send)


def test_a_claim_moves_nobody_elses_judgement(stage: Stage, finder: LinkFinder, family: Family) -> None:
    """t adds b's address, and that of a host outside, behind its own link."""
    t, a, b, s, f = (stage.pods[name] for name in "tabsf")
    near = stage.near
    out = stage.out.address(family)
    told = (
        isolated("t", types=["Ingress", "Egress"]),
        policy("s", labels(pod="s"), ingress=[{"from": [pods(pod="b"), block(f"{out}/{family.bits}")]}]),
    )
    before = given(stage, finder, *told)
    with (
        with_address(stage, t, b.address(family), routed=False),
        with_address(stage, t, out, routed=False),
        contextlib.ExitStack() as stack,
    ):
        # It answers for b's address as well: that is another matter, see docs/semantics.md.
        stack.enter_context(known_by(stage, b, near, a, s))
        for look_with in (finder, LinkFinder()):
            found = stage.link(look_with)
            assert {name: link.pod for name, link in found.items()} == {
                name: link.pod for name, link in before.items()
            }
            assert packed(b.address(family)) not in found[t.veth].others
            stage.none_arrive(s, raw(stage, t, b.address(family), s))
            # Others reach, and are reached by, whom it claims to be.
            assert connects(stage, b, a.address(family))
            assert connects(stage, b, s.address(family))
            assert connects(stage, f, b.address(family))
            assert connects(stage, stage.out, s.address(family))
            assert connects(stage, a, out)
            assert not connects(stage, t, a.address(family))


@contextlib.contextmanager
def known_by(stage: Stage, pod: Pod, *others: Place) -> Iterator[None]:
    """Have others on a pod's bridge, or the node, know its hardware address for good."""
    told = others if stage.layout is Layout.BRIDGE else ()
    addresses = (pod.v4, pod.v6)
    links = [(place, "eth0" if isinstance(place, Pod) else "cni0") for place in told]
    for place, link in links:
        place.netns.ip(*(f"neigh replace {a} lladdr {pod.mac} dev {link} nud permanent" for a in addresses))
    try:
        yield
    finally:
        for place, link in links:
            place.netns.ip(*(f"neigh del {a} dev {link}" for a in addresses))


@pytest.mark.bridge
def test_two_links_that_claim_one_pod_carry_its_address_and_nothing_else(
    stage: Stage, finder: LinkFinder, family: Family
) -> None:
    """t has b's addresses in place of its own, before anybody looked."""
    t, b, a = (stage.pods[name] for name in "tba")
    stage.given(isolated("t", types=["Egress"]))
    readdress(stage, t, b)
    try:
        found = stage.link(finder)
        assert (found[t.veth].pod, found[b.veth].pod) == (None, None)
        stage.none_arrive(a, raw(stage, t, NOBODYS[family], a))
        stage.none_arrive(a, raw(stage, t, t.address(family), a))
        stage.all_arrive(a, raw(stage, b, b.address(family), a))
        # As where no link is known, one is taken for the other.
        stage.all_arrive(a, raw(stage, t, b.address(family), a))
    finally:
        readdress(stage, t, t)


def readdress(stage: Stage, pod: Pod, like: Pod) -> None:
    """Give a pod on a bridge the addresses of one, in place of those that it has."""
    pod.netns.ip(
        "addr flush dev eth0 scope global",
        f"addr add {like.v4}/24 dev eth0",
        f"addr add {like.v6}/64 dev eth0 nodad",
        f"route replace default via {stage.near.gateway4} dev eth0 onlink",
        f"route replace default via {stage.near.gateway6} dev eth0 onlink",
    )
    pod.netns.wait_for_address("eth0", like.v6)
    stage.lab.flush_neighbours()


def test_the_rest_is_as_without_links(stage: Stage, finder: LinkFinder) -> None:
    """Services, a pod to itself, its node, others' replies and refusals, isolated both ways or not at all."""
    given(
        stage,
        finder,
        policy(
            "s",
            labels(pod="s"),
            ingress=[{"from": [pods(pod="a"), pods(pod="f")]}],
            egress=[{"to": [pods(pod="t"), pods(pod="f")]}],
            types=["Ingress", "Egress"],
        ),
    )
    stage.expect(
        "a f near s -> s",
        "s -> t f near",
        "s a -> service-s: tcp/1000",
        "s -> service-t: tcp/1000",
        "a b -> t out",
        "out far -> t",
        denied=["b out -> s", "s -> a out"],
    )
