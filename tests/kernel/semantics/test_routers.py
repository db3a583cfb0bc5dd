"""No pod is a router: none of its advertisements or redirects reaches another while pods are isolated."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from agent.dataplane.iptables.options import Options
from agent.net import Family
from tests.kernel.semantics.stage import Stage, serial
from tests.kernel.semantics.wired import Wired, wired
from tests.kernel.semantics.written import isolated
from tests.lab import packets
from tests.lab.node import Layout, Pod

EVERYONE = "33:33:00:00:00:01"
_HOPS, _INTERFACE = 18, 17
"""IPV6_MULTICAST_HOPS, IPV6_MULTICAST_IF"""


def body(network: str, tag: bytes = b"") -> bytes:
    """Return a router advertisement (RFC 4861, section 4.2), behind its checksum, that names one network.

    Hosts make themselves an address in it (option 3 with both flags, section 4.6.2). ``tag`` goes into a
    private option.
    """
    option = struct.pack("!BBBBIII", 3, 4, 64, 0xC0, 3600, 3600, 0) + socket.inet_pton(
        socket.AF_INET6, network
    )
    return struct.pack("!BBHII", 64, 0, 0, 0, 0) + option + tag


def advertised(one: Pod | Wired, network: str, destination: str, mac: str) -> None:
    """Send one from the link of a pod, or of a host beyond the bridge's card."""
    packet = packets.icmp("fe80::99", destination, 134, 0, body(network), hops=255)
    with one.netns.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sock:
        sock.bind(("eth0", 0))
        sock.send(packets.frame(one.mac, mac, packet))


def addresses(pod: Pod) -> str:
    return pod.netns.run(("ip", "-6", "-o", "addr", "show", "dev", "eth0"))


@contextlib.contextmanager
def hearing(pod: Pod) -> Iterator[None]:
    """Have a pod take advertisements, as the kernel does by itself and the lab's pods do not."""
    pod.netns.sysctl({"net.ipv6.conf.eth0.accept_ra": 1})
    try:
        yield
    finally:
        pod.netns.sysctl({"net.ipv6.conf.eth0.accept_ra": 0})
        pod.netns.ip("addr flush dev eth0 dynamic")


@pytest.mark.both_modes
@pytest.mark.bridge
@pytest.mark.parametrize("options", [Options(), Options(accept=True)], ids=["return", "accept"])
@pytest.mark.parametrize("to", ["all nodes", "the pod", "the pod's own address", "all nodes in one frame"])
def test_a_pods_router_advertisement_gives_no_pod_an_address(stage: Stage, to: str, options: Options) -> None:
    """Without isolated pods it does: that is the attack. Whether the sender is isolated is all the same."""
    a, s = stage.pods["a"], stage.pods["s"]
    destination, mac = {
        "all nodes": ("ff02::1", EVERYONE),
        "the pod": ("ff02::1", s.mac),
        "the pod's own address": (s.v6, s.mac),
        "all nodes in one frame": (s.v6, EVERYONE),
    }[to]
    with hearing(s):
        if to != "all nodes in one frame":  # a stack takes none to its own address in a frame to everyone
            stage.given(options=options)
            advertised(a, "fd00:bad:1::", destination, mac)
            stage.lab.settle()
            assert "fd00:bad:1:" in addresses(s)
        for sender in (isolated("s"), isolated("s", "a", types=("Ingress", "Egress"))):
            stage.given(sender, options=options)
            advertised(a, "fd00:bad:2::", destination, mac)
            stage.lab.settle()
            assert "fd00:bad:2:" not in addresses(s)
    stage.given(options=Options())


@pytest.mark.both_modes
@pytest.mark.bridge
def test_the_nodes_own_advertisement_does(stage: Stage) -> None:
    stage.given(isolated("s"))
    near, s = stage.near.netns, stage.pods["s"]
    with hearing(s):
        with near.entered(), socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, _HOPS, 255)
            sock.setsockopt(socket.IPPROTO_IPV6, _INTERFACE, socket.if_nametoindex("cni0"))
            sock.sendto(struct.pack("!BBH", 134, 0, 0) + body("fd00:900d::"), ("ff02::1", 0))
        stage.lab.settle()
        assert "fd00:900d:" in addresses(s)


@pytest.mark.both_modes
@pytest.mark.bridge
@pytest.mark.parametrize("options", [Options(), Options(accept=True)], ids=["return", "accept"])
def test_a_routers_beyond_a_card_on_the_bridge_does(stage: Stage, options: Options) -> None:
    s = stage.pods["s"]
    with wired(stage.near) as router, hearing(s):
        stage.given(isolated("s"), options=options)
        advertised(router, "fd00:900d:1::", "ff02::1", EVERYONE)
        advertised(stage.pods["a"], "fd00:bad:3::", "ff02::1", EVERYONE)
        stage.lab.settle()
        assert "fd00:900d:1:" in addresses(s)
        assert "fd00:bad:3:" not in addresses(s)
    stage.given(options=Options())


@pytest.mark.bridge
def test_neighbours_are_found_and_routers_asked_for_as_before(stage: Stage) -> None:
    stage.given(isolated("s", "a", types=("Ingress", "Egress")))
    a, s = stage.pods["a"], stage.pods["s"]
    for kind in (133, 135, 136):

        def send(tag: bytes, kind: int = kind) -> None:
            packet = packets.icmp("fe80::9", s.v6, kind, 0, bytes(20) + tag, hops=255)
            packets.send_frame(a, packets.frame(a.mac, s.mac, packet))

        stage.all_arrive(s, send)


@pytest.mark.both_modes
@pytest.mark.parametrize("options", [Options(), Options(accept=True)], ids=["return", "accept"])
def test_a_redirect_does_not_pass_as_related_to_a_connection(
    stage: Stage, family: Family, options: Options
) -> None:
    """Other errors about that connection do."""
    stage.given(isolated("s"), options=options)
    a, s = stage.pods["a"], stage.pods["s"]
    number = serial()
    asked = packets.udp(s.address(family), a.address(family), 53, b"?", source_port=number)
    packets.send_ip(s, asked)
    stage.lab.settle()
    redirect, unreachable = ((5, 1), (3, 3)) if family is Family.V4 else ((137, 0), (1, 4))
    towards = s.mac if stage.layout is Layout.BRIDGE else a.gateway_mac

    def error(kind: int, code: int, before: bytes) -> Callable[[bytes], None]:
        def send(tag: bytes) -> None:
            about = before + asked + tag
            packet = packets.icmp(a.address(family), s.address(family), kind, code, about, hops=255)
            packets.send_frame(a, packets.frame(a.mac, towards, packet))

        return send

    stage.all_arrive(s, error(*unreachable, bytes(4)))
    # Of IPv6 the redirect holds addresses, and the packet in an option (RFC 4861, sections 4.5 and 4.6.3).
    option = struct.pack("!BB6x", 4, 1 + (len(asked) + 24) // 8)
    there = socket.inet_pton(socket.AF_INET6, a.v6)
    before = bytes(4) if family is Family.V4 else bytes(4) + there + there + option
    stage.none_arrive(s, error(*redirect, before))
    stage.given(options=Options())
