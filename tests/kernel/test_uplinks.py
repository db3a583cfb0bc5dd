"""Which interfaces lead to other nodes, as the kernel routes."""

from __future__ import annotations

import time

import pytest

from agent.kernel.uplinks import uplinks
from agent.net import Network
from tests.build import network
from tests.lab.cluster import wait_until
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
    for name, address in (("up0", "2001:db8::1"), ("up2", "2001:db8:1::1")):
        netns.wait_for_address(name, address)
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


NODES = frozenset(Network(bytes((10, 1, n >> 8, n & 255)), 32) for n in range(5000))


@pytest.mark.usefixtures("routed")
def test_thousands_of_networks_take_no_noticeable_time_and_none_when_nothing_changed() -> None:
    began = time.process_time()
    assert uplinks(NODES) == {"up0"}
    assert time.process_time() - began < 0.5
    began = time.process_time()
    for _ in range(20):
        assert uplinks(NODES) == {"up0"}
    assert (time.process_time() - began) / 20 < 0.005
    began = time.process_time()
    assert uplinks(NODES | {network("198.51.100.7/32")}) == {"up0", "up2"}
    assert time.process_time() - began < 0.05


def become(nodes: frozenset[Network], found: set[str]) -> None:
    """Wait until these are the uplinks: after one question no other is asked for a hundred times as long."""
    wait_until(lambda: uplinks(nodes) == found)


def test_changes_of_routes_are_followed(routed: Netns) -> None:
    nodes = frozenset({network("10.1.2.3/32")})
    assert uplinks(nodes) == {"up0"}
    routed.ip("route replace 10.1.0.0/16 via 198.51.100.2")
    become(nodes, {"up2"})
    routed.ip("route add 10.1.2.3/32 via 192.0.2.2 table 7", "rule add to 10.1.2.3 table 7")
    become(nodes, {"up0"})


@pytest.mark.usefixtures("routed")
def test_each_namespace_has_its_own() -> None:
    nodes = frozenset({network("10.1.2.3/32")})
    assert uplinks(nodes) == {"up0"}
    other = Netns("other")
    try:
        with other.entered():
            assert uplinks(nodes) == frozenset()
        assert uplinks(nodes) == {"up0"}
        assert uplinks(()) == frozenset()
    finally:
        other.close()


def test_a_bridge_with_pods_on_it_is_no_uplink_nor_what_is_stacked_on_it(netns: Netns) -> None:
    netns.ip(
        "link add br0 type bridge",
        "link add bond0 type veth peer name wire",
        "link add link br0 name br0.7 type macvlan",
        *(f"link set {name} up" for name in ("br0", "br0.7", "bond0", "wire")),
        "addr add 192.0.2.1/24 dev br0",
        "addr add 198.51.100.1/24 dev br0.7",
    )
    nodes = frozenset({network("192.0.2.9/32"), network("198.51.100.9/32")})
    assert uplinks(nodes) == {"br0", "br0.7"}
    netns.ip("link set bond0 master br0")
    become(nodes, set())
