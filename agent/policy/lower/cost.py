"""What a policy costs once it is lowered, counted from its text: rules of the kernel, sets and networks.

Nothing is made to count it. So what is too much is never made: see :mod:`agent.policy.budget`.
"""

from __future__ import annotations

from collections.abc import Hashable
from itertools import chain
from typing import Generic, NamedTuple, TypeVar

from agent.kube.model import IPBlock, NetworkPolicy, Rule, Selector
from agent.net import Direction, Family
from agent.policy.compile import Peers, split_peers
from agent.policy.ports import Ports, compile_ports
from agent.policy.program import PortName, Predicate

FEW_NETWORKS = 6
"""As many networks of a rule are compared one by one; a look into a set takes as long as six of them."""

MANY_PEERS = 8
"""A rule with more selectors than this has one set for all of them; with fewer, each has a set that other
rules can share. A shared one costs less when a pod changes, many cost the kernel too many sets."""

_PORTS_IN_A_RULE = 14
"""At least so many ports are in each of a rule's matches but the last, of which a range counts two."""

_NETWORKS_OF_A_RULE = 10
"""So many networks take as long as one rule of the kernel, and a set as long as two."""

_SELECTORS_OF_A_RULE = 5
"""So many labels that selectors name, or named ports, take as long as one rule, though no pod has them."""

_MEMBERS_OF_A_RULE = 50
"""So many pods of a set take as long as one rule, at most."""

_RULES_OF_A_REFERENCE = 2
"""In the chain of a pod: one that leads to the policy's chain, one that returns when it allowed."""


class Content:
    """What a set is of: pods that some predicates match, or named ports of these or of any, or networks.

    It is large, and one in both families and directions: its hash is worked out once.
    """

    __slots__ = ("_hash", "blocks", "names", "predicates")

    def __init__(
        self,
        predicates: tuple[Predicate, ...] = (),
        names: tuple[PortName, ...] = (),
        blocks: tuple[IPBlock, ...] = (),
    ) -> None:
        self.predicates = predicates
        self.names = names
        self.blocks = blocks
        self._hash = hash((predicates, names, blocks))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Content)
            and self._hash == other._hash
            and self.predicates == other.predicates
            and self.names == other.names
            and self.blocks == other.blocks
        )


class Asked(NamedTuple):
    """A set that a policy asks for."""

    egress: bool
    v6: bool
    content: Content


What = TypeVar("What", bound=Hashable)


class Cost(NamedTuple, Generic[What]):
    """What a policy makes at most, in both families: rules, sets that are told apart, and networks.

    ``directions``: how many it names. ``selectors``: how many labels its peers' selectors name, and named
    ports. The sets are :class:`Wanted` where policies are counted together.
    """

    rules: int
    sets: frozenset[What]
    networks: int
    directions: int
    selectors: int = 0


def cost_of(policy: NetworkPolicy, selectors: int | None = None) -> Cost[Asked]:
    """Return what a policy costs at most, without making any of it: in the time that reading it takes.

    ``selectors``: of a policy that has more than so many nothing else is counted.
    """
    rules = networks = 0
    sets: set[Asked] = set()
    named = [found for direction in Direction if (found := policy.rules(direction)) is not None]
    number = sum(map(_selectors, chain.from_iterable(named)))
    if selectors is not None and number > selectors:
        return Cost(0, frozenset(), 0, len(named), number)
    for direction in Direction:
        for rule in policy.rules(direction) or ():
            of_rule = _rule_cost(policy.namespace, direction, rule, sets)
            rules += of_rule[0]
            networks += of_rule[1]
    return Cost(rules, frozenset(sets), networks, len(named), number)


def _selectors(rule: Rule) -> int:
    """Return how many labels the selectors of a rule's peers name, and how many named ports it has."""
    labels = sum(
        _labels(selector)
        for pods, namespaces, _ in rule.peers
        for selector in (pods, namespaces)
        if selector is not None
    )
    return labels + sum(isinstance(port, str) for _, port, _ in rule.ports)


def _labels(selector: Selector) -> int:
    """Return how many labels a selector names: values, or keys without any; one that names none is one."""
    return sum(len(values) or 1 for _, _, values in selector.requirements) or 1


def _rule_cost(namespace: str, direction: Direction, rule: Rule, sets: set[Asked]) -> tuple[int, int]:
    """Return how many rules of the kernel and networks a rule makes at most; note its sets."""
    peers = split_peers(namespace, rule.peers) if rule.peers else None
    ports = compile_ports(rule.ports) if rule.ports else None
    names = ports.names if ports is not None else ()
    egress = direction is Direction.EGRESS
    folds = egress and bool(names)
    lots = _lots(peers) if peers is not None else ()
    blocks = peers.blocks if peers is not None else ()
    unfolded = not folds or (ports is not None and bool(ports.ranges))
    plain = [Content(lot) for lot in lots] if unfolded else []
    named = [Content((), names)] if names and not folds else []
    if folds:
        named = [Content(lot, names) for lot in lots] if peers is not None else [Content((), names)]
    rules = networks = 0
    for family in Family:
        v6 = family is Family.V6
        own = _networks(peers, family) if peers is not None else 0
        sets.update(Asked(egress, v6, content) for content in chain(plain, named))
        if own and unfolded and (own > FEW_NETWORKS or len(blocks) > 1):
            sets.add(Asked(egress, v6, Content(blocks=blocks)))
        folded = len(named) if folds else 0
        if folds and own:
            sets.add(Asked(egress, v6, Content((), names, blocks)))
            folded += 1
        lines = len(lots) + min(own, FEW_NETWORKS + 1)
        if peers is None or (lines == 1 and not names):
            rules += _ways(ports) + folded
        elif lines:
            rules += _ways(ports) + lines + 2 + folded
        networks += own
    return rules, networks


def _lots(peers: Peers) -> tuple[tuple[Predicate, ...], ...]:
    """Return the predicates of each set, as :meth:`Peers.together` without sorting any."""
    if len(peers.predicates) <= MANY_PEERS:
        return tuple((predicate,) for predicate in peers.predicates)
    return (peers.predicates,)


def _networks(peers: Peers, family: Family) -> int:
    """Return how many networks the blocks name; a /0 is two."""
    # There may be thousands, of which to ask each for its family takes as long as all else.
    size = family.bits // 8
    return sum([1 + (not cidr[1]) + len(excepts) for cidr, excepts in peers.blocks if len(cidr[0]) == size])


def _ways(ports: Ports | None) -> int:
    if ports is None:
        return 1
    slots: dict[int, int] = {}
    for protocol, first, last in ports.ranges:
        slots[protocol] = slots.get(protocol, 0) + (1 if first == last else 2)
    return sum(number // _PORTS_IN_A_RULE + 2 for number in slots.values()) + bool(ports.names)


def rules_with_pods(cost: Cost[What], reach: int) -> int:
    """Return the rules of a policy and of the pods that it selects.

    ``reach``: how many kinds of pod it selects on the node, a kind having labels of its own.
    """
    return cost.rules + reach * _RULES_OF_A_REFERENCE * cost.directions * len(Family)


def work_of(cost: Cost[What], rules: int, members: int) -> int:
    """Return how long a policy takes, from its text to the kernel, in rules.

    ``rules``: its own and those of its pods; ``members``: how many its sets have at most.
    """
    return (
        rules
        + 2 * len(cost.sets)
        + cost.networks // _NETWORKS_OF_A_RULE
        + cost.selectors // _SELECTORS_OF_A_RULE
        + members // _MEMBERS_OF_A_RULE
    )
