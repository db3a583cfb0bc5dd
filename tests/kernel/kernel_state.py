"""A small cluster for the backend, and what of it is in the kernel."""

from __future__ import annotations

import itertools
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import msgspec
import pytest

from agent.dataplane.iptables.access import KERNEL, Access
from agent.dataplane.iptables.backend import IptablesBackend
from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import names, render
from agent.dataplane.iptables.rules.rule import Chains, jump
from agent.dataplane.iptables.tables import hooks
from agent.dataplane.iptables.tables.tables import Table, Tables
from agent.dataplane.iptables.variant import Mode
from agent.fault import Fault
from agent.kube.events import Delete, Event, Upsert
from agent.kube.model import (
    IPBlock,
    Key,
    Kind,
    NamedPort,
    Namespace,
    NetworkPolicy,
    Node,
    Peer,
    Port,
    Rule,
    Selector,
)
from agent.net import Direction, Family, Member, Protocol
from agent.policy.engine import Engine
from agent.policy.lower.lowered import LoweredProgram, SetKind
from agent.policy.program import PolicyId
from tests.build import labelled, network, packed, pod
from tests.lab.backends import FAMILIES, IPTABLES
from tests.lab.cluster import wait_until

HERE = "here"


def block(cidr: str, *excepts: str) -> Peer:
    return Peer(block=IPBlock(network(cidr), tuple(map(network, excepts))))


def pods_of(**labels: str) -> Peer:
    return Peer(pod_selector=labelled(**labels))


def namespaces_of(**labels: str) -> Peer:
    return Peer(namespace_selector=labelled(**labels))


def pod_event(
    name: str,
    number: int,
    *,
    namespace: str = "default",
    node: str = HERE,
    ports: Iterable[NamedPort] = (),
    families: Iterable[Family] = FAMILIES,
    **labels: str,
) -> Upsert:
    """Return a pod with the addresses 10.x.y.z and fd00::x:y of the given families."""
    addresses = {
        Family.V4: f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}",
        Family.V6: f"fd00::{number >> 16:x}:{number & 0xFFFF:x}",
    }
    texts = [addresses[family] for family in families]
    uid = f"{namespace}/{name}"
    found = pod(name, *texts, namespace=namespace, node=node, uid=uid, ports=tuple(ports))
    return Upsert(Kind.POD, msgspec.structs.replace(found, labels=labels))


def namespace(name: str, **labels: str) -> Upsert:
    return Upsert(Kind.NAMESPACE, Namespace(name, labels))


def policy(
    name: str,
    *,
    selector: Selector = Selector(),  # noqa: B008
    ingress: Iterable[Rule] | None = None,
    egress: Iterable[Rule] | None = None,
    namespace: str = "default",
) -> Upsert:
    rules = [None if given is None else tuple(given) for given in (ingress, egress)]
    policy = NetworkPolicy(namespace, name, selector, ingress=rules[0], egress=rules[1])
    return Upsert(Kind.POLICY, policy)


def gone(event: Upsert) -> Delete:
    return Delete(event.kind, event.object.key)


MANY_PORTS = tuple(Port(Protocol.TCP, number) for number in range(1000, 1060, 2))
HTTP = NamedPort("http", Protocol.TCP, 80)
LONG = "n" * 63


def every_rule_form() -> list[Event]:
    """Return a cluster in which every form of rule that can be rendered is."""
    tcp, udp, sctp = Protocol
    ports = (Port(tcp, 80), Port(tcp, 1, 65535), Port(udp, 0, 65535), Port(udp, 53), Port(sctp, 5, 9))
    peers = (pods_of(app="a"), namespaces_of(team="x"), block("10.0.0.0/8", "10.1.0.0/16"))
    told_in_one_line = [
        Rule(peers, (Port(tcp, 80),)),
        Rule(peers, (Port(tcp, 80), Port(tcp, 90, 99))),
        Rule(peers, (Port(tcp, 80), Port(tcp, "http"), Port(tcp, 90, 99))),
        Rule(peers, (Port(udp, "dns"),)),
        Rule(peers, (Port(udp),)),
        Rule(peers, (Port(sctp, 5, 9),)),
        Rule(peers[2:], (Port(tcp, 80), Port(udp, 53))),
        Rule((block("10.0.0.0/8"), block("fd00::/16")), (Port(tcp, 80), Port(udp, 53))),
    ]
    return [
        *(policy(f"line-{n}", ingress=[r], egress=[r]) for n, r in enumerate(told_in_one_line)),
        policy("lines", ingress=told_in_one_line, egress=told_in_one_line),
        namespace("default", team="x"),
        namespace(LONG, team="y"),
        pod_event("a", 1, app="a", ports=[HTTP]),
        pod_event("b", 2, app="b", ports=[HTTP, NamedPort("dns", Protocol.UDP, 5353)]),
        pod_event("v4-only", 3, app="c", families=[Family.V4]),
        pod_event("v6-only", 4, app="c", families=[Family.V6]),
        pod_event("p" * 253, 5, namespace=LONG, app="a"),
        pod_event("remote", 6, node="there", app="a", ports=[HTTP]),
        *(pod_event(f"many-{n}", 20 + 7 * n, app="many") for n in range(30)),
        policy("any", ingress=[Rule()], egress=[Rule()]),
        policy("deny", selector=labelled(app="b"), ingress=[], egress=[]),
        policy("ports", ingress=[Rule((), ports), Rule((), (Port(sctp),)), Rule((), MANY_PORTS)]),
        policy("peers", ingress=[Rule(peers, ()), Rule(peers, ports), Rule(peers[:1], MANY_PORTS)]),
        policy("out", egress=[Rule(peers, ()), Rule(peers, ports), Rule((), (Port(tcp, "http"), *ports))]),
        policy("named", ingress=[Rule((), (Port(tcp, "http"),)), Rule(peers, (Port(tcp, "http"), *ports))]),
        policy("folded", egress=[Rule(peers, (Port(tcp, "http"), Port(udp, "dns"), Port(tcp, 8080)))]),
        policy("world", egress=[Rule((block("0.0.0.0/0", "10.0.0.0/8"),)), Rule((block("::/0"),))]),
        policy("union", ingress=[Rule((block("10.0.0.0/8", "10.1.0.0/16"), block("10.1.2.0/24")))]),
        policy("halves", ingress=[Rule((block("::/0", "fd00::/8", "8000::/1"), block("0.0.0.0/0")))]),
        policy(
            "nobody", ingress=[Rule((pods_of(app="none"),)), Rule((Peer(),)), Rule((), (Port(tcp, "no"),))]
        ),
        policy("l" * 253, namespace=LONG, ingress=[Rule(peers, ports)], egress=[Rule(peers, ports)]),
        *_every_pair_of_peers_and_ports(),
        Upsert(
            Kind.NODE, Node("there", (packed("192.0.2.7"), packed("2001:db8::7")), (network("10.9.0.0/24"),))
        ),
    ]


def _every_pair_of_peers_and_ports() -> Iterator[Event]:
    """Give policies whose last rule has the peers and ports that one before it has, too."""
    tcp, udp, sctp = Protocol
    cut = block("10.0.0.0/8", "10.1.0.0/16"), block("fd00::/16", "fd00:1::/32")
    for number, (peers, ports) in enumerate(
        itertools.product(
            (
                (pods_of(app="a"),),
                (block("10.0.0.0/8"), block("fd00::/8")),
                cut[:1],
                cut[1:],
                (pods_of(app="a"), namespaces_of(team="x"), cut[0]),
                (pods_of(app="a"), namespaces_of(team="x"), cut[1]),
            ),
            (
                (),
                (Port(tcp),),
                (Port(tcp, 80),),
                (Port(sctp, 80, 90),),
                (Port(udp, 53), Port(udp, 80)),
                (Port(udp, 53), Port(tcp, 80)),
                (Port(sctp, 5, 9), Port(sctp, 80), Port(sctp, 90)),
                MANY_PORTS,
                (Port(tcp, "http"),),
                (Port(tcp, "http"), Port(tcp, 80)),
                (Port(tcp, "http"), Port(tcp, 80), Port(tcp, 90)),
                (Port(tcp, "http"), Port(udp, 80)),
                (Port(tcp, "http"), Port(tcp, "web")),
            ),
        )
    ):
        rule = Rule(peers, ports)
        yield policy(f"pair-{number}", selector=labelled(app="c"), ingress=[rule, rule], egress=[rule, rule])


def make_backend(mode: Mode, options: Options | None = None, access: Access = KERNEL) -> IptablesBackend:
    return IPTABLES[mode].make(options or Options(), access=access)


def our_chains(mode: Mode) -> dict[Family, Table]:
    """Read our chains, and the built-in ones that lead to them."""
    return IPTABLES[mode].chains()


def our_sets() -> dict[str, set[Member]]:
    return IPTABLES["nft"].sets()


def await_opened() -> None:
    """Wait until the verdict cache is open again after changes; its thread must have little patience."""
    wait_until(lambda: all(thread.name != "flusher" for thread in threading.enumerate()))


def assert_hooked(mode: Mode) -> None:
    for family in FAMILIES:
        assert hooks.misplaced(Tables(mode).read(family)) == {}


def iptables(mode: Mode, family: Family, *arguments: str) -> str:
    """Run iptables in a mode."""
    command = "iptables" if family is Family.V4 else "ip6tables"
    done = subprocess.run([f"{command}-{mode}", *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0, (arguments, done.stderr)
    return done.stdout


BROKEN = jump("DROP", "-m nosuchmatch")
"""A rule that the kernel refuses."""


def break_policy(monkeypatch: pytest.MonkeyPatch, broken: Callable[[PolicyId], bool]) -> None:
    """Have the rules of some policies rendered so that the kernel refuses them."""
    whole = render.policy_chains

    def policy_chains(found: PolicyId, *arguments: Any) -> Chains:
        chains = whole(found, *arguments)
        if broken(found):
            chains[names.policy_chain(found)] += (BROKEN,)
        return chains

    monkeypatch.setattr(render, "policy_chains", policy_chains)


class TwoPods:
    """A node with a policy for each of two pods, and a backend that has programmed it."""

    def __init__(self, mode: Mode) -> None:
        self.mode = mode
        self.forget: Callable[[Iterable[bytes]], int] = KERNEL.forget
        self.remove: Callable[[Mode, Iterable[Family]], list[Fault]] = KERNEL.remove
        access = Access(forget=lambda found: self.forget(found), remove=lambda *found: self.remove(*found))
        self.engine = Engine(HERE)
        self.clock = 0.0
        self.backend = IPTABLES[mode].make(clock=lambda: self.clock, access=access)
        self.engine.apply(
            [
                namespace("default"),
                pod_event("a", 1, app="a"),
                pod_event("b", 2, app="b"),
                policy("a", selector=labelled(app="a"), ingress=[Rule((pods_of(app="b"),))]),
                policy("b", selector=labelled(app="b"), ingress=[Rule((pods_of(app="a"),))], egress=[]),
            ],
            0.0,
        )
        report = self.backend.sync(self.program)
        assert report.faults == ()
        self.whole = our_chains(mode), our_sets()

    @property
    def program(self) -> LoweredProgram:
        return self.engine.lowered

    def chain(self, name: str, direction: Direction = Direction.INGRESS) -> str:
        return names.policy_chain(PolicyId(direction, Key("default", name)))

    def peers(self, app: str) -> str:
        """Return the name of the IPv4 set of pods with a label."""
        return next(
            names.peer_set(s)
            for s in self.program.sets
            if s.kind is SetKind.ADDRESSES and s.family is Family.V4 and f"app={app}" in s.meaning
        )

    def differences(self) -> list[str]:
        """Return what is not as it was left, as people are told."""
        found = self.backend.audit(self.program)
        reading = self.backend.members.begin(self.program)
        reading.run()
        found += self.backend.members.compare(self.program, reading).differences
        return [str(difference) for difference in found]

    def assert_repaired(self, told: str) -> None:
        found = self.differences()
        assert any(told in difference for difference in found), found
        report = self.backend.sync(self.program)
        assert report.faults == ()
        assert not report.pending
        self.backend.tidy(self.program)
        assert self.differences() == []
        assert (our_chains(self.mode), our_sets()) == self.whole
        assert_hooked(self.mode)
