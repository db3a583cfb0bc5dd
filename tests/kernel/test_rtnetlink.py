"""What is read of interfaces, addresses and routes, held against what pyroute2 reads of the same ones."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from agent.kernel.netlink import ROUTE, NetlinkSocket
from agent.kernel.rtnetlink import (
    Address,
    Link,
    Route,
    read_addresses,
    read_addresses_elsewhere,
    read_hardware_address,
    read_links,
    read_own_addresses,
    read_route,
)
from tests.build import packed
from tests.lab.cluster import wait_until
from tests.lab.netns import CommandError, Netns

DESTINATIONS = (
    *("192.0.2.9", "192.0.2.1", "10.1.2.3", "10.2.0.1", "10.5.0.5", "10.3.0.1", "10.4.0.1", "203.0.113.1"),
    *("2001:db8::9", "2001:db8::1", "fd00:1::1", "fd00:2::1", "fd00:5::5", "fd00:9::1"),
)
MANY_KERNELS_LACK = (
    "idle0 type dummy",
    "up0.5 link up0 type vlan id 5",
    "mac0 link up0 type macvlan",
    "red type vrf table 10",
    "bond0 type bond",
    "gnv0 type geneve id 1 remote 192.0.2.2",
    "ipip0 type ipip local 192.0.2.1 remote 192.0.2.2",
)


@pytest.fixture
def there() -> Iterator[Netns]:
    """Another namespace, to which a link leads."""
    namespace = Netns("there")
    yield namespace
    namespace.close()


@pytest.fixture
def netns(netns: Netns, there: Netns) -> Netns:
    """A namespace with interfaces of many kinds, with addresses and routes."""
    netns.ip(
        "link add cni0 type bridge nf_call_iptables 1",
        "link add up0 type veth peer name up1",
        "link add up2 type veth peer name up3",
        f"link add pod0 type veth peer name eth0 netns {there.path}",
        "link set pod0 master cni0",
        "link add flannel.1 type vxlan id 1 dstport 4789 remote 192.0.2.2",
        *(f"link set {name} up" for name in ("cni0", "pod0", "up0", "up1", "up2", "up3")),
        "addr add 192.0.2.1/24 dev up0",
        "addr add 198.51.100.1 peer 198.51.100.2/32 dev up2",
        "addr add 2001:db8::1/64 dev up0 nodad",
        "addr add 2001:db8:1::1/64 dev up2 nodad",
        "route add 10.1.0.0/16 via 192.0.2.2",
        "route add 10.2.0.0/16 nexthop via 192.0.2.2 nexthop via 198.51.100.2",
        "route add unreachable 10.3.0.0/16",
        "route add blackhole 10.4.0.0/16",
        "route add 10.5.0.5/32 dev cni0",
        "route add 10.6.0.0/16 via inet6 2001:db8::2 dev up0",
        "route add fd00:1::/64 via 2001:db8:1::2",
        "route add fd00:2::/64 nexthop via 2001:db8::2 nexthop via 2001:db8:1::2",
        "route add fd00:5::5/128 dev cni0",
    )
    for kind in MANY_KERNELS_LACK:
        with contextlib.suppress(CommandError):
            netns.ip(f"link add {kind}")
    there.ip(
        "link set eth0 up",
        "addr add 10.5.0.5/24 dev eth0",
        "addr add fd00:5::5/64 dev eth0 nodad",
        "addr add 192.0.2.77 peer 192.0.2.78/32 dev eth0",
    )
    for name, address in (("up0", "2001:db8::1"), ("up2", "2001:db8:1::1")):
        netns.wait_for_address(name, address)
    # What the kernel notes later, such as the address of a link itself, is not to come between two reads.
    for name in ("cni0", "pod0", "up0", "up1", "up2", "up3"):
        netns.wait_for_link(name)
    there.wait_for_link("eth0")
    return netns


@pytest.fixture
def library(netns: Netns) -> Iterator[IPRoute]:
    del netns
    with IPRoute() as library:
        yield library


@pytest.fixture
def ours(netns: Netns) -> Iterator[NetlinkSocket]:
    del netns
    with NetlinkSocket(ROUTE) as netlink:
        yield netlink


def link(told: Any) -> Link:
    """Return an interface as pyroute2 reads it, but for the data of its kind."""
    return Link(
        told["index"],
        told.get("IFLA_IFNAME"),
        told.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "",
        told.get("IFLA_MASTER") or 0,
        told.get("IFLA_LINK") or 0,
        told.get("IFLA_LINK_NETNSID"),
        bool(told["flags"] & 1),
        told.get("IFLA_OPERSTATE") == "UP",
    )


def test_interfaces(library: IPRoute, ours: NetlinkSocket) -> None:
    theirs = [link(told) for told in library.get_links()]
    assert [link._replace(data=b"") for link in read_links(ours)] == theirs
    assert {link.kind for link in theirs} >= {"bridge", "veth", "vxlan"}
    assert [link.namespace for link in theirs if link.name == "pod0"] == [0]


@pytest.mark.parametrize("kind", ["bridge", "veth", "vxlan", "bond"])
def test_those_of_one_kind(ours: NetlinkSocket, kind: str) -> None:

    def are_the_same() -> bool:
        return list(read_links(ours, kind)) == [link for link in read_links(ours) if link.kind == kind]

    # The data of a bridge has timers, which go on between two reads.
    wait_until(are_the_same, interval=0.001)


def test_addresses(library: IPRoute, ours: NetlinkSocket) -> None:
    theirs = [
        Address(
            told["index"],
            told["family"],
            told["prefixlen"],
            told["scope"],
            packed(told.get("IFA_LOCAL") or told.get("IFA_ADDRESS")),
        )
        for told in library.get_addr()
    ]
    assert len(theirs) >= 5
    assert sorted(read_addresses(ours)) == sorted(theirs)


def test_this_namespaces_own_addresses(library: IPRoute, ours: NetlinkSocket) -> None:
    told = [one.get("IFA_LOCAL") or one.get("IFA_ADDRESS") for one in library.get_addr()]
    assert len(told) >= 5
    assert sorted(read_own_addresses(ours)) == sorted(socket.inet_pton(family_of(a), a) for a in told)


def test_hardware_addresses_here_and_in_another_namespace(
    library: IPRoute, ours: NetlinkSocket, there: Netns
) -> None:
    links = {one["index"]: one.get("IFLA_ADDRESS") for one in library.get_links()}
    for index, address in links.items():
        assert read_hardware_address(ours, index).hex(":") == (address or "")
    (pod,) = (link for link in read_links(ours) if link.name == "pod0")
    with there.entered(), IPRoute() as inside:
        (told,) = (one.get("IFLA_ADDRESS") for one in inside.get_links(pod.lower))
    assert read_hardware_address(ours, pod.lower, pod.namespace).hex(":") == told
    with pytest.raises(OSError, match="No such device"):
        read_hardware_address(ours, 4242)


def test_addresses_in_another_namespace(ours: NetlinkSocket, there: Netns) -> None:
    with there.entered(), IPRoute() as inside:
        told = [(one["index"], one.get("IFA_LOCAL") or one.get("IFA_ADDRESS")) for one in inside.get_addr()]
    theirs = [(index, socket.inet_pton(family_of(address), address)) for index, address in told]
    assert len(theirs) >= 5
    (pod,) = (link for link in read_links(ours) if link.name == "pod0")
    assert pod.namespace is not None
    ours.check_strictly()
    assert sorted(read_addresses_elsewhere(ours, pod.namespace)) == sorted(theirs)
    assert pod.lower in {index for index, _ in theirs}


def family_of(address: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in address else socket.AF_INET


@pytest.mark.parametrize("destination", [*DESTINATIONS, "10.6.0.1"])
def test_routes(library: IPRoute, ours: NetlinkSocket, destination: str) -> None:
    family = family_of(destination)
    assert read(ours, socket.inet_pton(family, destination)) == route(library, destination, family)


def read(ours: NetlinkSocket, address: bytes) -> Route | int:
    """Return a route, or the number of the error that says there is none."""
    try:
        return read_route(ours, address)
    except OSError as error:
        return error.errno or 0


FIB_MATCH = 0x2000


def route(library: IPRoute, destination: str, family: socket.AddressFamily) -> Route | int:
    """Return the same as pyroute2 reads it."""
    try:
        (told,) = library.route("get", dst=destination, flags=FIB_MATCH)
    except NetlinkError as error:
        return int(error.code)
    if told["type"] != 1:
        return Route(b"", (), direct=False)
    network = told.get("RTA_DST")
    hops = told.get("RTA_MULTIPATH") or ()
    first = told.get("RTA_OIF")
    return Route(
        socket.inet_pton(family, network) if network else b"",
        (*([first] if first else []), *(hop["oif"] for hop in hops)),
        not (hops or told.get("RTA_GATEWAY") or told.get("RTA_VIA")),
    )
