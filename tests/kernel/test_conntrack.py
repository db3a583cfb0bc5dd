"""Real connections through a real translation, forgotten."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from agent.kernel import conntrack
from agent.kernel.conntrack import ConntrackError, between, forget
from agent.kernel.netlink import NESTED, Message, NetlinkSocket, attribute
from agent.net import address_text
from tests.build import packed
from tests.lab.netns import Netns


class Side(NamedTuple):
    """One family's addresses: a client and two servers behind a router, a Service that leads to the first."""

    client: str
    server: str
    other: str
    service: str

    @property
    def family(self) -> int:
        return socket.AF_INET6 if ":" in self.client else socket.AF_INET


V4 = Side("10.1.0.2", "10.2.0.2", "10.2.0.3", "10.96.0.1")
V6 = Side("fd01::2", "fd02::2", "fd02::3", "fd96::1")


class Net(NamedTuple):
    router: Netns
    client: Netns
    server: Netns


@pytest.fixture
def net() -> Iterator[Net]:
    net = Net(Netns("router"), Netns("client"), Netns("server"))
    try:
        for number, pod in ((1, net.client), (2, net.server)):
            net.router.ip(
                f"link add p{number} type veth peer name eth0 netns {pod.path}",
                f"addr add 10.{number}.0.1/24 dev p{number}",
                f"addr add fd0{number}::1/64 dev p{number} nodad",
                f"link set p{number} up",
            )
            hosts = (2, 3) if pod is net.server else (2,)
            pod.ip(
                *(f"addr add 10.{number}.0.{host}/24 dev eth0" for host in hosts),
                *(f"addr add fd0{number}::{host}/64 dev eth0 nodad" for host in hosts),
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
        # A delayed acknowledgement must not be taken for a new connection.
        net.router.sysctl({"net.netfilter.nf_conntrack_tcp_loose": 0})
        for command, side in (("iptables-nft", V4), ("ip6tables-nft", V6)):
            translate = f"-t nat -A PREROUTING -d {side.service} -j DNAT --to-destination {side.server}"
            net.router.run([command, *translate.split()])
            net.router.run([command, *f"-t nat -A POSTROUTING -d {side.other} -j MASQUERADE".split()])
        yield net
    finally:
        for namespace in net:
            namespace.close()


class Echo:
    """Answers every datagram and every connection's bytes on port 7 of both families, any address."""

    def __init__(self, where: Netns) -> None:
        self.sockets: list[socket.socket] = []
        with where.entered():
            for family in (socket.AF_INET, socket.AF_INET6):
                for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                    opened = socket.socket(family, kind)
                    if family == socket.AF_INET6:
                        opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                    opened.bind(("", 7))
                    self.sockets.append(opened)
        self.threads: list[threading.Thread] = []
        for opened in self.sockets:
            serve = self.datagrams
            if opened.type == socket.SOCK_STREAM:
                opened.listen()
                serve = self.streams
            self.threads.append(threading.Thread(target=serve, args=(opened,), daemon=True))
            self.threads[-1].start()

    def datagrams(self, opened: socket.socket) -> None:
        # The answer leaves from the address that was asked, so the kernel is asked which that was.
        info = (socket.IPPROTO_IP, 8) if opened.family == socket.AF_INET else (socket.IPPROTO_IPV6, 49)
        opened.setsockopt(*info, 1)
        while True:
            data, ancillary, _, peer = opened.recvmsg(100, 100)
            if not data:
                return
            replies = [
                (level, 50 if level == socket.IPPROTO_IPV6 else kind, payload)
                for level, kind, payload in ancillary
            ]
            opened.sendmsg([data], replies, 0, peer)

    def streams(self, opened: socket.socket) -> None:
        while True:
            try:
                connection, _ = opened.accept()
            except OSError:
                return
            threading.Thread(target=self.stream, args=(connection,), daemon=True).start()

    def stream(self, connection: socket.socket) -> None:
        with connection:
            while data := connection.recv(100):
                connection.sendall(data)

    def close(self) -> None:
        for opened in self.sockets:
            # Wakes its thread, which a mere close would leave asleep.
            with contextlib.suppress(OSError):
                opened.shutdown(socket.SHUT_RDWR)
        for thread in self.threads:
            thread.join()
        for opened in self.sockets:
            opened.close()


@pytest.fixture
def echo(net: Net) -> Iterator[None]:
    service = Echo(net.server)
    yield
    service.close()


def flow(net: Net, side: Side, to: str, kind: int = socket.SOCK_DGRAM) -> socket.socket:
    """Open a flow from the client and have it answered once."""
    with net.client.entered():
        opened = socket.socket(side.family, kind)
    opened.settimeout(20)
    opened.connect((to, 7))
    opened.sendall(b"x")
    assert opened.recv(10) == b"x"
    return opened


def tracked(net: Net, side: Side) -> list[str]:
    """Return the router's entries of our flows, without the ICMP that IPv6 runs on."""
    family = "ipv6" if side is V6 else "ipv4"
    lines = net.router.run(["conntrack", "-L", "-f", family]).splitlines()
    return [line for line in lines if not line.startswith("icmp")]


def forget_in(namespace: Netns, *addresses: str) -> int:
    with namespace.entered():
        return forget([packed(address) for address in addresses])


@pytest.mark.usefixtures("echo")
@pytest.mark.parametrize("filtered", [False, True], ids=["dumped", "filtered"])
@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["udp", "tcp"])
@pytest.mark.parametrize("side", [V4, V6], ids=["v4", "v6"])
def test_every_side_of_a_connection_names_it(
    net: Net, side: Side, kind: int, filtered: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if filtered:
        monkeypatch.setattr(conntrack, "_READ_MS", 1e9)
    cases = [
        (side.server, side.client),  # original source
        (side.server, side.server),  # original destination
        (side.service, side.service),  # original destination, translated
        (side.service, side.server),  # reply source, behind a Service
        (side.other, side.other),  # masqueraded: the reply's destination is the router's address
        (side.other, "10.2.0.1" if side is V4 else "fd02::1"),
    ]
    for to, named in cases:
        opened = flow(net, side, to, kind)
        assert len(tracked(net, side)) == 1, (to, named)
        assert forget_in(net.router, "192.0.2.1", "2001:db8::1") == 0
        assert forget_in(net.router, named) == 1, (to, named)
        assert tracked(net, side) == []
        opened.close()
        net.router.run(["conntrack", "-F"])


@pytest.mark.usefixtures("echo")
@pytest.mark.parametrize("filtered", [False, True], ids=["dumped", "filtered"])
def test_no_other_connection_goes(net: Net, filtered: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if filtered:
        monkeypatch.setattr(conntrack, "_READ_MS", 1e9)
    flows = [flow(net, side, to) for side in (V4, V6) for to in (side.server, side.other) for _ in range(3)]
    assert forget_in(net.router, V4.server) == 3
    assert len(tracked(net, V4)) == 3
    assert len(tracked(net, V6)) == 6
    assert forget_in(net.router, V4.other, V6.server, V6.other) == 9
    for opened in flows:
        opened.close()


@pytest.mark.usefixtures("echo")
@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["udp", "tcp"])
@pytest.mark.parametrize("side", [V4, V6], ids=["v4", "v6"])
def test_connections_between_two_ends_are_found_behind_a_service_too(net: Net, side: Side, kind: int) -> None:
    protocol = 6 if kind == socket.SOCK_STREAM else 17
    source, server = packed(side.client), packed(side.server)
    net.router.sysctl({"net.netfilter.nf_conntrack_timestamp": 1})
    began = time.time()
    with contextlib.ExitStack() as stack:
        for to in (side.server, side.service, side.other):
            stack.enter_context(flow(net, side, to, kind))
        with net.router.entered():
            found = between(source, server, protocol, 7)
            assert between(source, server, protocol, 8) == []
            assert between(source, server, 132, 7) == []
            assert between(server, source, protocol, 7) == []
            (masqueraded,) = between(source, packed(side.other), protocol, 7)
    assert sorted(one.opened.destination for one in found) == sorted([server, packed(side.service)])
    assert {one.reply.source for one in found} == {server}
    assert {(one.opened.source, one.opened.port) for one in found} == {(source, 7)}
    assert masqueraded.replied
    for one in found:
        assert one.replied
        assert one.since is not None
        assert began - 1 < one.since < time.time() + 1


@pytest.mark.usefixtures("echo")
def test_what_an_address_has_opened_or_answers_is_found_in_both_families(net: Net) -> None:
    with contextlib.ExitStack() as stack:
        for side in (V4, V6):
            for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
                for to in (side.server, side.service, side.other):
                    stack.enter_context(flow(net, side, to, kind))

        def found(*addresses: str) -> set[tuple[str, str, int, int]]:
            with net.router.entered():
                return {
                    (address_text(one.opened.source), address_text(one.reply.source), *one.reply[2:4])
                    for one in conntrack.tracked({packed(address) for address in addresses})
                }

        for side in (V4, V6):
            answering = {(side.client, side.server, n, 7) for n in (6, 17)}
            assert found(side.server) == answering
            assert found(side.other) == {(side.client, side.other, n, 7) for n in (6, 17)}
            assert found(side.client) == answering | found(side.other)
            # What was asked for is not what answers.
            assert found(side.service) == set()
        assert len(found(V4.client, V6.client)) == 8


@pytest.mark.usefixtures("echo")
def test_a_forgotten_connection_is_judged_again(net: Net) -> None:
    net.router.run(
        ["iptables-nft", "-A", "FORWARD", "-m", "conntrack", "--ctstate", "ESTABLISHED", "-j", "ACCEPT"]
    )
    with flow(net, V4, V4.service) as opened:
        net.router.run(["iptables-nft", "-A", "FORWARD", "-j", "DROP"])
        opened.sendall(b"y")
        assert opened.recv(10) == b"y"
        assert forget_in(net.router, V4.server) == 1
        opened.settimeout(0.3)
        opened.sendall(b"z")
        with pytest.raises(TimeoutError):
            opened.recv(10)


def entry(
    source: bytes, destination: bytes, port: int, more: bytes = b"", *, answering: bytes | None = None
) -> Message:
    """Return a request that makes an answered UDP connection (IPCTNL_MSG_CT_NEW).

    ``answering``: what answers, where that is not the destination. ``more``: further attributes.
    """

    def tuple_(kind: int, source: bytes, destination: bytes, ports: tuple[int, int]) -> bytes:
        first = 1 if len(source) == 4 else 3
        ip = attribute(1 | NESTED, attribute(first, source) + attribute(first + 1, destination))
        numbers = b"".join(attribute(2 + n, struct.pack("!H", number)) for n, number in enumerate(ports))
        return attribute(kind | NESTED, ip + attribute(2 | NESTED, attribute(1, b"\x11") + numbers))

    body = tuple_(1, source, destination, (port, 53)) + tuple_(
        2, answering or destination, source, (53, port)
    )
    body += attribute(7, struct.pack("!I", 600)) + attribute(3, struct.pack("!I", 0xE)) + more
    return Message(1 << 8, socket.AF_INET if len(source) == 4 else socket.AF_INET6, body, 0x400)


def count(namespace: Netns) -> int:
    return int(namespace.run(["conntrack", "-C"]))


def test_entries_in_zones_are_told_apart(netns: Netns) -> None:
    zone = attribute(18, struct.pack("!H", 7))
    with NetlinkSocket() as netlink:
        made = [entry(b"\x0a\0\0\1", b"\x0a\0\0\2", 1), entry(b"\x0a\0\0\1", b"\x0a\0\0\2", 1, zone)]
        assert netlink.request(made) == []
    assert count(netns) == 2
    assert forget([b"\x0a\0\0\2"]) == 2
    assert count(netns) == 0


@pytest.mark.parametrize("looked_for", [1, 100])
def test_a_long_table(netns: Netns, looked_for: int) -> None:
    def address(number: int) -> bytes:
        return (0x0A000000 + number).to_bytes(4, "big")

    with NetlinkSocket() as netlink:
        made = [entry(address(n % 500), address(100_000 + n), 1 + n % 60_000) for n in range(30_000)]
        assert netlink.request(made) == []
    assert forget(address(number) for number in range(looked_for)) == 60 * looked_for
    assert count(netns) == 30_000 - 60 * looked_for
    assert forget(address(number) for number in range(looked_for)) == 0


@pytest.mark.usefixtures("netns")
def test_an_empty_table_and_no_addresses() -> None:
    assert forget([]) == 0
    assert forget([packed(V4.client), packed(V6.client)]) == 0


def test_a_kernel_that_does_not_filter_is_searched_here(
    netns: Netns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(conntrack, "_READ_MS", 1e9)
    # A kernel before 5.8 passes over the attribute, as any does over one that is beyond its last.
    monkeypatch.setattr(conntrack, "_FILTER", 100)
    with NetlinkSocket() as netlink:
        made = [entry(b"\x0a\0\0\1", b"\x0a\0\0\2", 1), entry(b"\x0a\0\0\3", b"\x0a\0\0\4", 1)]
        assert netlink.request(made) == []
    assert forget([b"\x0a\0\0\4"]) == 1
    assert count(netns) == 1


@pytest.mark.usefixtures("netns")
def test_a_kernel_without_it_is_named_with_its_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    with NetlinkSocket() as netlink:
        assert netlink.request([entry(b"\x0a\0\0\1", b"\x0a\0\0\2", 1)]) == []
    monkeypatch.setattr(conntrack, "SUBSYSTEM", 200)
    with pytest.raises(ConntrackError) as caught:
        forget([b"\x0a\0\0\1"])
    assert "nf_conntrack_netlink" in caught.value.fault().remedy


@pytest.mark.usefixtures("netns")
def test_without_permission_it_says_so() -> None:
    with NetlinkSocket() as netlink:
        assert netlink.request([entry(b"\x0a\0\0\1", b"\x0a\0\0\2", 1)]) == []
    script = """
from agent.kernel.conntrack import ConntrackError, between, forget
from tests.build import packed
try:
    forget([bytes([10, 0, 0, 1])])
except ConntrackError as error:
    print(error.fault())
"""
    without = ["setpriv", "--bounding-set=-net_admin", "--inh-caps=-net_admin"]
    done = subprocess.run(
        [*without, sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert "CAP_NET_ADMIN" in done.stdout, done.stderr
