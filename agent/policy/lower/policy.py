"""One policy, in one direction, as rules and the sets they use: a pure function of its program."""

from __future__ import annotations

from collections.abc import Iterable, Set
from hashlib import sha256
from itertools import product
from typing import NamedTuple

from agent.net import Direction, Family, NetworkMember, Protocol
from agent.policy.lower.blocks import (
    Parts,
    block_covers,
    block_ranges,
    members_in_parts,
    members_text,
    ranges_text,
    whole,
)
from agent.policy.lower.cost import FEW_NETWORKS as FEW_NETWORKS
from agent.policy.lower.cost import MANY_PEERS
from agent.policy.lower.live import Area, Definition, Networks, PeerPods, PortPods
from agent.policy.lower.lowered import LoweredPolicy, LoweredRule, SetId, SetKind
from agent.policy.peers.labels import quoted, selector_text
from agent.policy.program import PolicyProgram, PortName, Predicate, Rule, Verdict

_SHOWN = 4
"""As many parts of a set's meaning are named; more are counted, and told apart by their hash."""

BOTH = tuple(Family)


class Lowered(NamedTuple):
    """A policy in the form of sets, and what its sets are of."""

    policy: LoweredPolicy
    sets: dict[SetId, Definition]


MANY_NETWORKS = 1_000
"""The networks of a rule of more are found out in parts of their own."""


def lower_policy(
    program: PolicyProgram, direction: Direction, families: tuple[Family, ...] = BOTH
) -> Lowered:
    """Return a policy's program in the form of sets, which allows the same.

    In a family that is not among ``families`` it has no rules. Raises ValueError when a rule does not allow:
    there is no lowered form for that.
    """
    return whole(lower_in_parts(program, direction, families))


def lower_in_parts(
    program: PolicyProgram, direction: Direction, families: tuple[Family, ...]
) -> Parts[Lowered]:
    """Return what :func:`lower_policy` does. A policy of few networks is one part."""
    if any(rule.action is not Verdict.ALLOW for rule in program.rules):
        raise ValueError("only rules that allow can be lowered")
    blocks = yield from _all_blocks(program.rules, direction, families)
    sets: dict[SetId, Definition] = {}
    lowered: dict[Family, tuple[LoweredRule, ...]] = dict.fromkeys(BOTH, ())
    for family in families:
        context = _Context(direction, family, sets, blocks)
        found = (_rule(context, rule) for rule in program.rules)
        lowered[family] = tuple(rule for rule in found if rule is not None)
    return Lowered(LoweredPolicy(lowered[Family.V4], lowered[Family.V6]), sets)


class _Blocks(NamedTuple):
    """What the blocks of a rule are in a family: networks, and where named ports are looked for."""

    members: frozenset[NetworkMember] = frozenset()
    area: Area | None = None


_NO_BLOCKS = _Blocks()

_AllBlocks = dict[tuple[int, Family], _Blocks]
"""By the numbers of rules."""


def _all_blocks(
    rules: Iterable[Rule], direction: Direction, families: tuple[Family, ...]
) -> Parts[_AllBlocks]:
    found: _AllBlocks = {}
    done = 0
    for rule, family in product(rules, families):
        size = family.bits // 8
        number = sum([1 + len(excepts) for cidr, excepts in rule.blocks if len(cidr[0]) == size])
        if not number:
            continue
        members, area = frozenset[NetworkMember](), None
        folds = direction is Direction.EGRESS and rule.names
        # Where only ports of pods can match, the networks would be kept for nothing.
        if not folds or rule.ports != ():
            parts = members_in_parts(rule.blocks, family)
            members = (yield from parts) if number > MANY_NETWORKS else whole(parts)
        if folds:
            if number > MANY_NETWORKS:
                yield
            ranges = block_ranges(rule.blocks, family)
            area = Area(ranges, block_covers(rule.blocks, family)) if ranges else None
        found[rule.number, family] = _Blocks(members, area)
        done += number
        if done > MANY_NETWORKS:
            done = 0
            yield
    return found


class _Context(NamedTuple):
    direction: Direction
    family: Family
    sets: dict[SetId, Definition]
    """Where definitions are gathered."""
    blocks: _AllBlocks

    def set(self, kind: SetKind, meaning: str, definition: Definition) -> SetId:
        set_id = SetId(kind, self.direction, self.family, meaning)
        self.sets[set_id] = definition
        return set_id

    def blocks_of(self, rule: Rule) -> _Blocks:
        return self.blocks.get((rule.number, self.family), _NO_BLOCKS)


def _rule(context: _Context, rule: Rule) -> LoweredRule | None:
    """Return a rule in one family; None when it can match nothing there."""
    return (_ingress_rule if context.direction is Direction.INGRESS else _egress_rule)(context, rule)


def _ingress_rule(context: _Context, rule: Rule) -> LoweredRule | None:
    sources, blocks = _peer_sets(context, rule)
    if sources == () and not blocks:
        return None
    if rule.ports is None:
        return LoweredRule(rule.number, sources, blocks=blocks)
    named = (_local_ports_set(context, rule.names),) if rule.names else ()
    return LoweredRule(rule.number, sources, rule.ports, named, blocks=blocks, protocol=_protocol(rule))


def _egress_rule(context: _Context, rule: Rule) -> LoweredRule | None:
    destinations: tuple[SetId, ...] | None = ()
    blocks: tuple[NetworkMember, ...] = ()
    # Where only the folded sets can match, the peers' own would be kept up to date for nothing.
    if rule.ports != ():
        destinations, blocks = _peer_sets(context, rule)
    nobody = destinations == () and not blocks
    if rule.ports is None:
        return None if nobody else LoweredRule(rule.number, destinations, blocks=blocks)
    folded = tuple(sorted(_folded_sets(context, rule))) if rule.names else ()
    if nobody and not folded:
        return None
    return LoweredRule(rule.number, destinations, rule.ports, (), folded, blocks, _protocol(rule))


def _protocol(rule: Rule) -> Protocol | None:
    """Return the protocol of all of a rule's ports; None where they have several."""
    found = {ports.protocol for ports in rule.ports or ()} | {name.protocol for name in rule.names}
    return found.pop() if len(found) == 1 else None


def _peer_sets(context: _Context, rule: Rule) -> tuple[tuple[SetId, ...] | None, tuple[NetworkMember, ...]]:
    """Return the sets of a rule's peers, and its blocks' networks where these are too few for a set."""
    if rule.peers is None:
        return None, ()
    lots = _lots(rule.peers)
    found = [context.set(SetKind.ADDRESSES, _predicates_text(lot), PeerPods(lot)) for lot in lots]
    members = context.blocks_of(rule).members
    few = tuple(sorted(members)) if len(members) <= FEW_NETWORKS else ()
    if few and len(rule.blocks) > 1 and any(member.nomatch for member in few):
        # Of several blocks a network may lie in an except of another, in which only a set finds the longest.
        few = ()
    if members and not few:
        found.append(context.set(SetKind.NETWORKS, members_text(members), Networks(members)))
    return tuple(sorted(found)), few


def _local_ports_set(context: _Context, names: tuple[PortName, ...]) -> SetId:
    # Policy chains are reached only for selected pods, so every policy can share the ports of all local pods.
    definition = PortPods(names, local=True)
    return context.set(SetKind.ADDRESS_PORTS, f"{_ports_text(names)} local pods", definition)


def _folded_sets(context: _Context, rule: Rule) -> list[SetId]:
    """Return the sets of the ports of a rule's names that its peers have.

    Names are not multiplied by peers, nor by networks: each pod has the few that it names.
    """
    names = rule.names
    ports = _ports_text(names)
    if rule.peers is None:
        return [context.set(SetKind.ADDRESS_PORTS, f"{ports} every pod", PortPods(names))]
    found = [
        context.set(SetKind.ADDRESS_PORTS, f"{ports} {_predicates_text(lot)}", PeerPods(lot, names))
        for lot in _lots(rule.peers)
    ]
    area = context.blocks_of(rule).area
    if area is not None:
        meaning = f"{ports} addresses[{ranges_text(area.ranges, context.family)}]"
        found.append(context.set(SetKind.ADDRESS_PORTS, meaning, PortPods(names, area=area)))
    return found


def _lots(predicates: tuple[Predicate, ...]) -> tuple[tuple[Predicate, ...], ...]:
    """Return the predicates in lots, of which each has a set of its own."""
    if len(predicates) == 1:
        return (predicates,)
    if len(predicates) <= MANY_PEERS:
        return tuple((predicate,) for predicate in predicates)
    return (tuple(sorted(predicates, key=predicate_text)),)


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


def without(policy: LoweredPolicy, sets: Set[SetId]) -> LoweredPolicy:
    """Return a policy without references to sets that have no members: it allows the same."""
    if not sets:
        return policy
    narrowed = ((_without(rule, sets) for rule in rules) for rules in policy)
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
