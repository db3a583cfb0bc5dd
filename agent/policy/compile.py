"""One policy, in one direction, as rules and the sets they use: a pure function of its spec."""

from __future__ import annotations

from typing import NamedTuple

from agent.kube.model import Direction, Family, IPBlock, NetworkPolicy, Peer, Rule, Selector
from agent.policy.blocks import block_members, block_ranges, members_text, ranges_text
from agent.policy.graph import Definition, Networks, PeerPods, PortPods, Predicate
from agent.policy.labels import quoted
from agent.policy.ports import PortName, Ports, compile_ports
from agent.policy.program import NetworkMember, PolicyProgram, RuleProgram, SetId, SetKind

EVERYTHING = Selector()

FEW_NETWORKS = 6
"""As many networks of a rule are compared one by one; a look into a set takes as long as six of them."""


class Compiled(NamedTuple):
    """A policy's program and what its sets are."""

    program: PolicyProgram
    sets: dict[SetId, Definition]


def compile_policy(policy: NetworkPolicy, direction: Direction) -> Compiled | None:
    """Return the program of a policy in a direction; None when it does not name the direction."""
    rules = policy.rules(direction)
    if rules is None:
        return None
    sets: dict[SetId, Definition] = {}
    compiled: dict[Family, tuple[RuleProgram, ...]] = {}
    for family in Family:
        context = _Context(policy.namespace, direction, family, sets)
        found = (_rule(context, number, rule) for number, rule in enumerate(rules))
        compiled[family] = tuple(rule for rule in found if rule is not None)
    return Compiled(PolicyProgram(compiled[Family.V4], compiled[Family.V6]), sets)


class _Context(NamedTuple):
    namespace: str
    direction: Direction
    family: Family
    sets: dict[SetId, Definition]
    """Where definitions are gathered."""

    def set(self, kind: SetKind, meaning: str, definition: Definition) -> SetId:
        set_id = SetId(kind, self.direction, self.family, meaning)
        self.sets[set_id] = definition
        return set_id


class _Peers(NamedTuple):
    """A rule's non-empty ``from`` or ``to``."""

    predicates: tuple[Predicate, ...]
    blocks: tuple[IPBlock, ...]


def _rule(context: _Context, number: int, rule: Rule) -> RuleProgram | None:
    """Return a rule in one family; None when it can match nothing there."""
    peers = _split_peers(context.namespace, rule.peers) if rule.peers else None
    ports = compile_ports(rule.ports) if rule.ports else None
    if context.direction is Direction.INGRESS:
        return _ingress_rule(context, number, peers, ports)
    return _egress_rule(context, number, peers, ports)


def _ingress_rule(
    context: _Context, number: int, peers: _Peers | None, ports: Ports | None
) -> RuleProgram | None:
    sources, blocks = (None, ()) if peers is None else _peer_sets(context, peers)
    if sources == () and not blocks:
        return None
    if ports is None:
        return RuleProgram(number, sources, blocks=blocks)
    named = tuple(sorted(_local_port_set(context, name) for name in ports.names))
    return RuleProgram(number, sources, ports.ranges, named, blocks=blocks, protocol=ports.protocol)


def _egress_rule(
    context: _Context, number: int, peers: _Peers | None, ports: Ports | None
) -> RuleProgram | None:
    destinations: tuple[SetId, ...] | None
    blocks: tuple[NetworkMember, ...] = ()
    if ports is not None and not ports.ranges:
        # Only the folded sets can match: the peers' own would be kept up to date for nothing.
        destinations = ()
    elif peers is None:
        destinations = None
    else:
        destinations, blocks = _peer_sets(context, peers)
    nobody = destinations == () and not blocks
    if ports is None:
        return None if nobody else RuleProgram(number, destinations, blocks=blocks)
    folded = tuple(sorted(s for name in ports.names for s in _folded_sets(context, peers, name)))
    if nobody and not folded:
        return None
    return RuleProgram(number, destinations, ports.ranges, (), folded, blocks, ports.protocol)


def _split_peers(namespace: str, peers: tuple[Peer, ...]) -> _Peers:
    predicates: set[Predicate] = set()
    blocks: list[IPBlock] = []
    for pods, namespaces, block in peers:
        if block is not None:
            # With a selector beside it the peer is not valid and, like an empty one, matches nothing.
            if pods is None and namespaces is None:
                blocks.append(block)
        elif namespaces is not None:
            predicates.add(Predicate(None, namespaces, pods if pods is not None else EVERYTHING))
        elif pods is not None:
            predicates.add(Predicate(namespace, None, pods))
    return _Peers(tuple(predicates), tuple(blocks))


def _peer_sets(context: _Context, peers: _Peers) -> tuple[tuple[SetId, ...], tuple[NetworkMember, ...]]:
    """Return the sets of a rule's peers, and its blocks' networks where these are too few for a set."""
    found = [
        context.set(SetKind.ADDRESSES, str(predicate), PeerPods(predicate)) for predicate in peers.predicates
    ]
    members = block_members(peers.blocks, context.family)
    few = tuple(sorted(members)) if len(members) <= FEW_NETWORKS else ()
    if members and not few:
        found.append(context.set(SetKind.NETWORKS, members_text(members), Networks(members)))
    return tuple(sorted(found)), few


def _local_port_set(context: _Context, name: PortName) -> SetId:
    # Policy chains are reached only for selected pods, so every policy can share the ports of all local pods.
    definition = PortPods(name, local=True)
    return context.set(SetKind.ADDRESS_PORTS, f"{_port_text(name)} local pods", definition)


def _folded_sets(context: _Context, peers: _Peers | None, name: PortName) -> list[SetId]:
    port = _port_text(name)
    if peers is None:
        return [context.set(SetKind.ADDRESS_PORTS, f"{port} every pod", PortPods(name))]
    found = [
        context.set(SetKind.ADDRESS_PORTS, f"{port} {predicate}", PeerPods(predicate, name))
        for predicate in peers.predicates
    ]
    ranges = block_ranges(peers.blocks, context.family)
    if ranges:
        meaning = f"{port} addresses[{ranges_text(ranges, context.family)}]"
        found.append(context.set(SetKind.ADDRESS_PORTS, meaning, PortPods(name, ranges=ranges)))
    return found


def _port_text(name: PortName) -> str:
    return f"port[{quoted(name.name)}:{name.protocol.name}]"
