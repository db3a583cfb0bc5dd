"""Whether this machine's kernel lets a table of nftables belong to a program, as Linux does from 6.9 on."""

from __future__ import annotations

from agent.kernel import nf_owned
from agent.kernel.netlink import NetlinkSocket
from tests.lab.node import Node


def held(node: Node) -> bool:
    """Whether what an agent makes there belongs to it for as long as it runs."""
    with node.netns.entered(), NetlinkSocket() as netlink:
        return nf_owned.flags(netlink) != 0
