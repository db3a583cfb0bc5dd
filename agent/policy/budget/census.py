"""How many members sets can have at most: from what labels tell, without matching a selector with any pod."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from agent.kube.model import Key, Namespace, NetworkPolicy, Pod
from agent.net import Family
from agent.policy.budget.account import over_budget
from agent.policy.budget.excess import Excess
from agent.policy.budget.limits import Budgets
from agent.policy.graph import PodRecord, with_one
from agent.policy.lower.cost import Asked, Content
from agent.policy.lower.named import NamedPorts
from agent.policy.peers.active_selectors import ActiveSelectors
from agent.policy.peers.identities import Identities
from agent.policy.program import Predicate


class Census:
    """Counts for each set the addresses of pods that it may hold, from above.

    Of a selector that one requirement demands a label for, the pods that have it count; of another, all pods
    of the namespaces. A pod counts once for each selector of a set, as each of them is matched with it. So
    what a count allows bounds the members and the matching.
    """

    def __init__(
        self,
        groups: Identities,
        terms: ActiveSelectors,
        named: NamedPorts,
        families: Callable[[], tuple[Family, ...]],
    ) -> None:
        self._identities = groups
        self._selectors = terms
        self._named = named
        self._families = families
        self._known: dict[Content, int] = {}

    def most(self, asked: Asked) -> int:
        """Return how many members a set has at most. Of networks, and of ports of the node's own pods: 0."""
        names, predicates = asked.content.names, asked.content.predicates
        if not predicates and not (names and asked.egress):
            return 0
        if (Family.V6 if asked.v6 else Family.V4) not in self._families():
            return 0
        found = self._known.get(asked.content)
        if found is None:
            found = self._known[asked.content] = self._count(asked.content)
        return found

    def forget(self) -> None:
        """Count anew from now on."""
        self._known.clear()

    def _count(self, content: Content) -> int:
        names = content.names
        pods = sum(map(self._pods, content.predicates))
        if not names:
            return pods
        ports = sum(map(self._named.number, names))
        if not content.predicates:
            return ports
        return max(pods, min(ports, pods * len(names)))

    def _pods(self, predicate: Predicate) -> int:
        groups = self._identities
        if predicate.namespaces is None:
            there = groups.pods.get(predicate.namespace or "", 0)
        else:
            namespaces = self._selectors.namespaces_like(predicate.namespaces)
            there = (
                groups.total if namespaces is None else sum(groups.pods.get(name, 0) for name in namespaces)
            )
        found = groups.like(predicate.pods)
        if found is None or found.number >= there:
            # There are as many pods as groups at least.
            return there
        return min(there, sum(len(group.pods) for group in found.things))


def census_of(pods: Iterable[Pod], namespaces: Iterable[Namespace], families: tuple[Family, ...]) -> Census:
    """Return the census of a cluster as it is, of its live pods; ``families``: those of the node's own."""
    groups, named = Identities(), NamedPorts()
    terms = ActiveSelectors(groups)
    for namespace in namespaces:
        terms.set_namespace(namespace.name, namespace.labels)
    for pod in pods:
        group, _ = groups.join(pod.namespace, pod.labels)
        record = PodRecord(pod, group, local=False)
        group.pods = with_one(group.pods, record)
        groups.count(pod.namespace, 1)
        named.add_pod(record)
    return Census(groups, terms, named, lambda: families)


def over_budget_in(
    budgets: Budgets,
    policies: Iterable[tuple[NetworkPolicy, int]],
    pods: Iterable[Pod],
    namespaces: Iterable[Namespace],
    families: tuple[Family, ...],
) -> dict[Key, Excess]:
    """Return which policies are over budget in a cluster that nobody keeps an index of, and why.

    See :func:`agent.policy.budget.account.over_budget` and :func:`census_of`.
    """
    return over_budget(policies, budgets, census_of(pods, namespaces, families).most)
