"""The verdict on a packet, read from the program alone as ``agent.policy.program`` says it.

It knows no set. Which pods a predicate means, and which pod has a named port, is asked of the plain world.
"""

from __future__ import annotations

from agent.net import Direction
from agent.policy.program import PodProgram, PolicyId, Predicate, Program, Rule, Verdict
from agent.spec.verdict import Packet
from tests.property.networks import lies_in
from tests.property.oracle import World, block_holds, matches


def verdict(program: Program, world: World, direction: Direction, probe: Packet) -> Verdict:
    """Return what becomes of a packet in one direction on the program's node."""
    ingress = direction is Direction.INGRESS
    local, peer = (probe.destination, probe.source) if ingress else (probe.source, probe.destination)
    judging = [
        pod
        for pod_id, pod in program.pods.items()
        if pod_id.direction is direction and local in pod.addresses
    ]
    closed = local in program.closed[direction]
    if local == peer or not (judging or closed):
        return Verdict.ALLOW
    if ingress and any(lies_in(peer, network) for network in program.node_networks):
        return Verdict.ALLOW
    if closed:
        assert not judging
        return Verdict.DENY
    (pod,) = judging
    return _asked(program, pod, world, direction, probe)


def would_deny(program: Program, world: World, direction: Direction, probe: Packet) -> bool:
    """Return whether a packet passes in one direction, and audited policies would deny it."""
    ingress = direction is Direction.INGRESS
    local, peer = (probe.destination, probe.source) if ingress else (probe.source, probe.destination)
    audited = [
        pod
        for pod_id, pod in program.audited.items()
        if pod_id.direction is direction and local in pod.addresses
    ]
    if local == peer or not audited:
        return False
    if ingress and any(lies_in(peer, network) for network in program.node_networks):
        return False
    (pod,) = audited
    assert pod.default is Verdict.ALLOW
    denying = pod._replace(default=Verdict.DENY)
    return _asked(program, denying, world, direction, probe) is Verdict.DENY


def _asked(program: Program, pod: PodProgram, world: World, direction: Direction, probe: Packet) -> Verdict:
    """Return what the tiers of a pod say, in order."""
    peer = probe.source if direction is Direction.INGRESS else probe.destination
    for tier in pod.tiers:
        for policy in tier.policies:
            for rule in program.policies[PolicyId(direction, policy)].rules:
                if _matches(rule, world, peer, probe):
                    return rule.action
    return pod.default


def _matches(rule: Rule, world: World, peer: bytes, probe: Packet) -> bool:
    return _names_peer(rule, world, peer) and _names_port(rule, world, probe)


def _names_peer(rule: Rule, world: World, peer: bytes) -> bool:
    if rule.peers is None:
        return True
    return any(_means(predicate, world, peer) for predicate in rule.peers) or any(
        block_holds(block, peer) for block in rule.blocks
    )


def _means(predicate: Predicate, world: World, address: bytes) -> bool:
    pod = world.owner(address)
    if pod is None or not matches(predicate.pods, pod.labels):
        return False
    if predicate.namespaces is None:
        return pod.namespace == predicate.namespace
    namespace = world.namespaces.get(pod.namespace)
    return namespace is not None and matches(predicate.namespaces, namespace.labels)


def _names_port(rule: Rule, world: World, probe: Packet) -> bool:
    if rule.ports is None:
        return True
    if any(p.protocol == probe.protocol and p.first <= probe.port <= p.last for p in rule.ports):
        return True
    pod = world.owner(probe.destination)
    return pod is not None and any(
        (port.protocol, port.port) == (probe.protocol, probe.port)
        and (port.name, port.protocol) in rule.names
        for port in pod.ports
    )
