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
from collections.abc import Callable, Iterable, Iterator, Mapping
from types import MappingProxyType
from typing import NamedTuple

from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import guards, lists, names
from agent.dataplane.iptables.rules.guards import UNGUARDED, Guarded
from agent.dataplane.iptables.rules.tree import ROOT, Prefix
from agent.kube.model import Key
from agent.net import Direction, Family, Network, Protocol, address_text
from agent.policy.program import PodId, PodProgram, PolicyId, PortRange, RuleProgram, SetId

Chains = dict[str, tuple[str, ...]]
"""Chain name to its rules, each without the leading ``-A CHAIN``."""

SetNamer = Callable[[SetId], str]
"""The kernel name under which rules refer to a set."""

IsolatedNamer = Callable[[Direction, Family], str]

MULTIPORT_SLOTS = guards.MULTIPORT_SLOTS
"""Ports in one multiport match; a range takes two."""

FEW_PORTS = 2
"""As many ports are compared one by one: in nft mode that takes less than one multiport match."""

_ANY_PORT = (0, 65535)
_PROTOCOLS = {protocol: protocol.name.lower() for protocol in Protocol}

CACHED = (Protocol.TCP, Protocol.UDP)
"""Whose allowed connections are cached: those with ports that sets and rules read alike."""

LINK_LOCAL = {Family.V4: "169.254.0.0/16", Family.V6: "fe80::/10"}
"""RFC 3927 and RFC 4291, 2.5.6: on a bridge these name no pod."""

DISCOVERY = (133, 135, 136)
"""ICMPv6 router and neighbour discovery that pods take part in (RFC 4861, section 4); its hop limit, 255,
never crosses a router."""

LISTENER = (130, 131, 132, 143)
"""ICMPv6 multicast listener discovery (RFC 2710, RFC 3810): always to a group, with hop limit 1."""


class Ways(NamedTuple):
    """Rules of FORWARD's chain that lead elsewhere.

    ``tcp`` and ``others`` stand before packets leave whose like passed lately, ``late`` after that.
    """

    tcp: tuple[str, ...] = ()
    others: tuple[str, ...] = ()
    late: tuple[str, ...] = ()


NO_WAYS = Ways()


def _in_set(name: str, sides: str) -> str:
    return f"-m set --match-set {name} {sides}"


def _join(*parts: str) -> str:
    return " ".join(part for part in parts if part)


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
        found.append((_PROTOCOLS[protocol], chunks))
    return found


class _Writer(NamedTuple):
    """Writes the rules of a policy in one direction and family."""

    policy: PolicyId
    set_name: SetNamer

    @property
    def allow(self) -> str:
        return f"-g {names.allow(self.policy.direction)}"

    def about(self, rule: RuleProgram) -> str:
        return names.about(f"rule {rule.number} {self.policy.direction} of", self.policy.policy)

    def ways(self, rule: RuleProgram, few: int = FEW_PORTS) -> list[str]:
        """Return the matches of which one must hold for a packet to have one of the rule's ports."""
        if rule.ports is None and rule.named is None:
            return [""]
        named = (_in_set(self.set_name(s), "dst,dst") for s in rule.named or ())
        return [*port_matches(rule.ports or (), few), *named]

    def peers(self, rule: RuleProgram, way: str = "") -> list[str]:
        """Return rules that allow the rule's peers that come a way; from what a block excepts they return."""
        inwards = self.policy.direction is Direction.INGRESS
        side, flag = ("src", "-s") if inwards else ("dst", "-d")
        about = self.about(rule)
        found = [_join(way, _in_set(self.set_name(s), side), about, self.allow) for s in rule.peers or ()]
        plain = [_network_text(member.network) for member in rule.blocks if not member.nomatch]
        excepted = [_network_text(member.network) for member in rule.blocks if member.nomatch]
        if excepted and len(plain) == 1:
            # Most packets are from elsewhere: they are compared with the block alone.
            found.append(f"! {flag} {plain.pop()} -j RETURN")
        found += [f"{flag} {network} {about} -j RETURN" for network in excepted]
        found += [_join(f"{flag} {network}", way, about, self.allow) for network in plain]
        if excepted and not plain:
            found.append(_join(way, about, self.allow))
        return found

    def once(self, rule: RuleProgram) -> list[str] | None:
        """Return the rule's peers after one line that returns for other ports; None where none can.

        Nor where others of the rule's lines, for named ports of peers, have to be reached all the same.
        """
        if rule.folded:
            return None
        if rule.ports is None and rule.named is None:
            return self.peers(rule)
        chunks, named = _chunks(rule.ports or ()), rule.named or ()
        others = [f"-m set ! --match-set {self.set_name(s)} dst,dst" for s in named]
        if not chunks and len(named) == 1:
            return [f"{others[0]} -j RETURN", *self.peers(rule)]
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
        return [_join(only, numbers, rest, *others, "-j RETURN"), *self.peers(rule, only)]


def policy_chains(policy: PolicyId, rules: Iterable[RuleProgram], set_name: SetNamer) -> Chains:
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
    chain: list[str] = []
    chains: Chains = {own: ()}
    written = list(rules)
    for rule in written:
        last = rule is written[-1]
        ways, peers = write.ways(rule), write.peers(rule)
        if rule.peers is None:
            chain += [_join(way, write.about(rule), write.allow) for way in ways]
        elif len(peers) == 1 and not rule.named:
            chain += [line for way in ways for line in write.peers(rule, way)]
        elif (once := write.once(rule)) is not None and (last or not any(map(_returns, once))):
            chain += once
        elif peers and ways:
            inner = names.rule_chain(policy, rule.number)
            ways = write.ways(rule, few=1)
            if once is not None and len(ways) > 1:
                ways, peers = [""], once
            chains[inner] = tuple(peers)
            chain += [_join(way, "-g" if last else "-j", inner) for way in ways]
        folded = (_in_set(set_name(s), "dst,dst") for s in rule.folded)
        chain += [_join(named_port, write.about(rule), write.allow) for named_port in folded]
    chains[own] = tuple(chain)
    return chains


def _returns(rule: str) -> bool:
    return rule.endswith("-j RETURN")


def _network_text(network: Network) -> str:
    return prefix_text(Prefix(int.from_bytes(network.address, "big"), network.prefix), network.family)


def pod_chain(
    pod: PodId,
    program: PodProgram,
    family: Family,
    options: Options,
    entries: Iterable[lists.Entry] | None = None,
) -> Chains:
    """Return the chain of a pod in a direction, empty when the pod has no address in the family.

    ``entries``: what it asks for the pod's policies, where they are in lists.
    """
    address = address_in(program.addresses, family)
    if address is None:
        return {}
    direction = pod.direction
    if entries is None:
        entries, _ = lists.entries_of(direction, program.policies, options)
    own = f"{address_text(address)}/{family.bits}"
    rules = [
        _join(
            # Both ends, though the tree leads one here: that may still be an address the pod had before.
            f"-s {own} -d {own}",
            names.about("from pod", pod.pod, " to itself"),
            f"-g {names.allow(direction)}",
        )
    ]
    rules += lists.rules_of(entries, direction, options)
    rules.append(f"{names.about(f'no {direction} policy allows it: pod', pod.pod)} -g {names.DENY}")
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
            rules.append(
                _join(match, names.about("pod", pod), f"-g {names.pod_chain(PodId(direction, pod))}")
            )
        else:
            rules.append(f"{match} -g {node_name(direction, family, entry)}")
    return {node_name(direction, family, node): tuple(rules)}


def node_name(direction: Direction, family: Family, node: Prefix) -> str:
    """Name the chain of a node of the tree."""
    return names.tree_chain(direction, family, "" if node == ROOT else prefix_text(node, family))


def prefix_text(prefix: Prefix, family: Family) -> str:
    """Return a prefix as iptables-save prints it: address/length."""
    packed = prefix.value.to_bytes(family.bits // 8, "big")
    text = socket.inet_ntop(socket.AF_INET if family is Family.V4 else socket.AF_INET6, packed)
    return f"{text}/{prefix.length}"


def top_chains(
    family: Family,
    options: Options,
    isolated_name: IsolatedNamer,
    *,
    guarded: bool,
    uplinks: Iterable[str] = (),
    cache: names.Cache | None = None,
    others: str | None = None,
    closed: Mapping[Direction, str | None] = MappingProxyType({}),
    links: Ways = NO_WAYS,
    tunnels: Guarded = UNGUARDED,
    ports: Iterable[str] = (),
    untracked: str | None = None,
) -> Chains:
    """Return the chains that do not depend on any one pod.

    ``guarded``: the node has isolated pods, so bridged packets with addresses that name no pod are dropped.
    ``uplinks``: interfaces behind which other nodes are, when other nodes may reach every pod: a node's
    address counts only on packets that come in there, since a pod can forge a source address.
    ``cache``: the verdict cache, where there is one. ``others``: the set in which packets
    in OUTPUT that are not the node's own leave a trace, where they are not judged but dropped.
    ``closed``: the sets of addresses whose rules could not be written. ``links``: the rules that lead to
    those by which pods are judged by their links.
    ``tunnels``: what the rules about tunnels depend on; ``ports``: those of bridges that lead to the network
    outside, where routers are. ``untracked``: the set in which denied packets that are not tracked leave one.
    """
    chains = guards.tunnel_chains(family, tunnels) | guards.untracked_chains(untracked)
    uplinks = sorted(uplinks)
    established = f"-m conntrack --ctstate RELATED,ESTABLISHED -j {options.leave}"
    checks = {
        d: _in_set(isolated_name(d, family), "src" if d is Direction.EGRESS else "dst")
        for d in (Direction.EGRESS, Direction.INGRESS)
    }
    done = "-j ACCEPT" if options.accept else ""
    again: dict[Protocol, str] = {}
    chains[names.CACHE] = ()
    if cache is not None and guarded:
        again = {protocol: _cached(protocol, cache, options) for protocol in CACHED}
        done = f"-g {names.CACHE}"
        chains[names.CACHE] = tuple(_caching(cache, family, options, uplinks))
    common = [
        established,
        *links.others,
        *(rule for protocol, rule in again.items() if protocol is not Protocol.TCP),
        *links.late,
        *(f"{check} -j {names.judge(d)}" for d, check in checks.items()),
    ]
    if done:
        common += [f"{check} {done}" for check in checks.values()]
    # Each way to the trees is one along which the kernel checks them whole whenever a rule is added. In IPv6
    # some bridged packets are not to be judged at all, so that the others do not come back from the guard.
    returns = family is Family.V4
    bridged = [
        _ordinary_tcp(family, options),
        *links.tcp,
        *(rule for protocol, rule in again.items() if protocol is Protocol.TCP),
        guards.redirect_rule(family),
        f"-m physdev --physdev-is-bridged -{'j' if returns else 'g'} {names.BRIDGED}",
    ]
    tunnelled = guards.forward_rules(tunnels)
    chains[names.FORWARD] = (*tunnelled, *(bridged if guarded else ()), *common)
    unnamed = _unnamed_addresses(family, options, ports)
    chains[names.BRIDGED] = (*unnamed, *(() if returns else common)) if guarded else ()
    remote = "-m addrtype ! --src-type LOCAL"
    output = [*guards.output_rules(tunnels), established, *again.values()]
    if others is not None:
        output += [f"{check} {remote} -g {names.OTHERS}" for check in checks.values()]
    else:
        output += [f"{check} {remote} -j {names.judge(d)}" for d, check in checks.items()]
        if done:
            output += [f"{check} {remote} {done}" for check in checks.values()]
    chains[names.OUTPUT] = tuple(output)
    # A refusal of a packet of no connection is sent in its receiver's name: no sign that others are sent for.
    refusals = "-p tcp -m tcp --tcp-flags RST RST -j DROP"
    trace = f"-j SET --add-set {others} src"
    chains[names.OTHERS] = () if others is None else (refusals, trace, "-j DROP")
    for direction in Direction:
        chains |= _judging_chains(direction, family, options, uplinks, closed.get(direction))
    chains[names.SAMPLE] = (_sample(None if cache is None else cache.lookup, options),)
    chains[names.DENY] = (*guards.untracked_rules(family, untracked), *_deny(family, options))
    return chains


def _sample(set_name: str | None, options: Options) -> str:
    """Return the rule of a chain that nothing leads to, with all that rules of pods and policies are made of.

    A command that looks for it has loaded what it needs to read these.
    """
    about = names.comment("never reached: a sample of what rules are made of")
    mark = f"-m mark --mark {options.both_marks:#x}/{options.both_marks:#x}"
    in_set = "" if set_name is None else _in_set(set_name, "src,dst,dst")
    return _join("-p tcp -m tcp --dport 1 -m multiport --dports 2,3", mark, in_set, about, "-j RETURN")


def _cached(protocol: Protocol, cache: names.Cache, options: Options) -> str:
    """Rule by which packets of cached connections leave.

    With a mark of ours a packet is judged whatever is cached, so that none leaves with one.
    """
    unmarked = f"-m mark --mark 0x0/{options.both_marks:#x}"
    return f"-p {_PROTOCOLS[protocol]} {unmarked} {_in_set(cache.lookup, 'src,dst,dst')} -j {options.leave}"


def _ordinary_tcp(family: Family, options: Options) -> str:
    """Rule by which most packets of known connections leave before they are asked whether they are bridged.

    On a bridge, connection tracking may know a flow to addresses that name no pod: the node itself was sent
    its first packet too, and anybody can forge the answer. So link-local addresses stay behind. Multicast and
    broadcast ones need not: TCP takes no segment to or from them (RFC 9293, 3.9.2.3), whatever is tracked.
    """
    own = LINK_LOCAL[family]
    return f"! -s {own} ! -d {own} -p tcp -m conntrack --ctstate ESTABLISHED -j {options.leave}"


def _caching(cache: names.Cache, family: Family, options: Options, uplinks: list[str]) -> Iterator[str]:
    """Yield the rules that a packet meets which was judged and allowed: its connection is cached.

    Not another node's, which may pass for where it came in, and that the set does not say. Nor what the guard
    of a bridge has to see, since TCP is looked up before it.
    """
    if uplinks:
        yield f"{_in_set(names.nodes_set(family), 'src')} -j {options.leave}"
    named = f"! -s {LINK_LOCAL[family]} ! -d {LINK_LOCAL[family]}"
    for protocol in CACHED:
        added = f"-j SET --add-set {cache.entries} src,dst,dst --timeout {options.cache}"
        yield f"{named} -p {_PROTOCOLS[protocol]} {added}"
    if options.accept:
        yield "-j ACCEPT"


def _judging_chains(
    direction: Direction, family: Family, options: Options, uplinks: list[str], closed: str | None
) -> Chains:
    bit = f"{options.mark(direction):#x}"
    clear = f"-j MARK --set-xmark 0x0/{options.both_marks:#x}"
    marked = f"-m mark ! --mark 0x0/{options.both_marks:#x}"
    root = node_name(direction, family, ROOT)
    from_nodes = [
        f"-i {uplink} {_in_set(names.nodes_set(family), 'src')} "
        f"{names.comment('other nodes may reach every pod')} -j RETURN"
        for uplink in (uplinks if direction is Direction.INGRESS else ())
    ]
    side = "src" if direction is Direction.EGRESS else "dst"
    unwritten = names.comment("closed: rules that take something from it could not be written yet")
    shut = () if closed is None else (_join(_in_set(closed, side), unwritten, f"-g {names.DENY}"),)
    fell = names.comment(f"isolated for {direction} and no pod here has the address")
    return {
        names.allow(direction): (f"-j MARK --set-xmark {bit}/{bit}",),
        names.judge(direction): (
            # Seldom is anything there to clear: the look is cheaper.
            f"{marked} {clear}",
            *from_nodes,
            *shut,
            f"-j {root}",
            f"-m mark ! --mark {bit}/{bit} {fell} -g {names.DENY}",
            clear,
        ),
    }


def stand_in(chain: str, forward: tuple[str, ...]) -> tuple[str, ...] | None:
    """Return what a new top chain must hold when the kernel does not take its rules; None: nothing.

    Empty, it would let through what it should judge. ``forward`` are the rules of FORWARD's chain: without
    the guard against addresses that name no pod, all else still holds.
    """
    if chain in (names.FORWARD, names.BRIDGED):
        return tuple(rule for rule in forward if names.BRIDGED not in rule)
    if chain in (names.DENY, names.OTHERS) or chain in map(names.judge, Direction):
        return ("-j DROP",)
    return None


def _deny(family: Family, options: Options) -> tuple[str, ...]:
    if not options.reject:
        return ("-j DROP",)
    refusal = "icmp-admin-prohibited" if family is Family.V4 else "icmp6-adm-prohibited"
    return ("-p tcp -j REJECT --reject-with tcp-reset", f"-j REJECT --reject-with {refusal}")


def _unnamed_addresses(family: Family, options: Options, ports: Iterable[str]) -> list[str]:
    """Rules for bridged packets whose address does not name a pod: discovery passes, the rest is dropped."""
    if family is Family.V4:
        ranges = ["169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32"]
        dropped = [f"{flag} {r} -j DROP" for r in ranges for flag in ("-s", "-d")]
        return [*dropped, "-m addrtype --dst-type BROADCAST -j DROP"]
    icmp = "-p ipv6-icmp -m icmp6 --icmpv6-type"
    return [
        *(f"{icmp} {kind} -m hl --hl-eq 255 -j {options.leave}" for kind in DISCOVERY),
        *(f"-d ff00::/8 {icmp} {kind} -m hl --hl-eq 1 -j {options.leave}" for kind in LISTENER),
        *guards.advertisement_rules(ports, options.leave),
        *(f"{flag} {r} -j DROP" for r in ("fe80::/10", "ff00::/8") for flag in ("-s", "-d")),
    ]
