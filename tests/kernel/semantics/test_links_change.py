"""Links of pods that come, go and change, and those that cannot be told."""

from __future__ import annotations

import ipaddress
import time

import pytest

from agent.dataplane.podlinks import MOST_READ, LinkFinder
from agent.kube.model import Key
from agent.net import Family
from agent.policy.lower.lowered import Delta
from agent.runtime.inbox import Inbox
from agent.runtime.linked_pods import LinkedPods, owners_of, without_others_addresses
from tests.build import packed
from tests.kernel.semantics.attached import NOBODYS, given, raw, with_address
from tests.kernel.semantics.stage import Stage, gone, serial
from tests.kernel.semantics.written import isolated, labels, policy
from tests.lab.node import Layout
from tests.patience import PATIENCE

pytestmark = pytest.mark.both_modes


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
        deadline = time.monotonic() + PATIENCE
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
