"""Which addresses of this node its pods are known to have, where those that nobody has are closed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from agent.kube.model import Node
from agent.net import Network
from agent.policy.graph import PodIdentity, PodRecord
from agent.policy.program import NO_NETWORKS, PodNetworks


class Moves(NamedTuple):
    """How the known addresses change in a step. One that passes from a pod to another is in both."""

    added: set[bytes]
    removed: set[bytes]


def moves(
    before: Mapping[bytes, PodRecord | None],
    owners: Mapping[bytes, PodRecord],
    departed: Mapping[bytes, set[PodIdentity]],
) -> Moves:
    """Return how the known addresses change, given who owned those that changed hands.

    ``before``: the owners of before; ``departed``: the pods that lost an address, whoever has it now. Known
    are the addresses of live pods of this node, isolated or not: not those of finished pods, nor of pods that
    use their node's network.
    """
    found = Moves(set(), set())
    for address, old in before.items():
        new = owners.get(address)
        was, is_now = old is not None and old.local, new is not None and new.local
        kept = new is not None and departed.get(address, {new.identity}) == {new.identity}
        if was and not (is_now and kept):
            found.removed.add(address)
        if is_now and not (was and kept):
            found.added.add(address)
    return found


class OwnNetworks:
    """The networks of this node's pods: those that a setting gives, else those of the Node object.

    Handles: this node added, changed and deleted. What was known of it stays when it is deleted, or tells no
    networks any more: nothing opens by that.
    """

    def __init__(self, own: str, given: frozenset[Network]) -> None:
        self._own = own
        self._given = bool(given)
        # What a person gives may be the same on all nodes.
        self.networks = PodNetworks(given, exclusive=False) if given else NO_NETWORKS

    def set_node(self, name: str, node: Node | None) -> None:
        """Take a node (None: it is gone)."""
        if name == self._own and not self._given and node is not None and node.pod_cidrs:
            found = PodNetworks(frozenset(node.pod_cidrs), exclusive=True)
            if found != self.networks:
                self.networks = found
