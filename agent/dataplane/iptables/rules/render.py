"""From the program to chains: pure functions that give each chain's rules as iptables-save prints them.

Rules are written in the very form in which both iptables variants print them back, so that what is in the
kernel can be compared as text: after a restart, and when looking for drift.

A packet's way, for a connection's first packet (the rest leaves at the first rule)::

    FORWARD -> KUBE-NETPOL-FORWARD -> cached? return
                                   -> isolated source? -> KUBE-NETPOL-EGRESS --+
                                   -> isolated destination? -> KUBE-NETPOL-INGRESS --+
                                   -> isolated at all? => KUBE-NETPOL-CACHE: cache it
    KUBE-NETPOL-EGRESS: clear marks -> closed? => KUBE-NETPOL-DENY
                        KUBE-PODS-... (tree) => KUBE-POD-FW-... -> KUBE-NWPLCY-... each
                        no mark -> KUBE-NETPOL-DENY;  clear marks, return

A pod of many policies comes to them by way of lists, KUBE-NWLIST-..., which pods share.

``=>`` is a goto: what returns from a pod's chain returns to the judging chain, with the direction's mark
if a policy allowed the packet.

A rule costs about 25 ns in nft mode; a match for which iptables-nft has no expression of its own (set,
comment, conntrack, multiport, physdev) 25 to 100 more, addrtype 200. So addresses, ports and marks are
compared first, and comments stand where only the packet that they are about comes to them.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterable
from typing import NamedTuple

from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import comments, guards, lists, names
from agent.dataplane.iptables.rules.logging import logging_allowed, logging_denied
from agent.dataplane.iptables.rules.rule import (
    Chains,
    Leaf,
    Match,
    PolicyRule,
    Rule,
    Rules,
    goto,
    in_set,
    jump,
)
from agent.dataplane.iptables.rules.tree import ROOT, Prefix
from agent.kube.logging import UNSAID, Logging
from agent.kube.model import Key
from agent.net import Direction, Family, Network, Protocol, address_text
from agent.policy.lower.lowered import LoweredRule, SetId
from agent.policy.program import PodId, PodProgram, PolicyId, PortRange

SetNamer = Callable[[SetId], str]
"""The kernel name under which rules refer to a set."""

IsolatedNamer = Callable[[Direction, Family], str]

MULTIPORT_SLOTS = guards.MULTIPORT_SLOTS
"""Ports in one multiport match; a range takes two."""

FEW_PORTS = 2
"""As many ports are compared one by one: in nft mode that takes less than one multiport match."""

_ANY_PORT = (0, 65535)
PROTOCOLS = {protocol: protocol.name.lower() for protocol in Protocol}


class Ways(NamedTuple):
    """Rules of FORWARD's chain that lead elsewhere.

    ``tcp`` and ``others`` stand before packets leave whose like passed lately, ``late`` after that.
    """

    tcp: Rules = ()
    others: Rules = ()
    late: Rules = ()


NO_WAYS = Ways()


def port_matches(ports: Iterable[PortRange], few: int = FEW_PORTS) -> list[str]:
    """Return matches that together match exactly these destination ports; up to ``few`` have one each."""
    matches = []
    for name, chunks in _chunks(ports):
        if not chunks:
            matches.append(f"-p {name}")
        for texts in chunks:
            if len(texts) <= few:
                matches += [f"-p {name} -m {name} --dport {text}" for text in texts]
            else:
                matches.append(f"-p {name} -m multiport --dports {','.join(texts)}")
    return matches


def _chunks(ports: Iterable[PortRange]) -> list[tuple[str, list[list[str]]]]:
    """Return for each protocol its ports as text, in as few lots as fit a match each; none means any port."""
    by_protocol: dict[Protocol, list[tuple[int, int]]] = {}
    for protocol, first, last in ports:
        by_protocol.setdefault(protocol, []).append((first, last))
    found = []
    for protocol, ranges in by_protocol.items():
        chunks: list[list[str]] = []
        used = MULTIPORT_SLOTS
        for first, last in () if _ANY_PORT in ranges else ranges:
            slots = 1 if first == last else 2
            if used + slots > MULTIPORT_SLOTS:
                chunks.append([])
                used = 0
            chunks[-1].append(str(first) if first == last else f"{first}:{last}")
            used += slots
        found.append((PROTOCOLS[protocol], chunks))
    return found


class _Writer(NamedTuple):
    """Writes the rules of a policy in one direction and family."""

    policy: PolicyId
    set_name: SetNamer

    def about(self, rule: LoweredRule) -> str:
        return comments.of_rule(self.policy, rule.number)

    def allow(self, rule: LoweredRule, *matches: Match) -> Rule:
        about = PolicyRule(self.policy, rule.number)
        return goto(names.allow(self.policy.direction), *matches, about=about)

    def ways(self, rule: LoweredRule, few: int = FEW_PORTS) -> list[Match]:
        """Return the matches of which one must hold for a packet to have one of the rule's ports."""
        if rule.ports is None and rule.named is None:
            return [""]
        named = (in_set(self.set_name(s), "dst,dst") for s in rule.named or ())
        return [*port_matches(rule.ports or (), few), *named]

    def peers(self, rule: LoweredRule, way: Match = "") -> list[Rule]:
        """Return rules that allow the rule's peers that come a way; from what a block excepts they return."""
        inwards = self.policy.direction is Direction.INGRESS
        side, flag = ("src", "-s") if inwards else ("dst", "-d")
        about = self.about(rule)
        found = [self.allow(rule, way, in_set(self.set_name(s), side), about) for s in rule.peers or ()]
        plain = [_network_text(member.network) for member in rule.blocks if not member.nomatch]
        excepted = [_network_text(member.network) for member in rule.blocks if member.nomatch]
        if excepted and len(plain) == 1:
            # Most packets are from elsewhere: they are compared with the block alone.
            found.append(jump("RETURN", f"! {flag} {plain.pop()}"))
        whose = PolicyRule(self.policy, rule.number)
        found += [jump("RETURN", f"{flag} {network}", about, about=whose) for network in excepted]
        found += [self.allow(rule, f"{flag} {network}", way, about) for network in plain]
        if excepted and not plain:
            found.append(self.allow(rule, way, about))
        return found

    def once(self, rule: LoweredRule) -> list[Rule] | None:
        """Return the rule's peers after one line that returns for other ports; None where none can.

        Nor where others of the rule's lines, for named ports of peers, have to be reached all the same.
        """
        if rule.folded:
            return None
        if rule.ports is None and rule.named is None:
            return self.peers(rule)
        chunks, named = _chunks(rule.ports or ()), rule.named or ()
        others = [in_set(self.set_name(s), "dst,dst", negated=True) for s in named]
        if not chunks and len(named) == 1:
            return [jump("RETURN", *others), *self.peers(rule)]
        if len(chunks) != 1 or len(named) > 1 or (named and rule.protocol is None):
            return None
        ((protocol, lots),) = chunks
        only = f"-p {protocol}"
        if not lots and not named:
            return self.peers(rule, only)
        if len(lots) != 1:
            return None
        (first, *more) = lots[0]
        # One comparison takes a third of what a match for many ports does, and often tells.
        numbers = f"-m {protocol} ! --dport {first}"
        rest = f"-m multiport ! --dports {','.join(more)}" if more else ""
        return [jump("RETURN", only, numbers, rest, *others), *self.peers(rule, only)]


def policy_chains(policy: PolicyId, rules: Iterable[LoweredRule], set_name: SetNamer) -> Chains:
    """Return a policy's chain in one direction and family, and the chains of rules that need their own.

    A rule of the kernel matches at most one set, and looking into a set is the slowest match. So the peers
    of a policy's rule are written once: first one line returns if the port is not one of the rule's, then
    come the peers. (If each port had a jump to the peers instead, the kernel would check the peers once for
    each port, whenever it checks the table.) If one line cannot say the ports, each port jumps to a chain of
    the peers. In the policy's last rule it goes there without coming back: a packet that matches no peer
    would not be allowed by another port of the rule either.
    """
    write = _Writer(policy, set_name)
    own = names.policy_chain(policy)
    chain: list[Rule] = []
    chains: Chains = {own: ()}
    written = list(rules)
    for rule in written:
        last = rule is written[-1]
        ways, peers = write.ways(rule), write.peers(rule)
        if rule.peers is None:
            chain += [write.allow(rule, way, write.about(rule)) for way in ways]
        elif len(peers) == 1 and not rule.named:
            chain += [line for way in ways for line in write.peers(rule, way)]
        elif (once := write.once(rule)) is not None and (last or not _returns(once)):
            chain += once
        elif peers and ways:
            inner = names.rule_chain(policy, rule.number)
            ways = write.ways(rule, few=1)
            if once is not None and len(ways) > 1:
                ways, peers = [""], once
            chains[inner] = tuple(peers)
            chain += [(goto if last else jump)(inner, way) for way in ways]
        folded = (in_set(set_name(s), "dst,dst") for s in rule.folded)
        chain += [write.allow(rule, named_port, write.about(rule)) for named_port in folded]
    chains[own] = tuple(chain)
    return chains


def _returns(rules: Iterable[Rule]) -> bool:
    return any(rule.target == "RETURN" for rule in rules)


def _network_text(network: Network) -> str:
    return prefix_text(Prefix(int.from_bytes(network.address, "big"), network.prefix), network.family)


def pod_chain(
    pod: PodId,
    program: PodProgram,
    family: Family,
    options: Options,
    entries: Iterable[lists.Entry] | None = None,
    logging: Logging = UNSAID,
) -> Chains:
    """Return the chain of a pod in a direction, empty when the pod has no address in the family.

    ``entries``: what it asks for the pod's policies, where they are in lists. ``logging``: which of its
    packets are logged.
    """
    address = address_in(program.addresses, family)
    if address is None:
        return {}
    direction = pod.direction
    if entries is None:
        entries, _ = lists.entries_of(direction, program.policies, options)
    own = f"{address_text(address)}/{family.bits}"
    rules = [
        goto(
            names.allow(direction),
            # Both ends, though the tree leads one here: that may still be an address the pod had before.
            f"-s {own} -d {own}",
            names.about("from pod", pod.pod, " to itself"),
            about=pod,
        )
    ]
    rules += logging_allowed(lists.rules_of(entries, direction, options), pod, logging, family, options)
    rules += logging_denied(pod, logging, family, options)
    rules.append(goto(names.DENY, comments.denies(pod), about=pod))
    return {names.pod_chain(pod): tuple(rules)}


def address_in(addresses: Iterable[bytes], family: Family) -> bytes | None:
    """Return the address of a family, or None."""
    size = family.bits // 8
    return next((a for a in addresses if len(a) == size), None)


def tree_chain(
    direction: Direction,
    family: Family,
    node: Prefix,
    entries: Iterable[tuple[Prefix, Key | None]],
) -> Chains:
    """Return one node of the tree as a chain; a whole address comes with its pod, a child node without."""
    flag = "-d" if direction is Direction.INGRESS else "-s"
    rules = []
    for entry, pod in entries:
        match = f"{flag} {prefix_text(entry, family)}"
        if pod is not None:
            whose = PodId(direction, pod)
            leaf = Leaf(entry.value.to_bytes(family.bits // 8, "big"), whose)
            rules.append(goto(names.pod_chain(whose), match, names.about("pod", pod), about=leaf))
        else:
            rules.append(goto(node_name(direction, family, entry), match))
    return {node_name(direction, family, node): tuple(rules)}


def node_name(direction: Direction, family: Family, node: Prefix) -> str:
    """Name the chain of a node of the tree."""
    return names.tree_chain(direction, family, "" if node == ROOT else prefix_text(node, family))


def prefix_text(prefix: Prefix, family: Family) -> str:
    """Return a prefix as iptables-save prints it: address/length."""
    packed = prefix.value.to_bytes(family.bits // 8, "big")
    text = socket.inet_ntop(socket.AF_INET if family is Family.V4 else socket.AF_INET6, packed)
    return f"{text}/{prefix.length}"
