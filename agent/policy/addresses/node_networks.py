"""The networks of other nodes, which may reach every pod when the setting says so."""

from __future__ import annotations

from collections import Counter

from agent.kube.model import Node
from agent.net import Network


class NodeNetworks:
    """Keeps the networks of all nodes but this one, whose traffic with its pods is never policed anyway.

    The network address of this node's own pods leads to the bridge that they are on: were it among these,
    pods there could claim any node's address. Handles: a node added, changed and deleted, known or not;
    nodes that share an address.
    """

    def __init__(self, own: str) -> None:
        self._own = own
        self._nodes: dict[str, frozenset[Network]] = {}
        self._users: Counter[Network] = Counter()
        self.networks: frozenset[Network] = frozenset()
        """All networks; the same object as long as they do not change."""

    def set_node(self, name: str, node: Node | None) -> None:
        """Take a node (None: it is gone)."""
        if name == self._own:
            return
        old = self._nodes.pop(name, frozenset())
        new = frozenset[Network]()
        if node is not None:
            new = self._nodes[name] = node_networks(node)
        if new == old:
            return
        self._users.update(new - old)
        self._users.subtract(old - new)
        self._users += Counter()
        networks = frozenset(self._users)
        if networks != self.networks:
            self.networks = networks

    def sizes(self) -> dict[str, int]:
        return {"nodes": len(self._nodes), "node networks": len(self._users)}


def node_networks(node: Node) -> frozenset[Network]:
    """Return a node's addresses, and each podCIDR's network and first address (tunnel, bridge)."""
    addresses = set(node.addresses)
    for address, prefix in node.pod_cidrs:
        addresses.add(address)
        if prefix < 8 * len(address):
            addresses.add((int.from_bytes(address, "big") + 1).to_bytes(len(address), "big"))
    return frozenset(Network(address, 8 * len(address)) for address in addresses)
