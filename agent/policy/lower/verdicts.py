"""What a program says of single connections, looked up in the program's own sets: some microseconds each.

:mod:`agent.spec` says the same by reading all objects. This is for looking through what a node has open.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from agent.net import AddressPort, Direction, NetworkMember, Protocol
from agent.policy.lower.lowered import LoweredPolicy, LoweredProgram, LoweredRule, SetId, SetKind
from agent.policy.program import PodId, PodProgram, PolicyId

_PROTOCOLS = {int(protocol): protocol for protocol in Protocol}
_NOTHING: frozenset[bytes] = frozenset()


class Sort(NamedTuple):
    """What decides whether a connection is allowed: its ends as the firewall sees them, and where it leads.

    Packed addresses of one family, an IANA protocol number, and the destination port, 0 where there is none.
    """

    source: bytes
    destination: bytes
    protocol: int
    port: int


class _Networks:
    """Networks of one family, of which the longest that has an address decides."""

    def __init__(self, members: Iterable[NetworkMember]) -> None:
        found: dict[int, dict[int, bool]] = {}
        for network, nomatch in members:
            bits = 8 * len(network.address) - network.prefix
            found.setdefault(bits, {})[int.from_bytes(network.address) >> bits] = not nomatch
        self._by_bits = sorted(found.items())

    def has(self, address: bytes) -> bool:
        number = int.from_bytes(address)
        for bits, networks in self._by_bits:
            found = networks.get(number >> bits)
            if found is not None:
                return found
        return False


class Verdicts:
    """The verdicts of a program as it is now, on connections from and to pods that it judges.

    Made on the thread that changes the program. It may then be asked on another: what changes meanwhile is
    seen or not, so that an answer given there is no more than a hint. Addresses that are closed though no pod
    has them are not judged here, nor is what never comes to the rules: the node's own connections.
    """

    def __init__(self, program: LoweredProgram) -> None:
        self._pods: dict[tuple[Direction, bytes], tuple[PodId, PodProgram]] = {
            (pod_id.direction, address): (pod_id, pod)
            for pod_id, pod in program.pods.items()
            for address in pod.addresses
        }
        self._policies: dict[PolicyId, LoweredPolicy] = program.policies.copy()
        self._sets = program.sets.copy()
        self._nodes = {
            size: _Networks(NetworkMember(n) for n in program.node_networks if len(n.address) == size)
            for size in (4, 16)
        }
        self._networks: dict[object, _Networks] = {}

    def addresses(self) -> set[bytes]:
        """Return the addresses of the pods that are judged."""
        return {address for _, address in self._pods}

    def denies(self, sort: Sort) -> PodId | None:
        """Return the pod, and the direction, whose policies deny a connection; None where none do."""
        source, destination = sort.source, sort.destination
        if source == destination:
            return None
        found = self._pods.get((Direction.EGRESS, source))
        if found is not None and not self._allowed(*found, destination, sort):
            return found[0]
        found = self._pods.get((Direction.INGRESS, destination))
        if (
            found is not None
            and not self._nodes[len(source)].has(source)
            and not self._allowed(*found, source, sort)
        ):
            return found[0]
        return None

    def _allowed(self, pod_id: PodId, pod: PodProgram, peer: bytes, sort: Sort) -> bool:
        v4 = len(peer) == 4
        for key in pod.policies:
            policy = self._policies.get(PolicyId(pod_id.direction, key))
            if policy is not None and any(
                self._rule_allows(rule, peer, sort) for rule in (policy.v4 if v4 else policy.v6)
            ):
                return True
        return False

    def _rule_allows(self, rule: LoweredRule, peer: bytes, sort: Sort) -> bool:
        if any(self._has_port(set_id, sort) for set_id in rule.folded):
            return True
        if rule.ports is None and rule.named is None:
            return self._is_peer(rule, peer)
        numbered = any(
            protocol == sort.protocol and first <= sort.port <= last
            for protocol, first, last in rule.ports or ()
        )
        return (numbered or any(self._has_port(one, sort) for one in rule.named or ())) and self._is_peer(
            rule, peer
        )

    def _is_peer(self, rule: LoweredRule, peer: bytes) -> bool:
        if rule.peers is None:
            return True
        for set_id in rule.peers:
            if set_id.kind is SetKind.NETWORKS:
                if self._within(set_id).has(peer):
                    return True
            elif peer in self._sets.get(set_id, _NOTHING):
                return True
        return bool(rule.blocks) and self._few(rule.blocks).has(peer)

    def _has_port(self, set_id: SetId, sort: Sort) -> bool:
        protocol = _PROTOCOLS.get(sort.protocol)
        if protocol is None:
            return False
        return AddressPort(sort.destination, protocol, sort.port) in self._sets.get(set_id, _NOTHING)

    def _within(self, set_id: SetId) -> _Networks:
        found = self._networks.get(set_id)
        if found is None:
            # The members of such a set never change.
            members = (one for one in self._sets.get(set_id, ()) if isinstance(one, NetworkMember))
            found = self._networks[set_id] = _Networks(members)
        return found

    def _few(self, blocks: tuple[NetworkMember, ...]) -> _Networks:
        found = self._networks.get(blocks)
        if found is None:
            found = self._networks[blocks] = _Networks(blocks)
        return found
