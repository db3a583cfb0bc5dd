"""One policy, in one direction, as rules and the sets they use: a pure function of its spec."""

from __future__ import annotations

from collections.abc import Iterable, Set
from hashlib import sha256
from typing import NamedTuple

from agent.kube.model import NetworkPolicy, Rule
from agent.net import Direction, Family, NetworkMember
from agent.policy.compile import Peers, split_peers
from agent.policy.lower.blocks import (
    block_covers,
    block_members,
    block_ranges,
    members_text,
    ranges_text,
)
from agent.policy.lower.cost import FEW_NETWORKS as FEW_NETWORKS
from agent.policy.lower.cost import MANY_PEERS
from agent.policy.lower.live import Area, Definition, Networks, PeerPods, PortPods
from agent.policy.lower.lowered import LoweredPolicy, LoweredRule, SetId, SetKind
from agent.policy.peers.labels import quoted, selector_text
from agent.policy.ports import Ports, compile_ports
from agent.policy.program import PortName, Predicate

_SHOWN = 4
"""As many parts of a set's meaning are named; more are counted, and told apart by their hash."""

BOTH = tuple(Family)


class Compiled(NamedTuple):
    """A policy's program and what its sets are."""

    program: LoweredPolicy
    sets: dict[SetId, Definition]


def compile_policy(
    policy: NetworkPolicy, direction: Direction, families: tuple[Family, ...] = BOTH
) -> Compiled | None:
    """Return the program of a policy in a direction; None when it does not name the direction.

    In a family that is not among ``families`` it has no rules.
    """
    rules = policy.rules(direction)
    if rules is None:
        return None
    sets: dict[SetId, Definition] = {}
    compiled: dict[Family, tuple[LoweredRule, ...]] = dict.fromkeys(BOTH, ())
    for family in families:
        context = _Context(policy.namespace, direction, family, sets)
        found = (_rule(context, number, rule) for number, rule in enumerate(rules))
        compiled[family] = tuple(rule for rule in found if rule is not None)
    return Compiled(LoweredPolicy(compiled[Family.V4], compiled[Family.V6]), sets)


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


def _rule(context: _Context, number: int, rule: Rule) -> LoweredRule | None:
    """Return a rule in one family; None when it can match nothing there."""
    peers = split_peers(context.namespace, rule.peers) if rule.peers else None
    ports = compile_ports(rule.ports) if rule.ports else None
    if context.direction is Direction.INGRESS:
        return _ingress_rule(context, number, peers, ports)
    return _egress_rule(context, number, peers, ports)


def _ingress_rule(
    context: _Context, number: int, peers: Peers | None, ports: Ports | None
) -> LoweredRule | None:
    sources, blocks = (None, ()) if peers is None else _peer_sets(context, peers)
    if sources == () and not blocks:
        return None
    if ports is None:
        return LoweredRule(number, sources, blocks=blocks)
    named = (_local_ports_set(context, ports.names),) if ports.names else ()
    return LoweredRule(number, sources, ports.ranges, named, blocks=blocks, protocol=ports.protocol)


def _egress_rule(
    context: _Context, number: int, peers: Peers | None, ports: Ports | None
) -> LoweredRule | None:
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
        return None if nobody else LoweredRule(number, destinations, blocks=blocks)
    folded = tuple(sorted(_folded_sets(context, peers, ports.names))) if ports.names else ()
    if nobody and not folded:
        return None
    return LoweredRule(number, destinations, ports.ranges, (), folded, blocks, ports.protocol)


def _peer_sets(context: _Context, peers: Peers) -> tuple[tuple[SetId, ...], tuple[NetworkMember, ...]]:
    """Return the sets of a rule's peers, and its blocks' networks where these are too few for a set."""
    found = [context.set(SetKind.ADDRESSES, _predicates_text(lot), PeerPods(lot)) for lot in _lots(peers)]
    members = block_members(peers.blocks, context.family)
    few = tuple(sorted(members)) if len(members) <= FEW_NETWORKS else ()
    if few and len(peers.blocks) > 1 and any(member.nomatch for member in few):
        # Of several blocks a network may lie in an except of another, in which only a set finds the longest.
        few = ()
    if members and not few:
        found.append(context.set(SetKind.NETWORKS, members_text(members), Networks(members)))
    return tuple(sorted(found)), few


def _local_ports_set(context: _Context, names: tuple[PortName, ...]) -> SetId:
    # Policy chains are reached only for selected pods, so every policy can share the ports of all local pods.
    definition = PortPods(names, local=True)
    return context.set(SetKind.ADDRESS_PORTS, f"{_ports_text(names)} local pods", definition)


def _folded_sets(context: _Context, peers: Peers | None, names: tuple[PortName, ...]) -> list[SetId]:
    """Return the sets of the ports of these names that a rule's peers have.

    Names are not multiplied by peers, nor by networks: each pod has the few that it names.
    """
    ports = _ports_text(names)
    if peers is None:
        return [context.set(SetKind.ADDRESS_PORTS, f"{ports} every pod", PortPods(names))]
    found = [
        context.set(SetKind.ADDRESS_PORTS, f"{ports} {_predicates_text(lot)}", PeerPods(lot, names))
        for lot in _lots(peers)
    ]
    ranges = block_ranges(peers.blocks, context.family)
    if ranges:
        area = Area(ranges, block_covers(peers.blocks, context.family))
        meaning = f"{ports} addresses[{ranges_text(ranges, context.family)}]"
        found.append(context.set(SetKind.ADDRESS_PORTS, meaning, PortPods(names, area=area)))
    return found


def _lots(peers: Peers) -> tuple[tuple[Predicate, ...], ...]:
    """Return the predicates in lots, of which each has a set of its own."""
    if len(peers.predicates) <= MANY_PEERS:
        return tuple((predicate,) for predicate in peers.predicates)
    return (tuple(sorted(peers.predicates, key=predicate_text)),)


def predicate_text(predicate: Predicate) -> str:
    """Return the canonical text of a predicate: two have the same only when they are equal."""
    if predicate.namespaces is None:
        where = f"namespace[{quoted(predicate.namespace or '')}]"
    else:
        where = f"namespaces[{selector_text(predicate.namespaces)}]"
    return f"pods[{selector_text(predicate.pods)}] {where}"


def _predicates_text(predicates: tuple[Predicate, ...]) -> str:
    return _listed("any of ", map(predicate_text, predicates))


def _ports_text(names: tuple[PortName, ...]) -> str:
    return _listed("", (f"port[{quoted(name.name)}:{name.protocol.name}]" for name in names))


def _listed(prefix: str, texts: Iterable[str]) -> str:
    """Return texts as one, canonical for this order: short, and another for other texts."""
    found = list(texts)
    if len(found) == 1:
        return found[0]
    text = prefix + " or ".join(found[:_SHOWN])
    if len(found) <= _SHOWN:
        return text
    digest = sha256("\n".join(found).encode()).hexdigest()[:32]
    return f"{text} or ... {len(found)} in all, {digest}"


def without(program: LoweredPolicy, sets: Set[SetId]) -> LoweredPolicy:
    """Return a program without references to sets that have no members: it allows the same."""
    if not sets:
        return program
    narrowed = ((_without(rule, sets) for rule in rules) for rules in program)
    return LoweredPolicy(*(tuple(rule for rule in rules if rule is not None) for rules in narrowed))


def _without(rule: LoweredRule, sets: Set[SetId]) -> LoweredRule | None:
    peers, named = (
        None if found is None else tuple(s for s in found if s not in sets)
        for found in (rule.peers, rule.named)
    )
    folded = tuple(s for s in rule.folded if s not in sets)
    nobody = peers == () and not rule.blocks
    no_port = rule.ports == () and not named
    if (nobody or no_port) and not folded:
        return None
    return rule._replace(peers=peers, named=named, folded=folded)
