"""A cluster's objects as they are, and whose an address is; every answer is a search, which is made once."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice

from msgspec.structs import replace
from netaddr import IPAddress, IPNetwork

from agent.kube.mode import NO_MODE, Mode, ModeSaid
from agent.kube.model import Key, Namespace, NetworkPolicy, Node, Object, Pod, default_deny
from agent.net import Family, Network, Protocol, address_text, family_of

Limit = Callable[
    [Sequence[tuple[NetworkPolicy, int]], Sequence[Pod], Collection[Namespace], tuple[Family, ...]],
    Mapping[Key, object],
]
"""Says which policies of a namespace a node does not enforce as written, each with what reads as the reason.

Takes those that reach the node, each with how many kinds of pod it selects there (a kind has labels of its
own), all pods that are judged, the namespaces, and the families of the addresses that pods have on the node.
"""


@dataclass(frozen=True)
class Cluster:
    """The objects that exist, each once. Nobody changes the mappings any more: what is found is kept."""

    pods: Mapping[Key, Pod]
    namespaces: Mapping[str, Namespace]
    policies: Mapping[Key, NetworkPolicy]
    nodes: Mapping[str, Node]
    limit: Limit | None = None
    """What policies may cost a node; None: anything."""
    owners: dict[bytes, Pod | None] = field(default_factory=dict, init=False, repr=False, compare=False)
    """What :func:`owner` has found."""
    sorted_policies: dict[str, list[NetworkPolicy]] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )
    """What :func:`in_force` has found for namespaces, sorted by key."""


def cluster_of(objects: Iterable[Object], limit: Limit | None = None) -> Cluster:
    """Return the cluster that objects make; of one key, the last holds.

    ``limit``: what policies may cost a node; None: anything.
    """
    pods: dict[Key, Pod] = {}
    namespaces: dict[str, Namespace] = {}
    policies: dict[Key, NetworkPolicy] = {}
    nodes: dict[str, Node] = {}
    for found in objects:
        if isinstance(found, Pod):
            pods[found.key] = found
        elif isinstance(found, Namespace):
            namespaces[found.name] = found
        elif isinstance(found, NetworkPolicy):
            policies[found.key] = found
        else:
            nodes[found.name] = found
    return Cluster(pods, namespaces, policies, nodes, limit)


def mode_in(cluster: Cluster, policy: NetworkPolicy) -> Mode:
    """Return the mode of a policy: its own annotation says so, else its namespace's, else it is enforced."""
    known = cluster.namespaces.get(policy.namespace)
    return policy.mode(NO_MODE if known is None else known.staging)


def enforcing(cluster: Cluster) -> Cluster:
    """Return the cluster as it would be if all that is audited were enforced."""
    policies = {
        key: replace(policy, staging=ModeSaid(Mode.ENFORCE))
        if mode_in(cluster, policy) is Mode.AUDIT
        else policy
        for key, policy in cluster.policies.items()
    }
    namespaces = {
        name: replace(one, staging=ModeSaid(Mode.ENFORCE)) if one.staging.mode is Mode.AUDIT else one
        for name, one in cluster.namespaces.items()
    }
    return dataclasses.replace(cluster, policies=policies, namespaces=namespaces)


def in_force(cluster: Cluster, namespace: str) -> list[NetworkPolicy]:
    """Return the policies of a namespace that are enforced or audited, sorted by key.

    Its DefaultDeny annotation counts as one that selects every pod, names Ingress, and has no rule.
    """
    if namespace not in cluster.sorted_policies:
        found = [p for p in written_in(cluster, namespace) if mode_in(cluster, p) is not Mode.DISABLED]
        cluster.sorted_policies[namespace] = sorted(found, key=lambda policy: policy.key)
    return cluster.sorted_policies[namespace]


def written_in(cluster: Cluster, namespace: str) -> list[NetworkPolicy]:
    """Return the policies of a namespace, whatever their mode."""
    found = [policy for policy in cluster.policies.values() if policy.namespace == namespace]
    known = cluster.namespaces.get(namespace)
    if known is not None and known.ingress_isolated:
        found.append(default_deny(namespace))
    return found


def closed_by_budget(cluster: Cluster, namespace: str, node: str) -> Mapping[Key, object]:
    """Return the policies of a namespace that are not enforced as written on a node, and why.

    Those count that select any pod there which has an address.
    """
    if cluster.limit is None or not node:
        return {}
    kinds: dict[str, Mapping[str, str]] = {}
    families: set[Family] = set()
    live = [pod for pod in cluster.pods.values() if pod.judged]
    for pod in live:
        mine = pod.namespace == namespace
        for address in pod.addresses if pod.node == node else ():
            family = family_of(address)
            # The first look for an address's owner is a search.
            if (mine or family not in families) and owner(cluster, address) is pod:
                families.add(family)
                if mine:
                    kinds[repr(sorted(pod.labels.items()))] = pod.labels
    reaching = (
        (policy, sum(policy.pod_selector.matches(dict(labels)) for labels in kinds.values()))
        for policy in in_force(cluster, namespace)
    )
    counted = [(policy, reach) for policy, reach in reaching if reach]
    return cluster.limit(counted, live, cluster.namespaces.values(), tuple(families))


def owner(cluster: Cluster, address: bytes) -> Pod | None:
    """Return the pod that an address belongs to, None when it is no pod's.

    Of the live pods that have it, the one that the node's network plugin gave it last; where that says
    nothing, the one that started last, then the one created last, then by uid. Pods on the host's network and
    finished pods own no address.
    """
    if address not in cluster.owners:
        claimants = [pod for pod in cluster.pods.values() if address in pod.addresses and pod.judged]
        cluster.owners[address] = max(claimants, key=lambda pod: claim(pod, address), default=None)
    return cluster.owners[address]


def claim(pod: Pod, address: bytes) -> tuple[int, str, str, str, str, str]:
    """Return what says which of two pods has an address: the greater one."""
    # Objects from files may have no times and no uid; the rest only makes the order total.
    return (pod.given_at(address), pod.started, pod.created, pod.uid, pod.namespace, pod.name)


def named_port(pod: Pod, name: str, protocol: Protocol) -> int | None:
    """Return a port by its name and protocol: the first in the pod's order, as Services resolve it."""
    for named in pod.ports:
        if named.name == name and named.protocol is protocol:
            return named.port
    return None


def own_node(cluster: Cluster, address: bytes, other: bytes) -> str:
    """Say for people that an address is the node's on which the other's pod runs; "" when it is not."""
    pod = owner(cluster, other)
    if pod is None or not pod.node:
        return ""
    node = cluster.nodes.get(pod.node)
    on_host = any(
        address in found.addresses and found.host_network and found.node == pod.node
        for found in cluster.pods.values()
    )
    named = node is not None and address in node.addresses
    # Tunnels and bridges have the first two addresses of a node's pod range.
    bridge = node is not None and any(ip_of(address) in _first_two(cidr) for cidr in node.pod_cidrs)
    if not (on_host or named or (bridge and owner(cluster, address) is None)):
        return ""
    return (
        f"{address_text(address)} is an address of node {pod.node}, on which {pod.key} runs: what a pod and "
        "its own node send each other is never policed"
    )


def _first_two(cidr: Network) -> list[IPAddress]:
    return list(islice(network_of(cidr), 2))


# The same few are asked for with each packet, and to make one takes as long as to hold a rule against it.
@functools.lru_cache(maxsize=1024)
def network_of(cidr: Network) -> IPNetwork:
    """Return a CIDR as netaddr has it: the specification asks a library, not the compiler's arithmetic."""
    return IPNetwork((int.from_bytes(cidr.address, "big"), cidr.prefix), version=int(cidr.family))


@functools.lru_cache(maxsize=1024)
def ip_of(address: bytes) -> IPAddress:
    """Return an address of 4 or 16 bytes as netaddr has it."""
    return IPAddress(int.from_bytes(address, "big"), int(family_of(address)))


def stranger_text(cluster: Cluster, address: bytes) -> str:
    """Say for people why an address is no pod's."""
    for pod in cluster.pods.values():
        if pod.host_network and address in pod.addresses:
            return (
                f"{address_text(address)} is its node's address to {pod.key}, which is on the host's network"
            )
    return f"{address_text(address)} is no pod's address"
