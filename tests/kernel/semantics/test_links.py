"""A pod is judged by its link too: what it sends and is sent under addresses that do not name it."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import time
from collections.abc import Callable, Iterator

import pytest

from agent.dataplane.podlinks import MOST_READ, LinkFinder, PodLink
from agent.kube.model import Key, Object
from agent.net import Family
from agent.policy.lower.lowered import Delta
from agent.runtime.inbox import Inbox
from agent.runtime.linked_pods import LinkedPods, owners_of, without_others_addresses
from tests.build import packed
from tests.kernel.semantics.stage import Stage, gone, serial
from tests.kernel.semantics.written import block, isolated, labels, pods, policy, port
from tests.lab import packets
from tests.lab.node import Layout, Pod
from tests.lab.place import Place

NOBODYS = {Family.V4: "10.244.1.251", Family.V6: "fd00:10:244:1::fb"}
"""In the range of the node's pods, and no pod's."""
ELSEWHERE = {Family.V4: "192.0.2.77", Family.V6: "2001:db8::77"}
DENIED_SECONDS = 0.6

pytestmark = pytest.mark.both_modes


@pytest.fixture
def finder(stage: Stage) -> Iterator[LinkFinder]:
    """What finds links; afterwards the stage's backend knows of none, as other tests have it."""
    yield LinkFinder()
    stage.unlink()


def given(stage: Stage, finder: LinkFinder, *told: Object) -> dict[str, PodLink]:
    stage.given(*told)
    return stage.link(finder)


@contextlib.contextmanager
def with_address(stage: Stage, pod: Pod, address: str, *, routed: bool = True) -> Iterator[None]:
    """Give a pod a further address; where pods are routed, have the node route it there."""
    length = 32 if ":" not in address else 128
    nodad = "" if length == 32 else " nodad"
    pod.netns.ip(f"addr add {address}/{length} dev eth0{nodad}")
    if length == 128:
        pod.netns.wait_for_address("eth0", address)
    way = f"{address}/{length} dev {pod.veth if stage.layout is Layout.ROUTED else 'cni0'}"
    if routed:
        stage.near.netns.ip(f"route replace {way}")
    # Somebody else had it a test ago.
    stage.lab.flush_neighbours()
    try:
        yield
    finally:
        if routed:
            stage.near.netns.ip(f"route del {way}")
        pod.netns.ip(f"addr del {address}/{length} dev eth0")


def connects(source: Place, destination: str, number: int = 80, *, bound: str = "") -> bool:
    """Whether TCP connects from a place, bound to an address of it."""
    family = socket.AF_INET6 if ":" in destination else socket.AF_INET
    with source.netns.entered():
        sock = socket.socket(family, socket.SOCK_STREAM)
    with sock:
        sock.settimeout(DENIED_SECONDS)
        if bound:
            sock.bind((bound, 0))
        try:
            sock.connect((destination, number))
        except TimeoutError:
            return False
        return True


def raw(stage: Stage, sender: Pod, source: str, to: Pod) -> Callable[[bytes], None]:
    """Return what sends a frame with any source, as a container with NET_RAW can."""
    same = stage.layout is Layout.BRIDGE and sender.node is to.node
    family = Family.V6 if ":" in source else Family.V4

    def send(tag: bytes) -> None:
        packet = packets.udp(source, to.address(family), 7777, tag, source_port=serial())
        packets.send_frame(sender, packets.frame(sender.mac, to.mac if same else sender.gateway_mac, packet))

    return send


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
    assert connects(b, s.address(family))
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
        assert connects(t, a.address(family), bound=extra)
        assert not connects(t, a.address(family), 81, bound=extra)
        assert not connects(t, b.address(family), bound=extra)
        assert connects(t, a.address(family))
        assert not connects(t, b.address(family))
        given(stage, finder, isolated("t", types=["Egress"]))
        assert not connects(t, a.address(family), bound=extra)
        given(stage, finder)
        assert connects(t, a.address(family), bound=extra)


def test_an_isolated_pod_is_not_reached_at_a_second_address(
    stage: Stage, finder: LinkFinder, family: Family
) -> None:
    s, a, b, f = (stage.pods[name] for name in "sabf")
    extra = NOBODYS[family]
    given(stage, finder, policy("s", labels(pod="s"), ingress=[{"from": [pods(pod="a"), pods(pod="f")]}]))
    with with_address(stage, s, extra):
        stage.link(finder)
        assert connects(a, extra)
        assert connects(f, extra)
        assert not connects(b, extra)
        given(stage, finder, policy("s", labels(pod="s"), ingress=[{"from": [pods(pod="b")]}]))
        assert not connects(a, extra)
        assert not connects(f, extra)
        assert connects(b, extra)
        assert connects(s, extra)
        given(stage, finder)
        assert connects(a, extra)
        assert connects(f, extra)


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
            assert connects(b, a.address(family))
            assert connects(b, s.address(family))
            assert connects(f, b.address(family))
            assert connects(stage.out, s.address(family))
            assert connects(a, out)
            assert not connects(t, a.address(family))


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


def test_a_pod_whose_link_is_not_known_is_judged_by_its_addresses(
    stage: Stage, finder: LinkFinder, family: Family
) -> None:
    """One of whose namespace the node knows nothing: here, that the agent was not told its address."""
    given(stage, finder, isolated("t", types=["Egress"]))
    t, a = stage.pods["t"], stage.pods["a"]
    assert stage.backend is not None
    with stage.kernel():
        owners = {a: p for a, p in owners_of(stage.engine).items() if p != Key("x", "t")}
        found = LinkFinder().find(owners)
        stage.backend.relink(stage.engine.lowered, found)
    assert t.veth not in {link.name for link in found}
    stage.none_arrive(a, raw(stage, t, t.address(family), a))
    stage.all_arrive(a, raw(stage, t, NOBODYS[family], a))


def test_a_link_that_is_gone_judges_nobody(stage: Stage, finder: LinkFinder, family: Family) -> None:
    """Another pod comes by an interface of the same name, with addresses that no policy selects."""
    given(stage, finder, isolated("t", types=["Egress"]))
    one = stage.lab.pod(stage.near, f"one{serial()}")
    try:
        told = stage.pod("a", place=one)
        stage.given(policy("a", labels(pod="a"), egress=[], types=["Egress"]), told)
        assert stage.link(finder)[one.veth].pod == Key("x", "a")
        s = stage.pods["s"]
        stage.none_arrive(s, raw(stage, one, NOBODYS[family], s))
        name = one.veth
    finally:
        stage.lab.remove(one)
    assert name not in stage.link(finder)
    other = stage.lab.pod(stage.near, f"other{serial()}")
    try:
        stage.near.netns.ip(f"link set {other.veth} down", f"link set {other.veth} name {name}")
        stage.near.netns.ip(f"link set {name} up")
        other.veth = name
        stage.near.netns.wait_for_link(name)
        found = stage.link(finder)
        assert name not in found
        stage.all_arrive(s, raw(stage, other, NOBODYS[family], s))
    finally:
        stage.lab.remove(other)


def test_what_changes_behind_a_link_is_heard_of(stage: Stage, finder: LinkFinder, family: Family) -> None:
    """As the agent does it: the kernel tells, a thread looks, the main loop writes."""
    t, a = stage.pods["t"], stage.pods["a"]
    stage.given(isolated("t", types=["Egress"]))
    backend = stage.backend
    assert backend is not None
    inbox = Inbox()
    with stage.kernel():
        linked = LinkedPods(stage.engine, inbox)
        linked.start()

    def others(wanted: bool) -> None:
        linked.changed(Delta())
        deadline = time.monotonic() + 10
        while True:
            for call in inbox.take(0.1).calls:
                call()
            links = linked.take(time.monotonic(), quiet=True)
            if links is not None:
                with stage.kernel():
                    backend.relink(stage.engine.lowered, links)
                known = {link.name: link.others for link in links}.get(t.veth)
                if known == ((packed(NOBODYS[family]),) if wanted else ()):
                    return
            assert time.monotonic() < deadline

    try:
        others(False)
        assert (linked.counts.known, linked.counts.unknown) == (1, 0)
        assert str(linked.counts) == "known for the isolated pod"
        with with_address(stage, t, NOBODYS[family], routed=False):
            others(True)
            stage.none_arrive(a, raw(stage, t, NOBODYS[family], a))
        others(False)
    finally:
        linked.stop()
        inbox.close()
    stage.link(finder)


def test_a_restart_leaves_the_rules_of_links_as_they_are(stage: Stage, finder: LinkFinder) -> None:
    given(stage, finder, isolated("t", types=["Ingress", "Egress"]))
    before = {family: stage.near.iptables(family, "-S") for family in Family}
    assert "KUBE-NETPOL-LINKS-EGRESS" in before[Family.V4]
    with stage.kernel():
        again = stage.kind.make(stage.options)
        try:
            again.adopt()
            again.expect(without_others_addresses(stage.engine, LinkFinder().find(owners_of(stage.engine))))
            report = again.sync(stage.engine.lowered)
            assert (report.faults, again.untidy()) == ((), False)
        finally:
            again.close()
    assert {family: stage.near.iptables(family, "-S") for family in Family} == before


def test_the_nodes_uplink_is_no_pods_link(stage: Stage, finder: LinkFinder) -> None:
    """Though packets to the address of a pod that is gone leave by it, and it is a veth here."""
    told = stage.pod("a")
    stage.given(isolated("a", types=["Ingress", "Egress"]), linger=60)
    stage.then(gone(told))
    way = [f"{stage.pods['a'].v4}/32", f"{stage.pods['a'].v6}/128"]
    if stage.layout is Layout.ROUTED:
        stage.near.netns.ip(*(f"route del {network} dev {stage.pods['a'].veth}" for network in way))
    try:
        found = stage.link(finder)
        stage.expect("f -> b", "out -> b", "b -> f out")
    finally:
        if stage.layout is Layout.ROUTED:
            stage.near.netns.ip(*(f"route replace {network} dev {stage.pods['a'].veth}" for network in way))
    assert "eth0" not in found


@pytest.mark.bridge
def test_a_pod_does_not_hide_its_link_behind_many_addresses(
    stage: Stage, finder: LinkFinder, family: Family
) -> None:
    t, a = stage.pods["t"], stage.pods["a"]
    stage.given(isolated("t", types=["Egress"]), policy("x", egress=[{}], types=["Egress"]))
    many = [f"{ipaddress.ip_address('198.18.0.0') + n}/32 dev lo" for n in range(MOST_READ + 1)]
    t.netns.ip(*(f"addr add {address}" for address in many))
    try:
        found = stage.link(finder)
        assert (found[t.veth].pod, found[t.veth].addresses) == (None, (packed(t.v4), packed(t.v6)))
        stage.none_arrive(a, raw(stage, t, NOBODYS[family], a))
        stage.all_arrive(a, raw(stage, t, t.address(family), a))
    finally:
        t.netns.ip("addr flush dev lo scope global")
    assert stage.link(finder)[t.veth].pod == Key("x", "t")


def test_addresses_are_read_as_the_kernel_has_them(stage: Stage, finder: LinkFinder) -> None:
    """Nothing that cannot cross a router, and sixteen of each family at most."""
    t = stage.pods["t"]
    many = [ipaddress.ip_address("192.0.2.0") + n for n in range(1, 21)]
    t.netns.ip(*(f"addr add {address}/32 dev lo" for address in many))
    try:
        found = given(stage, finder, isolated("t"))
    finally:
        t.netns.ip(*(f"addr del {address}/32 dev lo" for address in many))
    assert found[t.veth].others == tuple(a.packed for a in many[:16])
