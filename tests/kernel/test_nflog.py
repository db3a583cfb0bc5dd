"""Real packets, logged by real rules of both variants and read by netlink."""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest
from pyroute2 import NFCTSocket

from agent.dataplane.iptables.variant import MODES
from agent.kernel.conntrack import Tuple, tuple_of
from agent.kernel.headers import decode
from agent.kernel.netlink import Message, NetlinkSocket, attributes
from agent.kernel.nflog import Logged, NflogSocket
from tests.build import packed
from tests.lab import packets
from tests.lab.netns import Netns
from tests.patience import PATIENCE

GROUP = 77
V4 = "10.1.0.2", "10.2.0.2", "10.96.0.1"
V6 = "fd01::2", "fd02::2", "fd96::1"
BOTH = pytest.mark.parametrize("ends", [V4, V6], ids=["IPv4", "IPv6"])


class Net(NamedTuple):
    router: Netns
    client: Netns
    server: Netns
    mode: str

    def rule(self, ends: tuple[str, str, str], rule: str) -> None:
        """Write a rule on the router, in the family of some ends."""
        command = "iptables" if ends is V4 else "ip6tables"
        self.router.run([f"{command}-{self.mode}", *rule.split()])

    def send(self, packet: bytes) -> None:
        """Send a packet from the client."""
        v4 = packet[0] >> 4 == 4
        family = socket.AF_INET if v4 else socket.AF_INET6
        with self.client.entered(), socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
            sock.setsockopt(*((socket.IPPROTO_IP, socket.IP_HDRINCL) if v4 else (socket.IPPROTO_IPV6, 36)), 1)
            destination = socket.inet_ntop(family, packet[16:20] if v4 else packet[24:40])
            sock.sendto(packet, (destination, 0))


@pytest.fixture(params=MODES)
def net(request: pytest.FixtureRequest, lock_file: object) -> Iterator[Net]:
    """A router that translates a Service's address, and logs and drops all that it forwards to port 7."""
    del lock_file
    net = Net(Netns("router"), Netns("client"), Netns("server"), request.param)
    try:
        for number, pod in ((1, net.client), (2, net.server)):
            net.router.ip(
                f"link add p{number} type veth peer name eth0 netns {pod.path}",
                f"addr add 10.{number}.0.1/24 dev p{number}",
                f"addr add fd0{number}::1/64 dev p{number} nodad",
                f"link set p{number} up",
            )
            pod.ip(
                f"addr add 10.{number}.0.2/24 dev eth0",
                f"addr add fd0{number}::2/64 dev eth0 nodad",
                "link set eth0 up",
                f"route add default via 10.{number}.0.1",
                f"route add default via fd0{number}::1",
            )
        for number, pod in ((1, net.client), (2, net.server)):
            net.router.wait_for_link(f"p{number}")
            pod.wait_for_link("eth0")
            net.router.wait_for_address(f"p{number}", f"fd0{number}::1")
            pod.wait_for_address("eth0", f"fd0{number}::2")
        net.router.sysctl({"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1})
        for ends in (V4, V6):
            log = f"-j NFLOG --nflog-prefix some-prefix --nflog-group {GROUP}"
            translate = f"-t nat -A PREROUTING -d {ends[2]} -j DNAT --to-destination {ends[1]}"
            for rule in (f"-A FORWARD -p udp --dport 7 {log}", "-A FORWARD -p udp -j DROP", translate):
                net.rule(ends, rule)
        yield net
    finally:
        for namespace in net[:3]:
            namespace.close()


@pytest.fixture
def log(net: Net) -> Iterator[NflogSocket]:
    with net.router.entered(), NflogSocket(GROUP) as opened:
        yield opened


def read(log: NflogSocket, least: int, seconds: float = PATIENCE) -> list[Logged]:
    found: list[Logged] = []
    end = time.monotonic() + seconds
    while len(found) < least and time.monotonic() < end:
        found += log.read(0.2)
    return found


@BOTH
def test_a_packet_is_read_as_it_was_sent(net: Net, log: NflogSocket, ends: tuple[str, str, str]) -> None:
    sent = packets.udp(*ends[:2], 7, b"hello")
    net.send(sent)
    (found,) = read(log, 1)
    assert found.family == (socket.AF_INET if ends is V4 else socket.AF_INET6)
    assert found.prefix == "some-prefix"
    assert found.hook == 2
    assert min(found.incoming, found.outgoing) > 0
    assert len(found.hardware) == 6
    said, wanted = decode(found.payload), decode(sent)
    assert said is not None
    assert said == wanted
    assert found.payload[-5:] == b"hello"


@BOTH
def test_the_address_before_translation_is_told(
    net: Net, log: NflogSocket, ends: tuple[str, str, str]
) -> None:
    source, server, service = ends
    net.send(packets.udp(source, service, 7, b"", source_port=4000))
    (found,) = read(log, 1)
    said = decode(found.payload)
    assert said is not None
    assert said.destination == packed(server)
    if log.tracks:
        assert found.original == (packed(source), packed(service), socket.IPPROTO_UDP, 4000, 7)
    else:
        # A kernel built without CONFIG_NETFILTER_NETLINK_GLUE_CT.
        assert found.original is None


def originals(family: int) -> list[Tuple | None]:
    """Return the connections that the kernel tracks in this namespace."""
    with NetlinkSocket() as netlink:
        return [
            tuple_of(payload)
            for body in netlink.dump(Message(1 << 8 | 1, family, b""))
            for kind, payload in attributes(body)
            if kind == 1
        ]


@BOTH
def test_connections_are_read_as_pyroute2_reads_them(net: Net, ends: tuple[str, str, str]) -> None:
    # Only a packet that gets through is entered in the kernel's table.
    net.rule(ends, "-I FORWARD -p udp --sport 4001 -j ACCEPT")
    net.send(packets.udp(ends[0], ends[2], 7, b"", source_port=4001))
    family = socket.AF_INET if ends is V4 else socket.AF_INET6
    with net.router.entered():
        end = time.monotonic() + PATIENCE
        while not (found := originals(family)) and time.monotonic() < end:
            time.sleep(0.05)
        (ours,) = found
        with NFCTSocket(nfgen_family=family) as table:
            (entry,) = [one for one in table.dump() if one["nfgen_family"] == family]
            theirs = entry.get_attr("CTA_TUPLE_ORIG")
    addresses, numbers = theirs.get_attr("CTA_TUPLE_IP"), theirs.get_attr("CTA_TUPLE_PROTO")
    version = "V4" if ends is V4 else "V6"
    assert ours == (
        packed(addresses.get_attr(f"CTA_IP_{version}_SRC")),
        packed(addresses.get_attr(f"CTA_IP_{version}_DST")),
        numbers.get_attr("CTA_PROTO_NUM"),
        numbers.get_attr("CTA_PROTO_SRC_PORT"),
        numbers.get_attr("CTA_PROTO_DST_PORT"),
    )
    assert ours is not None
    assert ours[:2] == (packed(ends[0]), packed(ends[2]))


def test_no_more_is_copied_than_was_asked_for(net: Net) -> None:
    with net.router.entered(), NflogSocket(GROUP, copied=64) as log:
        net.send(packets.udp(*V4[:2], 7, bytes(500)))
        (found,) = read(log, 1)
    assert len(found.payload) == 64


def test_what_is_lost_is_counted(net: Net) -> None:
    """Nobody reads while more comes than may wait."""
    sent = 3000
    with net.router.entered(), NflogSocket(GROUP, together=1) as log:
        log.set_buffer(1 << 16)
        net.send(packets.udp(*V4[:2], 7, b"first"))
        found = read(log, 1)
        for _ in range(sent):
            net.send(packets.udp(*V4[:2], 7, b"hello"))
        # Some of them never come.
        found += read(log, sent, 5.0)
        net.send(packets.udp(*V4[:2], 7, b"last"))
        found += read(log, 1)
    assert log.overruns >= 1
    assert log.lost > 0
    assert len(found) + log.lost == sent + 2


def test_a_group_has_one_listener(net: Net, log: NflogSocket) -> None:
    del log
    with net.router.entered(), pytest.raises(OSError, match="not permitted") as refused:
        NflogSocket(GROUP)
    assert refused.value.errno == errno.EPERM


def test_a_group_is_free_when_its_listener_has_gone(net: Net) -> None:
    for _ in range(2):
        with net.router.entered(), NflogSocket(GROUP) as log:
            assert log.read(0.0) == []
