"""The ways in which the kernel of a node is broken: each is to be found by a proof."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from agent.dataplane.iptables.rules import names
from agent.kernel.ipset import IpSets
from agent.net import Direction, Family
from agent.policy.lower.lowered import SetKind
from tests.kernel.proved import TUNNEL_PORT, ProvedNode
from tests.lab.cluster import wait_until


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
    wait_until(lambda: _listed_in(entries.lookup) == {entries.entries})
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
    Break(
        "the hook of INPUT gone",
        lambda n: n.iptables("-D", "INPUT", "-j", names.INPUT),
        "INPUT: its rule is missing",
    ),
    Break("a rule moved", _moved, "rule 1 of"),
    Break("a mask widened", lambda n: n.replace(n.cut, "-s 192.0.2.0/26", "-s 192.0.0.0/16"), "udp 53 from"),
    Break("an except gone", lambda n: n.insert(n.cut, 1, f"-s 192.0.2.64/26 -g {ALLOW_IN}"), "192.0.2.64/26"),
    Break("a jump removed", lambda n: n.delete(n.pod("a"), f"-j {n.policy('a-in')}"), "does not take"),
    Break(
        "an accept before ours in INPUT",
        lambda n: n.iptables("-I", "INPUT", "-s", "10.0.0.1", "-p", "udp", "-j", "ACCEPT"),
        "INPUT: a rule before it could let packets pass",
    ),
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
        "an accept before ours in OUTPUT",
        lambda n: n.iptables("-I", "OUTPUT", "-d", "10.0.0.1", "-j", "ACCEPT"),
        "OUTPUT: a rule before it could let packets pass",
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
        "what asks for tunnels emptied",
        lambda n: n.iptables("-F", names.INPUT),
        f"udp {TUNNEL_PORT} to the node itself, which takes",
    ),
    Break(
        "a pod let in to a tunnel",
        lambda n: n.insert(names.TUNNEL_IN, 1, "-s 10.0.0.1/32 -j RETURN"),
        f"default/a (10.0.0.1) may send udp {TUNNEL_PORT} to the node itself",
    ),
    Break(
        "a forged source let in to a tunnel",
        lambda n: n.insert(names.TUNNEL_IN, 1, "-s 192.0.2.77/32 -j ACCEPT"),
        f"udp {TUNNEL_PORT} to the node itself, which takes",
    ),
    Break(
        "a tunnel's protocol let pass",
        lambda n: n.delete(names.INPUT, "-p gre"),
        "other nodes' packets out of it (if it is of protocol 47)",
    ),
    Break(
        "a tunnel's protocol taken for another",
        lambda n: n.replace(names.INPUT, "-p gre", "-p esp"),
        "may not send other protocols to the node itself (if it is of protocol 50)",
    ),
    Break(
        "a pod let in to a tunnel of a protocol",
        lambda n: n.insert(names.INPUT, 1, "-s fd00::1/128 -p ipv6 -j RETURN", Family.V6),
        "(if it is of protocol 41)",
    ),
    Break(
        "a protocol of no tunnel kept from the node",
        lambda n: n.insert(names.INPUT, 1, "-p ospf -j DROP"),
        "may not send other protocols to the node itself (if it is of protocol 89)",
    ),
    Break(
        "a pod kept from the node",
        lambda n: n.insert(names.INPUT, 1, "-s 10.0.0.3/32 -p tcp -m tcp --dport 53 -j DROP"),
        "default/open (10.0.0.3) may not send tcp 53 to the node itself",
    ),
    Break(
        "a probe of the node denied",
        lambda n: n.insert(names.OUTPUT, 1, "-d 10.0.0.1/32 -p tcp -m tcp --dport 8080 -j DROP"),
        "default/a (10.0.0.1) does not take tcp 8080",
    ),
    Break(
        "the node judged as others are",
        lambda n: n.replace(
            names.OUTPUT, f"{INGRESS_4} dst -m addrtype ! --src-type LOCAL", f"{INGRESS_4} dst"
        ),
        "from the node itself",
    ),
    Break(
        "another's source let pass by a link",
        lambda n: n.insert(names.links_chain(Direction.EGRESS), 1, "-s 10.0.0.4/32 -j ACCEPT"),
        "from 10.0.0.4 passes by the interface veth-b of pod default/b",
    ),
    Break(
        "nobody's source let pass by a link",
        lambda n: n.insert(names.FORWARD, 1, "-i cni0 -s 203.0.113.0/24 -j RETURN"),
        "from 203.0.113.0/24 passes by the interface veth-b of pod default/b",
    ),
    Break(
        "a link not judged",
        lambda n: n.delete(names.FORWARD, "-i cni0", f"-j {names.links_chain(Direction.EGRESS)}"),
        "passes by the interface veth-b of pod default/b, which is isolated for egress",
    ),
    Break(
        "a link that may be sent another's",
        lambda n: n.insert(names.links_chain(Direction.INGRESS), 1, "-o veth-a -d 10.0.0.4/32 -j RETURN"),
        "to 10.0.0.4 passes by the interface veth-a of pod default/a, which is isolated for ingress",
    ),
    Break(
        "the other family",
        lambda n: n.insert(n.policy("a-in"), 1, f"-s fd00:9::/32 -g {ALLOW_IN}", Family.V6),
        "fd00:9::/32",
    ),
)
"""More than fifty, each of which one command or two make."""
