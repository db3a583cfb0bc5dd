"""Which interfaces lead to other nodes, as the kernel routes."""

from __future__ import annotations

import time

import pytest

from agent.dataplane.uplinks import uplinks
from agent.kube.model import Network
from tests.kernel.kernel_state import network
from tests.lab.netns import Netns


@pytest.fixture
def routed(netns: Netns) -> Netns:
    netns.ip(
        "link add up0 type veth peer name up1",
        "link add up2 type veth peer name up3",
        *(f"link set up{n} up" for n in range(4)),
        "addr add 192.0.2.1/24 dev up0",
        "addr add 198.51.100.1/24 dev up2",
        "addr add 2001:db8::1/64 dev up0 nodad",
        "addr add 2001:db8:1::1/64 dev up2 nodad",
        "route add 10.1.0.0/16 via 192.0.2.2",
        "route add 10.2.0.0/16 nexthop via 192.0.2.2 nexthop via 198.51.100.2",
        "route add fd00:1::/64 via 2001:db8:1::2",
        "route add fd00:2::/64 nexthop via 2001:db8::2 nexthop via 2001:db8:1::2",
        "route add unreachable 10.3.0.0/16",
        "route add blackhole 10.4.0.0/16",
    )
    return netns


@pytest.mark.usefixtures("routed")
@pytest.mark.parametrize(
    ("networks", "found"),
    [
        ([], set()),
        (["192.0.2.9/32"], {"up0"}),
        (["10.1.2.3/32", "198.51.100.7/32"], {"up0", "up2"}),
        (["10.2.0.1/32"], {"up0", "up2"}),
        (["2001:db8::9/128"], {"up0"}),
        (["fd00:1::1/128"], {"up2"}),
        (["fd00:2::1/128"], {"up0", "up2"}),
        (["192.0.2.1/32", "2001:db8::1/128", "127.0.0.1/32", "::1/128"], set()),
        (["10.3.0.1/32", "10.4.0.1/32", "203.0.113.1/32", "fd00:9::1/128"], set()),
    ],
)
def test_an_uplink_is_where_a_route_leads(networks: list[str], found: set[str]) -> None:
    assert uplinks(map(network, networks)) == found


@pytest.mark.usefixtures("routed")
def test_thousands_of_networks_take_no_noticeable_time() -> None:
    networks = [Network(bytes((10, 1, n >> 8, n & 255)), 32) for n in range(3000)]
    began = time.process_time()
    assert uplinks(networks) == {"up0"}
    assert time.process_time() - began < 0.5
