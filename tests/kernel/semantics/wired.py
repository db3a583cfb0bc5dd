"""A network card on the pods' bridge: what comes in by it is the network outside, not a pod."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from agent.net import Family
from tests.lab.netns import Netns, own_link_local
from tests.lab.node import Layout, Node, mac_of

CARD = "nic0"
_HOST = 253


@dataclass(eq=False)
class Wired:
    """A host at the other end of the card, in the pods' own network."""

    node: Node
    netns: Netns
    name: str = "wired"

    @property
    def v4(self) -> str:
        return f"10.244.{self.node.index}.{_HOST}"

    @property
    def v6(self) -> str:
        return f"fd00:10:244:{self.node.index:x}::{_HOST:x}"

    @property
    def mac(self) -> str:
        return mac_of(self.v4)

    def address(self, family: Family) -> str:
        return self.v4 if family is Family.V4 else self.v6


@contextlib.contextmanager
def wired(node: Node) -> Iterator[Wired]:
    """Attach a card to a node's bridge: an interface whose lower end is not in the node's namespace."""
    assert node.layout is Layout.BRIDGE
    host = Wired(node, Netns("wired"))
    try:
        host.netns.ip(
            f"link add eth0 address {host.mac} type veth peer name port",
            *own_link_local("eth0", "fe80::fd"),
            "link set port up",
            "link set eth0 up",
            f"addr add {host.v4}/24 dev eth0",
            f"addr add {host.v6}/64 dev eth0 nodad",
            f"link add link port name {CARD} type macvlan mode passthru",
            f"link set {CARD} netns {node.netns.path}",
        )
        node.netns.ip(f"link set {CARD} up master cni0")
        node.netns.wait_for_link(CARD)
        host.netns.wait_for_link("eth0")
        host.netns.wait_for_address("eth0", host.v6)
        yield host
    finally:
        node.run("ip", "link", "del", CARD, check=False)
        host.netns.close()
