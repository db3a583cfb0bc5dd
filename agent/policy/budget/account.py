"""What the policies of a namespace need together, and which of them are over budget."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from agent.kube.model import Key, NetworkPolicy
from agent.policy.budget.excess import MEMBERS, Excess, own_excess
from agent.policy.budget.limits import Budgets, NamespaceBudget
from agent.policy.lower.cost import Asked, Cost, cost_of, rules_with_pods


class Wanted:
    """A set that policies of a namespace ask for: how many ask, and for how many of these there is room.

    It is told from others by itself. What it is of is large, and is compared once for each policy.
    ``members``: how many it had at most when they were counted last.
    """

    __slots__ = ("asked", "members", "used", "what")

    def __init__(self, what: Asked) -> None:
        self.what = what
        self.asked = 0
        self.used = 0
        self.members = 0


class Wants:
    """The sets that the policies of a namespace ask for, each once."""

    __slots__ = ("_known",)

    def __init__(self) -> None:
        self._known: dict[Asked, Wanted] = {}

    def take(self, cost: Cost[Asked]) -> Cost[Wanted]:
        """Return a cost with its sets as the policies share them, one policy more asking for each."""
        sets: list[Wanted] = []
        for what in cost.sets:
            found = self._known.get(what)
            if found is None:
                found = self._known[what] = Wanted(what)
            found.asked += 1
            sets.append(found)
        return Cost(cost.rules, frozenset(sets), cost.networks, cost.directions, cost.selectors)

    def hold(self, cost: Cost[Wanted]) -> None:
        """Have one policy more ask for the sets of a cost that :meth:`take` returned."""
        for found in cost.sets:
            found.asked += 1

    def release(self, cost: Cost[Wanted]) -> None:
        """Have one policy less ask for the sets of a cost that :meth:`take` returned."""
        for found in cost.sets:
            found.asked -= 1
            if not found.asked:
                del self._known[found.what]

    def __len__(self) -> int:
        return len(self._known)


class Spent(NamedTuple):
    """A policy that selects pods of a node: its place among those of its namespace, and what it costs."""

    created: str
    name: str
    cost: Cost[Wanted]
    rules: int


def spent(policy: NetworkPolicy, reach: int, cost: Cost[Wanted]) -> Spent:
    """Return what a policy that selects ``reach`` kinds of pod of a node costs it."""
    return Spent(policy.created, policy.name, cost, rules_with_pods(cost, reach))


class Total:
    """What the policies of a namespace that are enforced as written cost together."""

    __slots__ = ("members", "networks", "policies", "rules", "selectors", "sets")

    def __init__(self) -> None:
        self.members = 0
        self.policies = 0
        self.rules = 0
        self.networks = 0
        self.selectors = 0
        self.sets: set[Wanted] = set()

    def excess_with(self, one: Spent, budget: NamespaceBudget) -> Excess | None:
        """Return what would be more than the namespace may have, were one more enforced; None: nothing."""
        for what, needed, limit in (
            ("policies", self.policies + 1, budget.policies),
            ("rules", self.rules + one.rules, budget.rules),
            ("networks", self.networks + one.cost.networks, budget.networks),
            ("selectors", self.selectors + one.cost.selectors, budget.selectors),
        ):
            if needed > limit:
                return Excess(what, needed, limit, whole=True)
        # Sets in both are found without hashing any of them anew.
        sets = len(self.sets) + len(one.cost.sets) - len(one.cost.sets & self.sets)
        return Excess("sets", sets, budget.sets, whole=True) if sets > budget.sets else None

    def add(self, one: Spent) -> None:
        self.policies += 1
        self.rules += one.rules
        self.networks += one.cost.networks
        self.selectors += one.cost.selectors
        for found in one.cost.sets:
            if not found.used:
                self.sets.add(found)
                self.members += found.members
            found.used += 1

    def remove(self, one: Spent) -> None:
        self.policies -= 1
        self.rules -= one.rules
        self.networks -= one.cost.networks
        self.selectors -= one.cost.selectors
        for found in one.cost.sets:
            found.used -= 1
            if not found.used:
                self.sets.remove(found)
                self.members -= found.members


Most = Callable[[Asked], int]
"""Says how many members a set has at most."""


def no_members(_: Asked) -> int:
    return 0


def count_members(cost: Cost[Wanted], budgets: Budgets, most: Most) -> int:
    """Count how many members the sets of a policy have at most; no further than its budgets.

    What is counted of sets that are in use stays: their sum is in a :class:`Total`.
    """
    members = 0
    enough = min(budgets.policy.members, budgets.namespace.members)
    for found in cost.sets:
        if not found.used:
            found.members = most(found.what)
        members += found.members
        if members > enough:
            # How far they were counted depends on where it began.
            return enough + 1
    return members


def members_excess(one: Spent, members: int, total: Total, budgets: Budgets) -> Excess | None:
    """Return whether a policy's members, as counted, are more than it or its namespace may have."""
    own, whole = budgets.policy.members, budgets.namespace.members
    if members > min(own, whole):
        return Excess(MEMBERS, members, min(own, whole), whole=whole < own)
    together = total.members + sum(found.members for found in one.cost.sets if not found.used)
    return Excess(MEMBERS, together, whole, whole=True) if together > whole else None


def over_budget(
    policies: Iterable[tuple[NetworkPolicy, int]], budgets: Budgets, most: Most = no_members
) -> dict[Key, Excess]:
    """Return which policies are not enforced as written on a node, and why.

    ``policies``: those that select pods of the node, each with how many kinds of pod it selects there. The
    oldest of a namespace come first, by name where they are of one time. One for which there is no room is
    passed over, and those after it may still fit.
    """
    found: dict[Key, Excess] = {}
    accounts: dict[str, tuple[Wants, Total]] = {}
    for policy, reach in sorted(policies, key=lambda one: (one[0].created, one[0].name)):
        wants, total = accounts.setdefault(policy.namespace, (Wants(), Total()))
        one = spent(policy, reach, wants.take(cost_of(policy, budgets.policy.selectors)))
        excess = own_excess(one.cost, budgets.policy) or total.excess_with(one, budgets.namespace)
        if excess is None:
            members = count_members(one.cost, budgets, most)
            excess = members_excess(one, members, total, budgets)
        if excess is None:
            total.add(one)
        else:
            found[policy.key] = excess
    return found
