"""Rules against packets by which a pod would pass for a node or a router, whatever the policies say.

**Tunnels.** A node forwards what it takes out of a tunnel's packet as if another node had sent it, and asks
nobody who did. So a packet for a tunnel is let in by interfaces that lead to the network outside alone, and
where nodes are known, from these alone; and none of a pod's leaves for another node, which would take it for
this node's own where its source is translated. ::

    INPUT   -> KUBE-NETPOL-INPUT: a tunnel's? => KUBE-NETPOL-TUNNEL-IN: from a node, else dropped
    FORWARD -> KUBE-NETPOL-FORWARD: a tunnel's? -> KUBE-NETPOL-TUNNEL-OUT: dropped on its way to a node
    OUTPUT  -> KUBE-NETPOL-OUTPUT: a tunnel's, and not the node's own? -> KUBE-NETPOL-TUNNEL-OUT

**Routers.** No pod is one, so its router advertisements and redirects are dropped.

**What is not tracked.** Whether a packet answers another only connection tracking tells.
"""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Collection, Iterable
from typing import NamedTuple

from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.rule import Chains, Guard, Match, Rule, Rules, goto, in_set, jump
from agent.kernel.surroundings import Surroundings
from agent.kernel.tunnels import FOR_STRANGERS, Tunnel
from agent.net import Family, Network, address_text

MULTIPORT_SLOTS = 15
"""Ports in one multiport match (iptables-extensions(8))."""

ADVERTISEMENT = 134
"""The ICMPv6 type of a router's (RFC 4861, section 4.2)."""
_REDIRECT = {
    Family.V4: "-p icmp -m icmp --icmp-type 5",
    Family.V6: "-p ipv6-icmp -m icmp6 --icmpv6-type 137",
}
"""RFC 792; RFC 4861, section 4.5."""

UNTRACKED_SECONDS = 600
"""How long an untracked packet that was denied is remembered."""


Listening = tuple[frozenset[int], frozenset[int]]
"""UDP ports and IP protocols."""

_NOTHING: Listening = (frozenset(), frozenset())


class Guarded(NamedTuple):
    """What the rules about tunnels of one family depend on.

    ``between``: what tunnels between nodes listen on; ``strange``: those whose other ends are strangers.
    ``remotes``: addresses that tunnels between nodes are told to talk to. ``underlay``, ``ports`` and
    ``mixed`` are those of :class:`agent.kernel.surroundings.Surroundings`. ``nodes``: the set of other
    nodes, where it is known which there are; empty where they have no address in this family.
    """

    between: Listening = _NOTHING
    strange: Listening = _NOTHING
    remotes: frozenset[bytes] = frozenset()
    underlay: frozenset[str] = frozenset()
    ports: frozenset[str] = frozenset()
    mixed: frozenset[str] = frozenset()
    nodes: str | None = None

    @property
    def any(self) -> bool:
        """Whether there is a tunnel."""
        return any((*self.between, *self.strange))


UNGUARDED = Guarded()


def guarded(surroundings: Surroundings, family: Family, node_networks: Collection[Network]) -> Guarded:
    """Return what the rules of a family depend on; ``node_networks``: those of other nodes, if known."""
    here = [t for t in surroundings.tunnels if family in t.families and not t.elsewhere]
    strange = _listening(tunnel for tunnel in here if tunnel.kind in FOR_STRANGERS)
    between = [tunnel for tunnel in here if tunnel.kind not in FOR_STRANGERS]
    ports, protocols = _listening(between)
    nodes = names.nodes_set(family) if any(n.family is family for n in node_networks) else ""
    found = Guarded(
        # What listens for both is let in from strangers.
        (ports - strange[0], protocols - strange[1]),
        strange,
        frozenset(t.remote for t in between if t.remote and len(t.remote) == family.bits // 8),
        surroundings.underlay,
        surroundings.ports,
        surroundings.mixed,
        nodes if node_networks else None,
    )
    # Without tunnels nothing is written anew when interfaces come and go.
    return found if found.any else UNGUARDED


def _listening(tunnels: Iterable[Tunnel]) -> Listening:
    found = list(tunnels)
    nothing: frozenset[int] = frozenset()
    return nothing.union(*(t.ports for t in found)), nothing.union(*(t.protocols for t in found))


def trusted(
    name: str, surroundings: Surroundings, node_networks: Collection[Network], families: Collection[Family]
) -> bool:
    """Whether nodes alone send what comes in by an interface that leads to other nodes.

    Not where they come in out of a tunnel, unless that takes from nodes alone by the rules of
    :func:`tunnel_chains` in ``families``. ``node_networks``: those of other nodes.
    """
    brought = surroundings.carried.get(name)
    if brought is None:
        return True
    return bool(brought) and all(_from_nodes(t, surroundings, node_networks, families) for t in brought)


def _from_nodes(
    tunnel: Tunnel,
    surroundings: Surroundings,
    node_networks: Collection[Network],
    families: Collection[Family],
) -> bool:
    if tunnel.elsewhere or not tunnel.families <= set(families):
        return False
    # One rule is for all tunnels of a port, or of a protocol: whom one of them is told to talk to gets in.
    alike = [
        other
        for other in surroundings.tunnels
        if other.ports & tunnel.ports or other.protocols & tunnel.protocols
    ]
    return all(
        other.kind not in FOR_STRANGERS
        and (other.remote is None or Network(other.remote, 8 * len(other.remote)) in node_networks)
        for other in alike
    )


def tunnel_chains(family: Family, found: Guarded) -> Chains:
    """Return the chains about tunnels of a family; none where there is no tunnel."""
    if not found.any:
        return {}
    nodes: list[tuple[str, Match]] = [("", "")]
    if found.nodes is not None:
        nodes = [("", in_set(found.nodes, "src"))] if found.nodes else []
        nodes += [(f"-s {_host(remote, family)}", "") for remote in sorted(found.remotes)]
    chains: Chains = {
        names.INPUT: (
            *(goto(names.TUNNEL_IN, match) for match in _matches(found.between)),
            *(goto(names.TUNNEL_ANY, match) for match in _matches(found.strange)),
        ),
        names.TUNNEL_IN: _let_in(found, nodes),
        names.TUNNEL_OUT: _keep_in(family, found),
    }
    if any(found.strange):
        chains[names.TUNNEL_ANY] = _let_in(found, [("", "")])
    return chains


def _let_in(found: Guarded, senders: Iterable[tuple[str, Match]]) -> Rules:
    """Rules of INPUT: the node itself and these senders may, each given as what stands before and after."""
    about = names.comment("sent to a tunnel by no node")
    return (
        jump("RETURN", "-i lo"),
        *(jump("RETURN", before, place, after) for place in _outside(found) for before, after in senders),
        jump("DROP", about, about=Guard.TUNNEL_IN),
    )


def _keep_in(family: Family, found: Guarded) -> Rules:
    """Rules of FORWARD: what came from outside may go on; what pods send may not reach another node.

    Where nodes are known, theirs are the addresses; else all that are beyond the interfaces that lead out.
    """
    about = names.comment("sent by a pod to the tunnel of a node")
    ways: list[Match]
    if found.nodes is not None:
        ways = [in_set(found.nodes, "dst")] if found.nodes else []
        ways += [f"-d {_host(remote, family)}" for remote in sorted(found.remotes)]
    else:
        ways = [f"-o {name}" for name in sorted(found.underlay)]
        ways += [f"-m physdev --physdev-out {port} --physdev-is-bridged" for port in sorted(found.ports)]
        ways += [f"-o {bridge} -m physdev ! --physdev-is-bridged" for bridge in sorted(found.mixed)]
    return (
        *(jump("RETURN", place) for place in _outside(found)),
        *(jump("DROP", way, about, about=Guard.TUNNEL_OUT) for way in ways),
    )


def _outside(found: Guarded) -> list[str]:
    """Return the matches of which one holds for what came in from the network outside."""
    by_port = [f"-m physdev --physdev-in {port}" for port in sorted(found.ports)]
    return [f"-i {name}" for name in sorted(found.underlay)] + by_port


def forward_rules(found: Guarded) -> list[Rule]:
    """Return the rules of FORWARD's chain that lead to those about tunnels."""
    return [jump(names.TUNNEL_OUT, match) for match in _all_matches(found)]


def output_rules(found: Guarded) -> list[Rule]:
    """Return the rules of OUTPUT's chain for what the node sends for others, as IPVS does."""
    remote = "-m addrtype ! --src-type LOCAL"
    return [jump(names.TUNNEL_OUT, match, remote) for match in _all_matches(found)]


def _all_matches(found: Guarded) -> list[str]:
    one, other = found.between, found.strange
    return _matches((one[0] | other[0], one[1] | other[1]))


def _matches(listening: Listening) -> list[str]:
    """Return the matches of which one holds for a packet to one of the ports, or of one of the protocols."""
    ports, protocols = sorted(listening[0]), sorted(listening[1])
    found = []
    for at in range(0, len(ports), MULTIPORT_SLOTS):
        some = ports[at : at + MULTIPORT_SLOTS]
        several = f"multiport --dports {','.join(map(str, some))}"
        found.append(f"-p udp -m {several if len(some) > 1 else f'udp --dport {some[0]}'}")
    return found + [f"-p {protocol_text(number)}" for number in protocols]


class _Protocol(ctypes.Structure):
    _fields_ = (("name", ctypes.c_char_p),)


@functools.cache
def protocol_text(number: int) -> str:
    """Return an IP protocol as iptables-save prints it: by what getprotobynumber(3) calls it, if anything."""
    try:
        ask = ctypes.CDLL(None).getprotobynumber
    except AttributeError:
        return str(number)
    ask.restype = ctypes.POINTER(_Protocol)
    found = ask(number)
    return found.contents.name.decode() if found else str(number)


def _host(address: bytes, family: Family) -> str:
    return f"{address_text(address)}/{family.bits}"


DISCOVERY = (133, 135, 136)
"""ICMPv6 router and neighbour discovery that pods take part in (RFC 4861, section 4); its hop limit, 255,
never crosses a router."""
LISTENER = (130, 131, 132, 143)
"""ICMPv6 multicast listener discovery (RFC 2710, RFC 3810): always to a group, with hop limit 1."""


def discovery_rules(leave: str) -> list[Rule]:
    """Return the rules by which what IPv6 itself needs on a bridge leaves: it is never judged."""
    icmp = "-p ipv6-icmp -m icmp6 --icmpv6-type"
    return [
        *(jump(leave, f"{icmp} {kind} -m hl --hl-eq 255") for kind in DISCOVERY),
        *(jump(leave, f"-d ff00::/8 {icmp} {kind} -m hl --hl-eq 1") for kind in LISTENER),
    ]


def advertisement_rules(ports: Iterable[str], leave: str) -> list[Rule]:
    """Return the rules for router advertisements on bridges: a router's may pass, a pod's is dropped.

    A router is beyond a port that leads to the network outside; the node's own are not forwarded.
    """
    kind = f"-m icmp6 --icmpv6-type {ADVERTISEMENT}"
    return [
        *(
            jump(leave, f"-p ipv6-icmp -m physdev --physdev-in {port} {kind} -m hl --hl-eq 255")
            for port in sorted(ports)
        ),
        jump("DROP", f"-p ipv6-icmp {kind}", about=Guard.ROUTERS),
    ]


def redirect_rule(family: Family) -> Rule:
    """Return the rule by which redirects are dropped.

    A router sends them to those on its own link, so that none is rightly forwarded; and on a bridge nobody is
    worse off without, since the router forwards all the same.
    """
    return jump("DROP", _REDIRECT[family], about=Guard.ROUTERS)


def untracked_chains(traces: str | None) -> Chains:
    """Return the chain in which denied packets leave their addresses that are not tracked."""
    if traces is None:
        return {}
    return {
        names.UNTRACKED: tuple(
            jump("SET", options=f"--add-set {traces} {side} --timeout {UNTRACKED_SECONDS}")
            for side in ("src", "dst")
        )
    }


def untracked_rules(family: Family, traces: str | None) -> list[Rule]:
    """Return the rule that leads there, to stand where only what is denied comes to it.

    ICMPv6's discovery is never tracked (``nf_conntrack_proto_icmpv6.c``).
    """
    if traces is None:
        return []
    other = "! -p ipv6-icmp" if family is Family.V6 else ""
    return [jump(names.UNTRACKED, other, "-m conntrack --ctstate UNTRACKED")]
