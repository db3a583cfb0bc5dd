"""A node that is proved, and the ways in which its kernel is broken: each is to be found."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable
from typing import NamedTuple

import msgspec

from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.variant import Mode
from agent.kernel.ipset import IpSets
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
from tests.build import labelled
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
from tests.lab.cluster import wait_until

TCP, UDP = Protocol.TCP, Protocol.UDP
CUT = block("192.0.2.0/24", "192.0.2.64/26")
MANY = [block(f"198.51.{n}.0/24", f"198.51.{n}.128/25") for n in range(20)]


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


class ProvedNode:
    """A node with the cluster in its kernel, in the network namespace of the thread."""

    def __init__(self, mode: Mode, options: Options | None = None) -> None:
        self.mode = mode
        self.engine = Engine(HERE)
        self.backend = make_backend(mode, options)
        events = cluster()
        self.engine.apply(events, 0.0)
        # Its address stays closed for a while.
        self.engine.apply([gone(pod_event("gone", 9, app="a"))], 1.0)
        objects = (e.object for e in events if isinstance(e, Upsert) and e.object.key.name != "gone")
        closed = {str(d): tuple(self.engine.lowered.closed[d]) for d in Direction}
        self.given = msgspec.structs.replace(given_of(objects, mode), closed=closed)
        assert closed["ingress"]
        self.mend()

    def mend(self) -> None:
        """Have the kernel hold what it should."""
        report = self.backend.sync(self.engine.lowered)
        assert report.faults == ()
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


class Break(NamedTuple):
    """One way to break a kernel, and what the difference has to say."""

    name: str
    make: Callable[[ProvedNode], object]
    said: str


INGRESS_4 = names.isolated_set(Direction.INGRESS, Family.V4)
EGRESS_4 = names.isolated_set(Direction.EGRESS, Family.V4)
IN, OUT = names.judge(Direction.INGRESS), names.judge(Direction.EGRESS)
ALLOW_IN = names.allow(Direction.INGRESS)


def _moved(node: ProvedNode) -> None:
    """Move the rule that denies before the rules that allow."""
    rule = node.delete(node.pod("a"), f"-g {names.DENY}")
    node.insert(node.pod("a"), 1, rule)


def _wrong_pod(node: ProvedNode) -> None:
    """Have the tree lead an address to the chain of another pod."""
    for chain in (line.split()[1] for line in node.iptables("-S").splitlines() if " -g " in line):
        if chain.startswith(names.TREE_PREFIX):
            rule = next((r for r in node.rules(chain) if f"-g {node.pod('b')}" in r), "")
            if rule:
                node.replace(chain, f"-g {node.pod('b')}", f"-g {node.pod('n-0')}")
                return
    raise AssertionError("the tree leads nowhere")


def _swapped(node: ProvedNode) -> None:
    node.ipset("swap", node.set("app=b"), node.set("app=far"))


def _masked(node: ProvedNode) -> None:
    """Have a set hold networks where addresses should be, by a type of the same name."""
    node.ipset("create", "OTHERS", "hash:ip", "netmask", "24")
    node.ipset("add", "OTHERS", "10.0.0.2")
    node.ipset("swap", node.set("app=b"), "OTHERS")


def _planted(node: ProvedNode) -> None:
    entries = names.cache(node.mode, Family.V4)
    # Until it has been emptied after a change, it is closed.
    wait_until(lambda: _listed_in(entries.lookup) == {entries.entries}, timeout=20)
    node.ipset("add", entries.entries, "10.0.0.4,tcp:22,10.0.0.1")


def _listed_in(name: str) -> set[str]:
    with IpSets() as ipsets:
        return ipsets.listed(name)


def _listed(node: ProvedNode) -> None:
    """Have the verdict cache look into a set that is not its own."""
    node.ipset("create", "KUBE-CACHE-nft-9", "hash:ip,port,ip")
    node.ipset("add", "KUBE-CACHE-nft-9", "10.0.0.4,tcp:23,10.0.0.1")
    node.ipset("add", names.cache(node.mode, Family.V4).lookup, "KUBE-CACHE-nft-9")


def _jumping(node: ProvedNode) -> None:
    node.iptables("-N", "KUBE-POD-FW-" + "a" * 16)
    node.insert("KUBE-POD-FW-" + "a" * 16, 1, "-j ACCEPT")
    node.insert(node.pod("a"), 1, "-s 10.0.0.77/32 -g KUBE-POD-FW-" + "a" * 16)


BREAKS = (
    Break(
        "a member more",
        lambda n: n.ipset("add", n.set("app=b"), "10.9.9.9"),
        "takes tcp 80,90-99 from 10.9.9.9",
    ),
    Break(
        "a member less",
        lambda n: n.ipset("del", n.set("app=b"), "10.0.0.2"),
        "does not take tcp 80,90-99 from 10.0.0.2",
    ),
    Break("a rule moved", _moved, "rule 1 of"),
    Break("a mask widened", lambda n: n.replace(n.cut, "-s 192.0.2.0/26", "-s 192.0.0.0/16"), "udp 53 from"),
    Break("an except gone", lambda n: n.insert(n.cut, 1, f"-s 192.0.2.64/26 -g {ALLOW_IN}"), "192.0.2.64/26"),
    Break("a jump removed", lambda n: n.delete(n.pod("a"), f"-j {n.policy('a-in')}"), "does not take"),
    Break("a set swapped", _swapped, "10.0.0.4"),
    Break(
        "another mark bit",
        lambda n: n.replace(ALLOW_IN, "0x20000/0x20000", "0x40000/0x40000"),
        "does not take",
    ),
    Break("a RETURN inserted", lambda n: n.insert(n.policy("a-in"), 1, "-p tcp -j RETURN"), "does not take"),
    Break(
        "a RETURN before what judges",
        lambda n: n.insert(names.FORWARD, 1, "-s 10.0.0.77/32 -j RETURN"),
        "10.0.0.77",
    ),
    Break("a port range widened", lambda n: n.replace(n.policy("a-in"), "90:99", "90:100"), "tcp 100"),
    Break("a port less", lambda n: n.replace(n.policy("a-in"), "80", "81"), "tcp 80"),
    Break(
        "nomatch lost",
        lambda n: n.ipset("add", n.set("198.51", SetKind.NETWORKS), "198.51.7.128/25", "-exist"),
        "198.51.7.128/25",
    ),
    Break(
        "a network more",
        lambda n: n.ipset("add", n.set("198.51", SetKind.NETWORKS), "203.0.113.0/24"),
        "203.0.113.0/24",
    ),
    Break("the wrong pod's chain", _wrong_pod, "default/b"),
    Break("an address not isolated", lambda n: n.ipset("del", INGRESS_4, "10.0.0.1"), "does not lead it to"),
    Break("an address isolated", lambda n: n.ipset("add", INGRESS_4, "10.0.0.3"), "default/open"),
    Break(
        "an address isolated that no pod here has",
        lambda n: n.ipset("add", EGRESS_4, "10.0.0.4"),
        "10.0.0.4, which no pod here has",
    ),
    Break(
        "the hook of OUTPUT gone",
        lambda n: n.iptables("-D", "OUTPUT", "-j", names.OUTPUT),
        "OUTPUT: its rule is missing",
    ),
    Break(
        "the hook of FORWARD gone",
        lambda n: n.iptables("-D", "FORWARD", "-j", names.FORWARD, family=Family.V6),
        "FORWARD: its rule is missing",
    ),
    Break(
        "an accept before ours",
        lambda n: n.iptables("-I", "FORWARD", "-p", "udp", "-j", "ACCEPT"),
        "could let packets pass",
    ),
    Break("a connection planted in the cache", _planted, "tcp 22 from 10.0.0.4"),
    Break("a cache of somebody else", _listed, "KUBE-CACHE-nft-9 has a connection"),
    Break("an accept in what judges", lambda n: n.insert(OUT, 1, "-p icmp -j ACCEPT"), "accepts packets"),
    Break("an accept in a pod's chain", _jumping, "10.0.0.77"),
    Break(
        "a named port more",
        lambda n: n.ipset("add", n.set("http", SetKind.ADDRESS_PORTS), "10.0.0.1,tcp:22"),
        "tcp 22",
    ),
    Break("a policy's chain emptied", lambda n: n.iptables("-F", n.policy("a-many")), "tcp 443"),
    Break("a pod's chain emptied", lambda n: n.iptables("-F", n.pod("a")), "does not take"),
    Break("what denies emptied", lambda n: n.iptables("-F", names.DENY), "no policy allows"),
    Break("marks not cleared", lambda n: n.delete(IN, "-j MARK", "! --mark"), "if it bears the mark"),
    Break(
        "the rule for addresses of nobody gone",
        lambda n: n.delete(IN, f"-g {names.DENY}", "! --mark"),
        "10.0.0.9, which no pod",
    ),
    Break(
        "replies not let pass",
        lambda n: n.delete(names.FORWARD, "RELATED,ESTABLISHED"),
        "packets of allowed connections",
    ),
    Break(
        "new connections let pass",
        lambda n: n.replace(names.FORWARD, "RELATED,ESTABLISHED", "NEW,RELATED,ESTABLISHED"),
        "no policy allows",
    ),
    Break(
        "a match that nobody knows",
        lambda n: n.insert(n.pod("a"), 1, "-m ttl --ttl-eq 7 -j RETURN"),
        "cannot be told",
    ),
    Break(
        "a limit",
        lambda n: n.insert(n.policy("a-in"), 1, f"-m limit --limit 1/sec -g {ALLOW_IN}"),
        "cannot be told",
    ),
    Break(
        "ICMP let pass",
        lambda n: n.insert(n.pod("a"), 1, f"-p icmp -m icmp --icmp-type 8 -g {ALLOW_IN}"),
        "cannot be told",
    ),
    Break(
        "a drop for all",
        lambda n: n.insert(names.FORWARD, 1, "-s 10.0.0.2/32 -d 10.0.0.1/32 -p tcp -j DROP"),
        "10.0.0.2",
    ),
    Break(
        "what comes by an interface returned",
        lambda n: n.insert(names.FORWARD, 1, "-i eth7 -j RETURN"),
        "if it comes by eth7",
    ),
    Break(
        "what leaves by an interface accepted",
        lambda n: n.insert(names.FORWARD, 1, "-o eth7 -j ACCEPT"),
        "no policy allows",
    ),
    Break(
        "a mark let pass",
        lambda n: n.insert(names.FORWARD, 1, "-m mark --mark 0x8000/0x8000 -j ACCEPT"),
        "if it bears the mark 0x8000",
    ),
    Break(
        "new segments dropped",
        lambda n: n.insert(names.FORWARD, 1, "-p tcp --syn -j DROP"),
        "cannot be told",
    ),
    Break(
        "a hop limit dropped",
        lambda n: n.insert(names.FORWARD, 1, "-m hl --hl-eq 64 -j DROP", Family.V6),
        "cannot be told",
    ),
    Break(
        "what is not judged yet cached",
        lambda n: n.insert(
            names.FORWARD,
            1,
            f"-p tcp -j SET --add-set {names.cache(n.mode, Family.V4).entries} src,dst,dst --exist",
        ),
        "caches connections that no policy allows",
    ),
    Break("a set of networks in place of one of addresses", _masked, "cannot be told"),
    Break(
        "the other family",
        lambda n: n.insert(n.policy("a-in"), 1, f"-s fd00:9::/32 -g {ALLOW_IN}", Family.V6),
        "fd00:9::/32",
    ),
)
"""More than forty, each of which one command or two make."""
