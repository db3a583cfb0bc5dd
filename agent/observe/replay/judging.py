"""Judging many packets by the specification: each is held against the few objects that matter to it."""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Callable, Mapping

from agent.kube.model import Key, Namespace, NetworkPolicy, Pod
from agent.net import Direction
from agent.spec.cluster import Cluster, closed_by_budget, owner
from agent.spec.evaluator import judge_direction
from agent.spec.verdict import Packet, Verdict

Budget = Callable[[str, str], Mapping[Key, object]]
"""Says which policies of a namespace a node does not enforce as written, and why: namespace, then node."""


def no_budget(_namespace: str, _node: str) -> Mapping[Key, object]:
    """Say that every policy is enforced as written."""
    return {}


def budget_of(cluster: Cluster) -> Budget:
    """Return what policies cost in a cluster that is known whole."""
    if cluster.limit is None:
        return no_budget
    return functools.cache(lambda namespace, node: closed_by_budget(cluster, namespace, node))


class Judge:
    """Gives the specification's verdict on packets in one cluster.

    The specification searches all objects for each question. What it looks for are the pods that claim an
    address, and the namespaces and policies of these: only they are shown to it. Whether an address is the
    pod's own node's is not asked: what was seen of such was left out where it was seen.
    """

    def __init__(self, cluster: Cluster, budget: Budget = no_budget) -> None:
        self._cluster = cluster
        self._budget = budget
        self._claimants: dict[bytes, list[Pod]] = defaultdict(list)
        for pod in cluster.pods.values():
            for address in pod.addresses:
                self._claimants[address].append(pod)
        self._policies: dict[str, dict[Key, NetworkPolicy]] = defaultdict(dict)
        for key, policy in cluster.policies.items():
            self._policies[key.namespace][key] = policy
        self._known: dict[Packet, Verdict] = {}

    def judge(self, packet: Packet) -> Verdict:
        """Return the verdict of a packet."""
        found = self._known.get(packet)
        if found is None:
            found = self._known[packet] = self._judge(packet)
        return found

    def owner(self, address: bytes) -> Pod | None:
        """Return the pod that an address belongs to."""
        claimants = self._claimants.get(address, ())
        return owner(Cluster({pod.key: pod for pod in claimants}, {}, {}, {}), address)

    def pod(self, key: Key) -> Pod | None:
        """Return a pod by its key."""
        return self._cluster.pods.get(key)

    def _judge(self, packet: Packet) -> Verdict:
        small = self._small((packet.source, packet.destination))
        halves = {
            direction: judge_direction(self._limited(small, end), direction, packet)
            for direction, end in (
                (Direction.EGRESS, packet.source),
                (Direction.INGRESS, packet.destination),
            )
        }
        return Verdict(packet, halves[Direction.EGRESS], halves[Direction.INGRESS])

    def _small(self, addresses: tuple[bytes, ...]) -> Cluster:
        pods = {pod.key: pod for address in addresses for pod in self._claimants.get(address, ())}
        names = {key.namespace for key in pods}
        namespaces: dict[str, Namespace] = {}
        policies: dict[Key, NetworkPolicy] = {}
        for name in names:
            if name in self._cluster.namespaces:
                namespaces[name] = self._cluster.namespaces[name]
            policies |= self._policies.get(name, {})
        return Cluster(pods, namespaces, policies, self._cluster.nodes)

    def _limited(self, small: Cluster, end: bytes) -> Cluster:
        """Return the cluster with what policies cost on the node of the pod at an end."""
        pod = owner(small, end)
        over = self._budget(pod.namespace, pod.node) if pod is not None else {}
        if not over:
            return small
        return Cluster(small.pods, small.namespaces, small.policies, small.nodes, lambda *_: over)
