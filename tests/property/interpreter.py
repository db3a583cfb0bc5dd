"""What a program says of a packet, read straight from the definitions in ``agent.policy.program``."""

from __future__ import annotations

from agent.net import AddressPort, Direction, NetworkMember, Protocol, family_of
from agent.policy.lower.lowered import LoweredProgram, LoweredRule, SetId, SetKind
from agent.policy.program import PolicyId
from agent.spec.verdict import Packet
from tests.property.networks import in_networks, lies_in

_KNOWN = frozenset(Protocol)


def program_allows(program: LoweredProgram, direction: Direction, probe: Packet) -> bool:
    """Whether a packet passes in one direction on the program's node."""
    if direction is Direction.INGRESS:
        address, peer = probe.destination, probe.source
    else:
        address, peer = probe.source, probe.destination
    closing = program.known is not None and address not in program.known
    if closing and any(lies_in(address, n) for n in program.pod_networks.networks):
        return False
    if address == peer:
        return True
    judging = [pod for (d, _), pod in program.pods.items() if d is direction and address in pod.addresses]
    if not judging and address not in program.closed[direction]:
        return True
    if direction is Direction.INGRESS and any(lies_in(peer, n) for n in program.node_networks):
        return True
    family = family_of(address)
    return any(
        _rule_allows(program, rule, peer, probe)
        for pod in judging
        for policy in pod.policies
        for rule in program.policies[PolicyId(direction, policy)].rules(family)
    )


def program_would_deny(program: LoweredProgram, direction: Direction, probe: Packet) -> bool:
    """Whether a packet of an audited pod passes in one direction, and its policies would deny it."""
    if direction is Direction.INGRESS:
        address, peer = probe.destination, probe.source
    else:
        address, peer = probe.source, probe.destination
    family = family_of(address)
    asked = [p for (d, _), p in program.audited.items() if d is direction and address in p.addresses]
    if address == peer or not asked:
        return False
    if direction is Direction.INGRESS and any(lies_in(peer, n) for n in program.node_networks):
        return False
    return not any(
        _rule_allows(program, rule, peer, probe)
        for policy in asked[0].policies
        for rule in program.policies[PolicyId(direction, policy)].rules(family)
    )


def _rule_allows(program: LoweredProgram, rule: LoweredRule, peer: bytes, probe: Packet) -> bool:
    if any(_has_port(program, set_id, probe) for set_id in rule.folded):
        return True
    if (
        rule.peers is not None
        and not any(_has_peer(program, set_id, peer) for set_id in rule.peers)
        and not in_networks(rule.blocks, peer)
    ):
        return False
    if rule.ports is None or rule.named is None:
        assert rule.ports is None
        assert rule.named is None
        return True
    return any(
        first <= probe.port <= last for protocol, first, last in rule.ports if protocol == probe.protocol
    ) or any(_has_port(program, set_id, probe) for set_id in rule.named)


def _has_port(program: LoweredProgram, set_id: SetId, probe: Packet) -> bool:
    assert set_id.kind is SetKind.ADDRESS_PORTS
    if probe.protocol not in _KNOWN:
        return False
    return AddressPort(probe.destination, Protocol(probe.protocol), probe.port) in program.sets[set_id]


def _has_peer(program: LoweredProgram, set_id: SetId, peer: bytes) -> bool:
    members = program.sets[set_id]
    if set_id.kind is SetKind.ADDRESSES:
        return peer in members
    assert set_id.kind is SetKind.NETWORKS
    return in_networks((m for m in members if isinstance(m, NetworkMember)), peer)
