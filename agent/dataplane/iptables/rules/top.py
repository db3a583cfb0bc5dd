"""The chains that packets meet first: what leaves at once, the verdict cache, and who is judged."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Iterator, Mapping
from types import MappingProxyType

from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import audits, cut, guards, names, unknown
from agent.dataplane.iptables.rules.guards import UNGUARDED, Guarded
from agent.dataplane.iptables.rules.logging import logging_nobodys
from agent.dataplane.iptables.rules.render import NO_WAYS, PROTOCOLS, IsolatedNamer, Ways, node_name
from agent.dataplane.iptables.rules.rule import Chains, Guard, Rule, Rules, goto, in_set, jump
from agent.dataplane.iptables.rules.tree import ROOT
from agent.net import Direction, Family, Protocol

CACHED = (Protocol.TCP, Protocol.UDP)
"""Whose allowed connections are cached: those with ports that sets and rules read alike."""


LINK_LOCAL = {Family.V4: "169.254.0.0/16", Family.V6: "fe80::/10"}
"""RFC 3927 and RFC 4291, 2.5.6: on a bridge these name no pod."""


def top_chains(
    family: Family,
    options: Options,
    isolated_name: IsolatedNamer,
    *,
    guarded: bool,
    uplinks: Iterable[str] = (),
    cache: names.Cache | None = None,
    transit: str | None = None,
    closed: Mapping[Direction, str | None] = MappingProxyType({}),
    links: Ways = NO_WAYS,
    tunnels: Guarded = UNGUARDED,
    ports: Iterable[str] = (),
    untracked: str | None = None,
    audited: frozenset[Direction] = frozenset(),
    closing: unknown.Closing | None = None,
    outside: unknown.Outside = unknown.NOWHERE,
) -> Chains:
    """Return the chains that do not depend on any one pod.

    ``guarded``: the node has isolated pods, so bridged packets with addresses that name no pod are dropped.
    ``uplinks``: interfaces behind which other nodes are, when other nodes may reach every pod: a node's
    address counts only on packets that come in there, since a pod can forge a source address.
    ``cache``: the verdict cache, where there is one. ``transit``: the set in which packets
    in OUTPUT that are not the node's own leave a trace, where they are not judged but dropped.
    ``closed``: the sets of addresses whose rules could not be written. ``links``: the rules that lead to
    those by which pods are judged by their links.
    ``tunnels``: what the rules about tunnels depend on; ``ports``: those of bridges that lead to the network
    outside, where routers are. ``untracked``: the set in which denied packets that are not tracked leave one.
    ``audited``: the directions in which pods here are audited. ``closing``: by which unknown addresses are
    closed, where they are, and ``outside``: where the network outside is.
    """
    chains = guards.tunnel_chains(family, tunnels) | guards.untracked_chains(untracked)
    chains |= unknown.unknown_chains(closing, outside, family, options)
    uplinks = sorted(uplinks)
    established = jump(options.leave, "-m conntrack --ctstate RELATED,ESTABLISHED")
    checks = {
        d: in_set(isolated_name(d, family), "src" if d is Direction.EGRESS else "dst")
        for d in (Direction.EGRESS, Direction.INGRESS)
    }
    done = functools.partial(jump, "ACCEPT") if options.accept else None
    again: dict[Protocol, Rule] = {}
    chains[names.CACHE] = ()
    if cache is not None and guarded:
        again = {protocol: _cached(protocol, cache, options) for protocol in CACHED}
        done = functools.partial(goto, names.CACHE)
        chains[names.CACHE] = tuple(_caching(cache, family, options, uplinks))
    common = [
        established,
        *links.others,
        *(rule for protocol, rule in again.items() if protocol is not Protocol.TCP),
        *links.late,
        *unknown.forward_rules(closing),
        *(jump(names.judge(d), check) for d, check in checks.items()),
    ]
    if audited:
        common.append(goto(names.AUDIT))
    elif done:
        common += [done(check) for check in checks.values()]
    # Each way to the trees is one along which the kernel checks them whole whenever a rule is added. In IPv6
    # some bridged packets are not to be judged at all, so that the others do not come back from the guard.
    returns = family is Family.V4
    bridged = [
        _ordinary_tcp(family, options),
        *links.tcp,
        *(rule for protocol, rule in again.items() if protocol is Protocol.TCP),
        guards.redirect_rule(family),
        (jump if returns else goto)(names.BRIDGED, "-m physdev --physdev-is-bridged"),
    ]
    tunnelled = guards.forward_rules(tunnels)
    chains |= cut.chains(options)
    chains[names.FORWARD] = (*tunnelled, *cut.forward(options), *(bridged if guarded else ()), *common)
    unnamed = _unnamed_addresses(family, options, ports)
    chains[names.BRIDGED] = (*unnamed, *(() if returns else common)) if guarded else ()
    remote = "-m addrtype ! --src-type LOCAL"
    output = [*guards.output_rules(tunnels), *cut.output(options), established, *again.values()]
    output += unknown.output_rules(closing, remote)
    if transit is not None:
        output += [goto(names.TRANSIT, check, remote) for check in checks.values()]
    else:
        output += [jump(names.judge(d), check, remote) for d, check in checks.items()]
        if done and not audited:
            output += [done(check, remote) for check in checks.values()]
    if audited:
        output.append(goto(names.AUDIT, remote))
        cached = cache is not None and guarded
        chains |= audits.asking_chains(audited, family, options, isolated_name, uplinks, cached=cached)
    chains[names.OUTPUT] = tuple(output)
    chains[names.TRANSIT] = () if transit is None else _tracing(transit)
    for direction in Direction:
        chains |= _judging_chains(direction, family, options, uplinks, closed.get(direction))
    chains[names.SAMPLE] = (_sample(None if cache is None else cache.lookup, options),)
    chains[names.DENY] = (*guards.untracked_rules(family, untracked), *_deny(family, options))
    return chains


def _tracing(transit: str) -> Rules:
    return (
        # A refusal of a packet of no connection is sent in its receiver's name: no sign of transit.
        jump("DROP", "-p tcp -m tcp --tcp-flags RST RST", about=Guard.TRANSIT),
        jump("SET", options=f"--add-set {transit} src"),
        jump("DROP", about=Guard.TRANSIT),
    )


def _sample(set_name: str | None, options: Options) -> Rule:
    """Return the rule of a chain that nothing leads to, with all that rules of pods and policies are made of.

    A command that looks for it has loaded what it needs to read these.
    """
    about = names.comment("never reached: a sample of what rules are made of")
    mark = f"-m mark --mark {options.both_marks:#x}/{options.both_marks:#x}"
    found = () if set_name is None else in_set(set_name, "src,dst,dst")
    return jump("RETURN", "-p tcp -m tcp --dport 1 -m multiport --dports 2,3", mark, found, about)


def _cached(protocol: Protocol, cache: names.Cache, options: Options) -> Rule:
    """Rule by which packets of cached connections leave.

    With a mark of ours a packet is judged whatever is cached, so that none leaves with one.
    """
    unmarked = f"-p {PROTOCOLS[protocol]} -m mark --mark 0x0/{options.both_marks:#x}"
    return jump(options.leave, unmarked, in_set(cache.lookup, "src,dst,dst"))


def _ordinary_tcp(family: Family, options: Options) -> Rule:
    """Rule by which most packets of known connections leave before they are asked whether they are bridged.

    On a bridge, connection tracking may know a flow to addresses that name no pod: the node itself was sent
    its first packet too, and anybody can forge the answer. So link-local addresses stay behind. Multicast and
    broadcast ones need not: TCP takes no segment to or from them (RFC 9293, 3.9.2.3), whatever is tracked.
    """
    own = LINK_LOCAL[family]
    return jump(options.leave, f"! -s {own} ! -d {own} -p tcp -m conntrack --ctstate ESTABLISHED")


def _caching(cache: names.Cache, family: Family, options: Options, uplinks: list[str]) -> Iterator[Rule]:
    """Yield the rules that a packet meets which was judged and allowed: its connection is cached.

    Not another node's, which may pass for where it came in, and that the set does not say. Nor what the guard
    of a bridge has to see, since TCP is looked up before it.
    """
    if uplinks:
        yield jump(options.leave, in_set(names.nodes_set(family), "src"))
    named = f"! -s {LINK_LOCAL[family]} ! -d {LINK_LOCAL[family]}"
    for protocol in CACHED:
        added = f"--add-set {cache.entries} src,dst,dst --timeout {options.cache}"
        yield jump("SET", f"{named} -p {PROTOCOLS[protocol]}", options=added)
    if options.accept:
        yield jump("ACCEPT")


def _judging_chains(
    direction: Direction, family: Family, options: Options, uplinks: list[str], closed: str | None
) -> Chains:
    bit = f"{options.mark(direction):#x}"
    clear = f"--set-xmark 0x0/{options.both_marks:#x}"
    marked = f"-m mark ! --mark 0x0/{options.both_marks:#x}"
    root = node_name(direction, family, ROOT)
    nodes = in_set(names.nodes_set(family), "src"), names.comment("other nodes may reach every pod")
    from_nodes = [
        jump("RETURN", f"-i {uplink}", *nodes, about=Guard.NODES)
        for uplink in (uplinks if direction is Direction.INGRESS else ())
    ]
    side = "src" if direction is Direction.EGRESS else "dst"
    unwritten = names.comment("closed: rules that take something from it could not be written yet")
    shut = () if closed is None else (goto(names.DENY, in_set(closed, side), unwritten, about=Guard.CLOSED),)
    nobodys = f"-m mark ! --mark {bit}/{bit}"
    fell = names.comment(f"isolated for {direction} and no pod here has the address")
    return {
        names.allow(direction): (jump("MARK", options=f"--set-xmark {bit}/{bit}"),),
        names.judge(direction): (
            # Seldom is anything there to clear: the look is cheaper.
            jump("MARK", marked, options=clear),
            *from_nodes,
            *shut,
            jump(root),
            *logging_nobodys(direction, nobodys, family, options),
            goto(names.DENY, nobodys, fell, about=Guard.NO_POD),
            jump("MARK", options=clear),
        ),
    }


def stand_in(chain: str, forward: Rules) -> Rules | None:
    """Return what a new top chain must hold when the kernel does not take its rules; None: nothing.

    Empty, it would let through what it should judge. ``forward`` are the rules of FORWARD's chain: without
    the guard against addresses that name no pod, and without an end to connections, all else still holds.
    """
    if chain in (names.FORWARD, names.BRIDGED):
        return tuple(rule for rule in forward if rule.target not in (names.BRIDGED, names.CUT))
    if chain in (names.DENY, names.TRANSIT, names.CUT, names.CUT_ASK, names.CUT_OUT) or chain in map(
        names.judge, Direction
    ):
        return (jump("DROP"),)
    return None


def _deny(family: Family, options: Options) -> Rules:
    if not options.reject:
        return (jump("DROP"),)
    refusal = "icmp-admin-prohibited" if family is Family.V4 else "icmp6-adm-prohibited"
    return (
        jump("REJECT", "-p tcp", options="--reject-with tcp-reset"),
        jump("REJECT", options=f"--reject-with {refusal}"),
    )


def _unnamed_addresses(family: Family, options: Options, ports: Iterable[str]) -> list[Rule]:
    """Rules for bridged packets whose address does not name a pod: discovery passes, the rest is dropped."""
    if family is Family.V4:
        ranges = ["169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32"]
        unnamed = [f"{flag} {r}" for r in ranges for flag in ("-s", "-d")]
        unnamed.append("-m addrtype --dst-type BROADCAST")
        return [jump("DROP", match, about=Guard.ADDRESSES) for match in unnamed]
    return [
        *guards.discovery_rules(options.leave),
        *guards.advertisement_rules(ports, options.leave),
        *(
            jump("DROP", f"{flag} {r}", about=Guard.ADDRESSES)
            for r in ("fe80::/10", "ff00::/8")
            for flag in ("-s", "-d")
        ),
    ]
