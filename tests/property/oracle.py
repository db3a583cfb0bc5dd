"""The second reading of the specification: objects in dictionaries, and a packet judged from them.

The first is ``agent/spec/evaluator.py``, which explains what it says. This one is slow and obvious on
purpose, shares nothing with it or the compiler but the model's types, and is the only other one in the tests.
"""

from __future__ import annotations

import ipaddress
from functools import lru_cache

from agent.kube.events import Delete, Event, Invalid, Upsert
from agent.kube.mode import Mode
from agent.kube.model import (
    IPBlock,
    Key,
    Kind,
    Namespace,
    NetworkPolicy,
    Node,
    Operator,
    Peer,
    Pod,
    Port,
    Requirement,
    Rule,
    Selector,
)
from agent.net import Direction
from agent.spec.verdict import Packet
from tests.property.words import HERE


class World:
    """The objects that exist."""

    def __init__(self) -> None:
        self.pods: dict[Key, Pod] = {}
        self.namespaces: dict[str, Namespace] = {}
        self.nodes: dict[str, Node] = {}
        self.good: dict[Key, NetworkPolicy] = {}
        self.invalid: dict[tuple[Kind, Key], Invalid] = {}
        self._owners: dict[bytes, Pod | None] = {}
        """What :meth:`owner` has found since the last event."""
        self._isolating: dict[tuple[Key, Direction, Mode], list[NetworkPolicy]] = {}
        """The same of :meth:`isolating`."""

    def take(self, event: Event) -> None:
        self._owners.clear()
        self._isolating.clear()
        if isinstance(event, Invalid):
            self.invalid[event.kind, event.key] = event
        elif isinstance(event, Delete):
            self.invalid.pop((event.kind, event.key), None)
            self._delete(event)
        elif isinstance(event, Upsert):
            found = event.object
            self.invalid.pop((event.kind, found.key), None)
            if isinstance(found, Pod):
                self.pods[found.key] = found
            elif isinstance(found, Namespace):
                self.namespaces[found.name] = found
            elif isinstance(found, NetworkPolicy):
                self.good[found.key] = found
            else:
                self.nodes[found.name] = found

    def _delete(self, event: Delete) -> None:
        if event.kind is Kind.POD:
            self.pods.pop(event.key, None)
        elif event.kind is Kind.NAMESPACE:
            self.namespaces.pop(event.key.name, None)
        elif event.kind is Kind.NODE:
            self.nodes.pop(event.key.name, None)
        else:
            self.good.pop(event.key, None)

    def events(self) -> list[Event]:
        """Return events that tell a newcomer of everything there is."""
        found: list[Event] = [Upsert(Kind.POD, pod) for pod in self.pods.values()]
        found += [Upsert(Kind.NAMESPACE, namespace) for namespace in self.namespaces.values()]
        found += [Upsert(Kind.NODE, node) for node in self.nodes.values()]
        found += [Upsert(Kind.POLICY, policy) for policy in self.good.values()]
        return found

    def deletes(self) -> list[Event]:
        """Return events that delete everything there is."""
        found: list[Event] = [Delete(Kind.POD, key) for key in self.pods]
        found += [Delete(Kind.NAMESPACE, Key("", name)) for name in self.namespaces]
        found += [Delete(Kind.NODE, Key("", name)) for name in self.nodes]
        found += [Delete(Kind.POLICY, key) for key in self.good]
        return found + [Delete(kind, key) for kind, key in self.invalid]

    def addresses(self) -> set[bytes]:
        return {address for pod in self.pods.values() for address in pod.addresses}

    def owner(self, address: bytes) -> Pod | None:
        if address not in self._owners:
            self._owners[address] = self._claimed(address)
        return self._owners[address]

    def _claimed(self, address: bytes) -> Pod | None:
        claims = [
            pod
            for pod in self.pods.values()
            if address in pod.addresses and not pod.finished and not pod.host_network
        ]
        return max(
            claims,
            key=lambda p: (p.given_at(address), p.started, p.created, p.uid, p.namespace, p.name),
            default=None,
        )

    def in_force(self) -> list[NetworkPolicy]:
        found = list(self.good.values())
        found += [
            event.closed
            for (kind, key), event in self.invalid.items()
            if kind is Kind.POLICY and event.closed is not None and key not in self.good
        ]
        found += [
            NetworkPolicy(namespace.name, "annotation/", ingress=())
            for namespace in self.namespaces.values()
            if namespace.ingress_isolated
        ]
        return found

    def mode(self, policy: NetworkPolicy) -> Mode:
        """Return a policy's mode: its own, else its namespace's, else it is enforced."""
        namespace = self.namespaces.get(policy.namespace)
        for said in (policy.staging.mode, None if namespace is None else namespace.staging.mode):
            if said is not None:
                return said
        return Mode.ENFORCE

    def isolating(self, pod: Pod, direction: Direction, mode: Mode = Mode.ENFORCE) -> list[NetworkPolicy]:
        """Return the policies of a mode that select one of the pods in a direction."""
        asked = pod.key, direction, mode
        if asked not in self._isolating:
            self._isolating[asked] = [
                policy
                for policy in self.in_force()
                if self.mode(policy) is mode
                and policy.namespace == pod.namespace
                and matches(policy.pod_selector, pod.labels)
                and policy.rules(direction) is not None
            ]
        return self._isolating[asked]

    def bypasses(self, address: bytes) -> bool:
        """Whether an address is another node's; what this one sends its pods is not judged anyway."""
        for node in self.nodes.values():
            if node.name == HERE:
                continue
            if address in node.addresses:
                return True
            for cidr in node.pod_cidrs:
                hosts = list(_slice(ipaddress.ip_network((cidr.address, cidr.prefix))))
                if ipaddress.ip_address(address) in hosts:
                    return True
        return False

    def allows(self, direction: Direction, probe: Packet, *, nodes: bool = False) -> bool:
        """Whether a packet passes in one direction on the node HERE."""
        if direction is Direction.INGRESS:
            address, peer = probe.destination, probe.source
        else:
            address, peer = probe.source, probe.destination
        pod = self.owner(address)
        if address == peer or pod is None or pod.node != HERE:
            return True
        policies = self.isolating(pod, direction)
        if not policies or (nodes and direction is Direction.INGRESS and self.bypasses(peer)):
            return True
        return self._any_allows(policies, direction, peer, probe)

    def would_deny(self, direction: Direction, probe: Packet, *, nodes: bool = False) -> bool:
        """Whether a packet passes in one direction, and would not if audited policies were enforced."""
        if direction is Direction.INGRESS:
            address, peer = probe.destination, probe.source
        else:
            address, peer = probe.source, probe.destination
        pod = self.owner(address)
        if address == peer or pod is None or pod.node != HERE or self.isolating(pod, direction):
            return False
        if nodes and direction is Direction.INGRESS and self.bypasses(peer):
            return False
        audited = self.isolating(pod, direction, Mode.AUDIT)
        return bool(audited) and not self._any_allows(audited, direction, peer, probe)

    def _any_allows(
        self, policies: list[NetworkPolicy], direction: Direction, peer: bytes, probe: Packet
    ) -> bool:
        return any(
            self._rule_allows(policy.namespace, rule, peer, probe)
            for policy in policies
            for rule in policy.rules(direction) or ()
        )

    def _rule_allows(self, namespace: str, rule: Rule, peer: bytes, probe: Packet) -> bool:
        return (not rule.peers or any(self._peer_matches(namespace, p, peer) for p in rule.peers)) and (
            not rule.ports or any(self._port_matches(p, probe) for p in rule.ports)
        )

    def _peer_matches(self, namespace: str, peer: Peer, address: bytes) -> bool:
        if peer.block is not None:
            return block_holds(peer.block, address)
        pod = self.owner(address)
        if pod is None or (peer.pod_selector is None and peer.namespace_selector is None):
            return False
        if peer.namespace_selector is None:
            if pod.namespace != namespace:
                return False
        else:
            known = self.namespaces.get(pod.namespace)
            if known is None or not matches(peer.namespace_selector, known.labels):
                return False
        return peer.pod_selector is None or matches(peer.pod_selector, pod.labels)

    def _port_matches(self, port: Port, probe: Packet) -> bool:
        if port.protocol != probe.protocol:
            return False
        if port.port is None:
            return True
        if isinstance(port.port, int):
            return port.port <= probe.port <= (port.port if port.end is None else port.end)
        pod = self.owner(probe.destination)
        return pod is not None and any(
            (named.name, named.protocol, named.port) == (port.port, port.protocol, probe.port)
            for named in pod.ports
        )


def _slice(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> list[object]:
    return [network[i] for i in range(min(2, network.num_addresses))]


def matches(selector: Selector, labels: dict[str, str]) -> bool:
    return all(_holds(requirement, labels) for requirement in selector.requirements)


def _holds(requirement: Requirement, labels: dict[str, str]) -> bool:
    key, operator, values = requirement
    match operator:
        case Operator.IN:
            return key in labels and labels[key] in values
        case Operator.NOT_IN:
            return key not in labels or labels[key] not in values
        case Operator.EXISTS:
            return key in labels
        case Operator.DOES_NOT_EXIST:
            return key not in labels


@lru_cache(maxsize=1 << 16)
def block_holds(block: IPBlock, address: bytes) -> bool:
    one = ipaddress.ip_address(address)
    cidr, *excepts = (ipaddress.ip_network((n.address, n.prefix)) for n in (block.cidr, *block.excepts))
    return one in cidr and not any(one in network for network in excepts)
