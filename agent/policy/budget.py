"""What one policy, and the policies of one namespace, may cost a node; and what a policy will cost.

Whoever may write policies writes the compiler's input. So everything that a policy makes here is counted from
its text first, and a policy for which there is no budget is not compiled: it isolates the pods it selects, in
the directions it names, and allows nothing. Of a namespace the oldest policies are kept: one that is added
takes nothing from those before it.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterable
from typing import NamedTuple

from agent.kube.model import Direction, Family, Key, NetworkPolicy, Rule
from agent.policy.limits import Budgets, NamespaceBudget, PolicyBudget
from agent.policy.peers import MANY_PEERS, Peers, split_peers
from agent.policy.ports import Ports, compile_ports

FEW_NETWORKS = 6
"""As many networks of a rule are compared one by one; a look into a set takes as long as six of them."""

_PORTS_IN_A_RULE = 14
"""At least so many ports are in each of a rule's matches but the last, of which a range counts two."""

_RULES_OF_A_REFERENCE = 2
"""In the chain of a pod: one that leads to the policy's chain, one that returns when it allowed."""


class Cost(NamedTuple):
    """What a policy makes at most, in both families: rules, sets that are told apart, and networks.

    ``directions``: how many it names.
    """

    rules: int
    sets: frozenset[Hashable]
    networks: int
    directions: int


class Excess(NamedTuple):
    """Why a policy is not enforced as written: how much of ``what`` is needed, and how much there may be.

    ``whole``: the namespace's budget is meant, and ``needed`` is what it needs with this policy; else the
    policy's own.
    """

    what: str
    needed: int
    limit: int
    whole: bool

    def __str__(self) -> str:
        if self.whole:
            return (
                f"its namespace's policies would need {self.needed:,} {self.what} on this node with it, "
                f"of {self.limit:,} at most (--namespace-budget)"
            )
        return f"it needs {self.needed:,} {self.what}, of {self.limit:,} at most (--policy-budget)"


def cost_of(policy: NetworkPolicy) -> Cost:
    """Return what a policy costs at most, without making any of it: in the time that reading it takes."""
    rules = networks = directions = 0
    sets: set[Hashable] = set()
    for direction in Direction:
        found = policy.rules(direction)
        if found is None:
            continue
        directions += 1
        for rule in found:
            of_rule = _rule_cost(policy.namespace, direction, rule, sets)
            rules += of_rule[0]
            networks += of_rule[1]
    return Cost(rules, frozenset(sets), networks, directions)


def _rule_cost(namespace: str, direction: Direction, rule: Rule, sets: set[Hashable]) -> tuple[int, int]:
    """Return how many rules of the kernel and networks a rule makes at most; note its sets."""
    peers = split_peers(namespace, rule.peers) if rule.peers else None
    ports = compile_ports(rule.ports) if rule.ports else None
    egress = direction is Direction.EGRESS
    folds = egress and ports is not None and bool(ports.names)
    rules = networks = 0
    for family in Family:
        lots: list[Hashable] = []
        own = 0
        if peers is not None:
            lots += _lots(peers)
            own = _networks(peers, family)
        where = (direction, family)
        if ports is not None and ports.names and not egress:
            sets.add((where, ports.names))
        if not folds or (ports is not None and ports.ranges):
            sets.update((where, lot) for lot in lots)
            if own > FEW_NETWORKS or (peers is not None and len(peers.blocks) > 1 and own):
                sets.add((where, peers.blocks if peers is not None else ()))
        folded = 0
        if folds and ports is not None:
            among = (
                [*lots, peers.blocks] if peers is not None and own else lots if peers is not None else [None]
            )
            sets.update((where, one, ports.names) for one in among)
            folded = len(among)
        lines = len(lots) + min(own, FEW_NETWORKS + 1)
        if peers is None or (lines == 1 and not (ports is not None and ports.names)):
            rules += _ways(ports) + folded
        elif lines:
            rules += _ways(ports) + lines + 2 + folded
        networks += own
    return rules, networks


def _lots(peers: Peers) -> Iterable[Hashable]:
    return peers.predicates if len(peers.predicates) <= MANY_PEERS else (peers.predicates,)


def _networks(peers: Peers, family: Family) -> int:
    """Return how many networks the blocks name; a /0 is two."""
    return sum(
        1 + (cidr.prefix == 0) + len(excepts) for cidr, excepts in peers.blocks if cidr.family is family
    )


def _ways(ports: Ports | None) -> int:
    if ports is None:
        return 1
    slots: dict[int, int] = {}
    for protocol, first, last in ports.ranges:
        slots[protocol] = slots.get(protocol, 0) + (1 if first == last else 2)
    return sum(number // _PORTS_IN_A_RULE + 2 for number in slots.values()) + bool(ports.names)


def own_excess(cost: Cost, budget: PolicyBudget) -> Excess | None:
    """Return what of a policy is more than one policy may have; None when nothing is."""
    for what, needed, limit in (
        ("rules", cost.rules, budget.rules),
        ("sets", len(cost.sets), budget.sets),
        ("networks", cost.networks, budget.networks),
    ):
        if needed > limit:
            return Excess(what, needed, limit, whole=False)
    return None


def rules_with_pods(cost: Cost, reach: int) -> int:
    """Return the rules of a policy and of the pods that it selects.

    ``reach``: how many kinds of pod it selects on the node, a kind having labels of its own.
    """
    return cost.rules + reach * _RULES_OF_A_REFERENCE * cost.directions * len(Family)


class Spent(NamedTuple):
    """A policy that selects pods of a node: its place among those of its namespace, and what it costs."""

    created: str
    name: str
    cost: Cost
    rules: int


def spent(policy: NetworkPolicy, reach: int, cost: Cost | None = None) -> Spent:
    """Return what a policy that selects ``reach`` kinds of pod of a node costs it."""
    cost = cost_of(policy) if cost is None else cost
    return Spent(policy.created, policy.name, cost, rules_with_pods(cost, reach))


class Total:
    """What the policies of a namespace that are enforced as written cost together."""

    __slots__ = ("networks", "policies", "rules", "sets")

    def __init__(self) -> None:
        self.policies = 0
        self.rules = 0
        self.networks = 0
        self.sets: dict[Hashable, int] = {}
        """Each with how many policies use it."""

    def excess_with(self, one: Spent, budget: NamespaceBudget) -> Excess | None:
        """Return what would be more than the namespace may have, were one more enforced; None: nothing."""
        for what, needed, limit in (
            ("policies", self.policies + 1, budget.policies),
            ("rules", self.rules + one.rules, budget.rules),
            ("networks", self.networks + one.cost.networks, budget.networks),
        ):
            if needed > limit:
                return Excess(what, needed, limit, whole=True)
        sets = len(self.sets) + sum(found not in self.sets for found in one.cost.sets)
        return Excess("sets", sets, budget.sets, whole=True) if sets > budget.sets else None

    def add(self, one: Spent) -> None:
        self.policies += 1
        self.rules += one.rules
        self.networks += one.cost.networks
        for found in one.cost.sets:
            self.sets[found] = self.sets.get(found, 0) + 1

    def remove(self, one: Spent) -> None:
        self.policies -= 1
        self.rules -= one.rules
        self.networks -= one.cost.networks
        for found in one.cost.sets:
            self.sets[found] -= 1
            if not self.sets[found]:
                del self.sets[found]


def over_budget(policies: Iterable[tuple[NetworkPolicy, int]], budgets: Budgets) -> dict[Key, Excess]:
    """Return which policies are not enforced as written on a node, and why.

    ``policies``: those that select pods of the node, each with how many kinds of pod it selects there. The
    oldest of a namespace come first, by name where they are of one time. One for which there is no room is
    passed over, and those after it may still fit.
    """
    found: dict[Key, Excess] = {}
    totals: dict[str, Total] = {}
    for policy, reach in sorted(policies, key=lambda one: (one[0].created, one[0].name)):
        one = spent(policy, reach)
        total = totals.setdefault(policy.namespace, Total())
        excess = own_excess(one.cost, budgets.policy) or total.excess_with(one, budgets.namespace)
        if excess is None:
            total.add(one)
        else:
            found[policy.key] = excess
    return found
