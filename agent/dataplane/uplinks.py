"""The interfaces behind which other nodes are."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from agent.kube.model import Network, address_text

_UNICAST = 1
"""RTN_UNICAST (rtnetlink(7)): not an address of this host."""


def uplinks(networks: Iterable[Network]) -> frozenset[str]:
    """Return the interfaces by which this host reaches networks, loopback aside."""
    wanted = list(networks)
    if not wanted:
        return frozenset()
    found: set[str] = set()
    with IPRoute() as route:
        names: dict[int, str] = {}
        for network in wanted:
            family = socket.AF_INET if len(network.address) == 4 else socket.AF_INET6
            try:
                answers = route.route("get", dst=address_text(network.address), family=family)
            except NetlinkError:
                continue  # no route: nothing can come from there either
            for answer in answers:
                index = answer.get_attr("RTA_OIF")
                if answer["type"] != _UNICAST or index is None:
                    continue
                if index not in names:
                    names[index] = next(iter(route.get_links(index))).get_attr("IFLA_IFNAME")
                found.add(names[index])
    return frozenset(found - {"lo"})
