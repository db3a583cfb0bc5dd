"""A node that is proved: :mod:`tests.kernel.breaks` has the ways in which its kernel is broken."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable

import msgspec

from agent.dataplane.iptables.access import Access
from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.variant import Mode
from agent.dataplane.podlinks import PodLink
from agent.kernel.surroundings import Surroundings, look
from agent.kernel.tunnels import GRE, IPV6_IN_IP, Tunnel
from agent.kube.events import Event, Upsert
from agent.kube.model import Key, NamedPort, Namespace, NetworkPolicy, Object, Pod, Port, Rule
from agent.net import Direction, Family, Protocol
from agent.policy.engine import Engine
from agent.policy.lower.lowered import SetKind
from agent.policy.program import PodId, PolicyId
from agent.proof.difference import Result
from agent.proof.given import Given
from agent.proof.prove import prove
from agent.proof.reading import read
from tests.build import labelled, packed
from tests.kernel.kernel_state import (
    HERE,
    block,
    gone,
    iptables,
    make_backend,
    namespace,
    namespaces_of,
    pod_event,
    pods_of,
    policy,
)

TCP, UDP = Protocol.TCP, Protocol.UDP
CUT = block("192.0.2.0/24", "192.0.2.64/26")
MANY = [block(f"198.51.{n}.0/24", f"198.51.{n}.128/25") for n in range(20)]


TUNNEL_PORT = 8472
VXLAN = f"ip link add vx0 type vxlan id 7 dstport {TUNNEL_PORT}".split()
LINKS = tuple(
    PodLink(name, bridge, False, Key("default", pod), (packed(f"10.0.0.{number}"),))
    for name, bridge, pod, number in (
        ("veth-a", "", "a", 1),
        ("veth-b", "cni0", "b", 2),
        ("veth-open", "cni0", "open", 3),
    )
)
"""Of one pod that is routed, and of two on a bridge. No interface has to be there."""


def cluster() -> list[Event]:
    """Return a cluster in which there is one of each thing that can be broken.

    The pods ``a`` and ``b`` are 10.0.0.1 and .2, ``open`` is .3, .4 is a pod elsewhere, ``n-0`` and so on are
    .20 and so on: so many that the tree has more than one level.
    """
    web = NamedPort("http", TCP, 8080)
    return [
        namespace("default", team="x"),
        pod_event("a", 1, app="a", ports=[web]),
        pod_event("b", 2, app="b", ports=[web]),
        pod_event("open", 3, app="open"),
        pod_event("gone", 9, app="a"),
        pod_event("far", 4, node="there", app="far", ports=[NamedPort("http", TCP, 9090)]),
        *(pod_event(f"n-{n}", 20 + 7 * n, app="n") for n in range(12)),
        policy("n", selector=labelled(app="n"), ingress=[Rule((pods_of(app="a"),))]),
        policy(
            "a-in",
            selector=labelled(app="a"),
            ingress=[
                Rule((pods_of(app="b"),), (Port(TCP, 80), Port(TCP, 90, 99))),
                Rule((CUT,), (Port(UDP, 53),)),
                Rule((pods_of(app="far"), namespaces_of(team="x")), (Port(TCP, "http"),)),
            ],
        ),
        policy("a-many", selector=labelled(app="a"), ingress=[Rule(tuple(MANY), (Port(TCP, 443),))]),
        policy(
            "b-out",
            selector=labelled(app="b"),
            egress=[Rule((pods_of(app="far"),), (Port(TCP, "http"),)), Rule((pods_of(app="a"),))],
        ),
        policy("b-shut", selector=labelled(app="b"), ingress=[]),
    ]


def given_of(objects: Iterable[Object], mode: Mode, node: str = HERE) -> Given:
    """Return what an agent that enforces these objects hands to a proof."""
    found = list(objects)
    return Given(
        node,
        mode,
        tuple(map(int, Family)),
        tuple(one for one in found if isinstance(one, Pod)),
        tuple(one for one in found if isinstance(one, Namespace)),
        tuple(one for one in found if isinstance(one, NetworkPolicy)),
    )


_OF_IP = (
    Tunnel("gre1", "gre", frozenset({Family.V4}), protocols=frozenset({GRE})),
    Tunnel("ip6tnl1", "ip6tnl", frozenset({Family.V6}), protocols=frozenset({IPV6_IN_IP})),
)
"""Not every kernel has such interfaces; rules about them every one takes."""


def _look() -> Surroundings:
    found = look()
    return found._replace(tunnels=found.tunnels.union(_OF_IP))


class ProvedNode:
    """A node with the cluster in its kernel, in the network namespace of the thread."""

    def __init__(self, mode: Mode, options: Options | None = None) -> None:
        self.mode = mode
        # The node takes packets of other nodes out of those that come to this port.
        subprocess.run(VXLAN, check=True, capture_output=True)
        self.engine = Engine(HERE)
        self.backend = make_backend(mode, options, Access(look=_look))
        events = cluster()
        self.engine.apply(events, 0.0)
        # Its address stays closed for a while.
        self.engine.apply([gone(pod_event("gone", 9, app="a"))], 1.0)
        objects = (e.object for e in events if isinstance(e, Upsert) and e.object.key.name != "gone")
        closed = {str(d): tuple(self.engine.lowered.closed[d]) for d in Direction}
        self.given = msgspec.structs.replace(given_of(objects, mode), closed=closed)
        assert closed["ingress"]
        self.mend()
        around = self.backend.around()
        self.given = msgspec.structs.replace(
            self.given,
            links=around.links,
            tunnels={int(f): tuple(p) for f, p in around.tunnels.items()},
            tunnel_protocols={int(f): tuple(p) for f, p in around.tunnel_protocols.items()},
        )
        assert self.given.tunnel_protocols == {4: (GRE,), 6: (IPV6_IN_IP,)}
        assert self.given.tunnels[Family.V4] == (TUNNEL_PORT,)

    def mend(self) -> None:
        """Have the kernel hold what it should."""
        # That its hooks are removed so often is told.
        done = self.backend.sync(self.engine.lowered), self.backend.relink(self.engine.lowered, LINKS)
        faults = [fault for report in done for fault in report.faults if fault.blocking]
        assert not faults, faults
        self.backend.tidy(self.engine.lowered)

    def prove(self) -> Result:
        return prove(self.given, read(self.mode, Family))

    def iptables(self, *arguments: str, family: Family = Family.V4) -> str:
        return iptables(self.mode, family, *arguments)

    def ipset(self, *arguments: str) -> None:
        subprocess.run(["ipset", *arguments], check=True, capture_output=True)

    # --- Names --------------------------------------------------------------------------------------------

    def pod(self, name: str, direction: Direction = Direction.INGRESS) -> str:
        return names.pod_chain(PodId(direction, Key("default", name)))

    @property
    def cut(self) -> str:
        """The chain of the rule whose block has an except."""
        return names.rule_chain(PolicyId(Direction.INGRESS, Key("default", "a-in")), 1)

    def policy(self, name: str, direction: Direction = Direction.INGRESS) -> str:
        return names.policy_chain(PolicyId(direction, Key("default", name)))

    def set(self, meaning: str, kind: SetKind = SetKind.ADDRESSES) -> str:
        """Return the IPv4 set that rules for ingress look into, by what its members are."""
        return next(
            names.peer_set(s)
            for s in self.engine.lowered.sets
            if s[:3] == (kind, Direction.INGRESS, Family.V4) and meaning in s.meaning
        )

    def rules(self, chain: str, family: Family = Family.V4) -> list[str]:
        """Return the rules of a chain, as iptables prints them, without ``-A CHAIN``."""
        start = f"-A {chain} "
        lines = self.iptables("-S", chain, family=family).splitlines()
        return [line.removeprefix(start) for line in lines if line.startswith(start)]

    def number(self, chain: str, *parts: str, family: Family = Family.V4) -> int:
        """Return the number of the first rule of a chain that has all parts."""
        rules = self.rules(chain, family)
        return next(n for n, rule in enumerate(rules, 1) if all(part in rule for part in parts))

    def replace(self, chain: str, part: str, other: str, family: Family = Family.V4) -> None:
        """Write a rule anew with another text in the place of a part."""
        number = self.number(chain, part, family=family)
        text = self.rules(chain, family)[number - 1].replace(part, other, 1)
        self._restore(family, f"-R {chain} {number} {text}")

    def insert(self, chain: str, number: int, rule: str, family: Family = Family.V4) -> None:
        self._restore(family, f"-I {chain} {number} {rule}")

    def delete(self, chain: str, *parts: str, family: Family = Family.V4) -> str:
        """Delete the first rule with these parts; return its text."""
        number = self.number(chain, *parts, family=family)
        text = self.rules(chain, family)[number - 1]
        self.iptables("-D", chain, str(number), family=family)
        return text

    def _restore(self, family: Family, line: str) -> None:
        command = "iptables" if family is Family.V4 else "ip6tables"
        subprocess.run(
            [f"{command}-{self.mode}-restore", "--noflush"],
            input=f"*filter\n{line}\nCOMMIT\n",
            text=True,
            check=True,
            capture_output=True,
        )
