"""Single packets: what is judged though it opens no connection, how a denial looks, and what comes after."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable, Iterator

import pytest

from agent.dataplane.iptables.options import Options
from agent.net import Family
from tests.kernel.semantics.stage import TIMES, Stage, serial
from tests.kernel.semantics.written import block, isolated, labels, namespaces, pods, policy, port
from tests.lab import packets
from tests.lab.place import Place

S = labels(pod="s")
BOTH = ("Ingress", "Egress")
Make = Callable[[str, str, bytes], bytes]


def tcp(source: str, destination: str, tag: bytes, flags: int) -> bytes:
    """Return a TCP packet of a connection that nobody knows."""
    return packets.tcp(source, destination, 7777, flags=flags, source_port=serial(), payload=tag)


def unsolicited_error(source: str, destination: str, tag: bytes) -> bytes:
    """Return an ICMP 'port unreachable' about a packet that was never sent."""
    about = packets.udp(destination, source, serial(), tag, source_port=serial())
    kind, code = (1, 4) if ":" in source else (3, 3)
    return packets.icmp(source, destination, kind, code, bytes(4) + about)


def echo_reply(source: str, destination: str, tag: bytes) -> bytes:
    """Return an echo reply to nobody's request."""
    kind = 129 if ":" in source else 0
    return packets.icmp(source, destination, kind, 0, struct.pack("!HH", serial(), 1) + tag)


def wrong_checksum(source: str, destination: str, tag: bytes) -> bytes:
    """Return a TCP SYN whose checksum is that of another tag."""
    return tcp(source, destination, bytes(len(tag)), 0x02).replace(bytes(len(tag)), tag)


ODD: dict[str, Make] = {
    "bare ACK": lambda s, d, tag: tcp(s, d, tag, 0x10),
    "RST": lambda s, d, tag: tcp(s, d, tag, 0x04),
    "SYN-ACK": lambda s, d, tag: tcp(s, d, tag, 0x12),
    "no flags": lambda s, d, tag: tcp(s, d, tag, 0),
    "wrong checksum": wrong_checksum,
    "unsolicited ICMP error": unsolicited_error,
    "echo request": lambda s, d, tag: packets.echo_request(s, d, tag, identifier=serial()),
    "echo reply": echo_reply,
    "GRE": lambda s, d, tag: packets.ip(s, d, 47, b"\0\0\x08\0" + tag),
    "ESP": lambda s, d, tag: packets.ip(s, d, 50, struct.pack("!II", serial(), 1) + tag),
    "protocol 253": lambda s, d, tag: packets.ip(s, d, 253, tag),
}


@contextlib.contextmanager
def strict_tracking(stage: Stage) -> Iterator[None]:
    """Have connection tracking call every packet invalid that belongs to no handshake it has seen."""
    stage.near.netns.sysctl({"net.netfilter.nf_conntrack_tcp_loose": 0})
    try:
        yield
    finally:
        stage.near.netns.sysctl({"net.netfilter.nf_conntrack_tcp_loose": 1})


@contextlib.contextmanager
def rule(stage: Stage, family: Family, text: str) -> Iterator[None]:
    """Give the node a rule of its own, at the end of its chain: ``TABLE CHAIN ...``."""
    table, chain, *words = text.split()
    stage.near.iptables(family, "-t", table, "-A", chain, *words)
    try:
        yield
    finally:
        stage.near.iptables(family, "-t", table, "-D", chain, *words)


def counted(stage: Stage, family: Family) -> list[int]:
    """Return how many packets the node's own rules in mangle POSTROUTING have met, in order."""
    listed = stage.near.iptables(family, "-t", "mangle", "-L", "POSTROUTING", "-v", "-x", "-n")
    return [int(line.split()[0]) for line in listed.splitlines()[2:]]


def sender(
    stage: Stage, source: str, destination: str, family: Family, make: Make
) -> Callable[[bytes], None]:
    one, other = (stage.places[name] for name in (source, destination))
    return lambda tag: packets.send_ip(one, make(one.address(family), other.address(family), tag))


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.parametrize("loose", [True, False], ids=["loose", "strict"])
def test_odd_packets_are_judged_like_new_ones(stage: Stage, family: Family, kind: str, loose: bool) -> None:
    """Of two pods, the one that is isolated gets none; the other, and one that allows the sender, all."""
    allowed = policy("t", labels(pod="t"), ingress=[{"from": [pods(pod="a")]}])
    stage.given(isolated("s"), isolated("b", types=["Egress"]), allowed)
    with contextlib.nullcontext() if loose else strict_tracking(stage):
        stage.none_arrive(stage.pods["s"], sender(stage, "a", "s", family, ODD[kind]))
        stage.none_arrive(stage.pods["f"], sender(stage, "b", "f", family, ODD[kind]))
        stage.all_arrive(stage.pods["t"], sender(stage, "a", "t", family, ODD[kind]))
        stage.all_arrive(stage.pods["c"], sender(stage, "a", "c", family, ODD[kind]))


def test_packets_called_invalid_are_really_that(stage: Stage, family: Family) -> None:
    """Shows that the test before this one shows something: the node can tell those packets are invalid."""
    stage.given()
    make = ODD["bare ACK"]
    with rule(stage, family, "mangle FORWARD -m conntrack --ctstate INVALID -j DROP"):
        stage.all_arrive(stage.pods["s"], sender(stage, "a", "s", family, make))
        with strict_tracking(stage):
            assert stage.arrive(stage.pods["s"], sender(stage, "a", "s", family, make)) == 0


@pytest.mark.both_modes
def test_untracked_packets_are_judged_like_new_ones(stage: Stage, family: Family) -> None:
    stage.given(isolated("s"), policy("t", labels(pod="t"), ingress=[{"from": [pods(pod="a")]}]))

    def make(source: str, destination: str, tag: bytes) -> bytes:
        return packets.udp(source, destination, 7777, tag, source_port=serial())

    with rule(stage, family, "raw PREROUTING -p udp --dport 7777 -j CT --notrack"):
        stage.none_arrive(stage.pods["s"], sender(stage, "a", "s", family, make))
        stage.all_arrive(stage.pods["t"], sender(stage, "a", "t", family, make))
        stage.none_arrive(stage.pods["t"], sender(stage, "b", "t", family, make))
        stage.all_arrive(stage.pods["c"], sender(stage, "b", "c", family, make))


def test_fragments_are_judged_by_the_packet_they_are_parts_of(stage: Stage, family: Family) -> None:
    stage.given(
        policy("s", S, ingress=[{"from": [pods(pod="a")], "ports": [port(53, "UDP")]}]),
        isolated("b", types=["Egress"]),
    )

    def send(name: str, destination: str, number: int) -> Callable[[bytes], None]:
        def one(tag: bytes) -> None:
            place = stage.pods[name]
            with place.netns.entered():
                kind = socket.AF_INET6 if family is Family.V6 else socket.AF_INET
                sock = socket.socket(kind, socket.SOCK_DGRAM)
            with sock:
                sock.sendto(b"x" * 3000 + tag, (stage.pods[destination].address(family), number))

        return one

    stage.all_arrive(stage.pods["s"], send("a", "s", 53))
    stage.none_arrive(stage.pods["s"], send("a", "s", 80))
    stage.none_arrive(stage.pods["s"], send("c", "s", 53))
    stage.none_arrive(stage.pods["c"], send("b", "c", 53))


@pytest.mark.parametrize("kind", ["echo request"])
def test_echo_is_judged_by_peers_and_never_matches_a_port(stage: Stage, family: Family, kind: str) -> None:
    stage.given(
        policy("s", S, ingress=[{"from": [pods(pod="a")]}, {"ports": [port(80), {"protocol": "UDP"}]}])
    )
    stage.all_arrive(stage.pods["s"], sender(stage, "a", "s", family, ODD[kind]))
    stage.none_arrive(stage.pods["s"], sender(stage, "b", "s", family, ODD[kind]))


# How a denial looks


def _denied(stage: Stage, options: Options) -> None:
    stage.given(isolated("s"), isolated("t", types=["Egress"]), options=options)


@pytest.mark.both_modes
def test_denied_means_dropped(stage: Stage) -> None:
    _denied(stage, Options())
    stage.expect(denied=["a f out -> s", "t -> a f out"])


@pytest.mark.both_modes
def test_a_setting_makes_denied_mean_rejected(stage: Stage) -> None:
    _denied(stage, Options(reject=True))
    stage.expect("a f out -> c", rejected=["a f out -> s", "t -> a f out"])
    stage.given(isolated("s"))
    stage.expect(denied="a f out -> s")


def _errors(place: Place, family: Family, address: str, protocol: int) -> tuple[int, int]:
    """Return type and code of the ICMP error that a UDP or ICMP packet to an address is answered with."""
    v6 = family is Family.V6
    with place.netns.entered():
        sock = socket.socket(socket.AF_INET6 if v6 else socket.AF_INET, socket.SOCK_DGRAM, protocol)
    with sock:
        sock.settimeout(5)
        sock.setsockopt(*((socket.IPPROTO_IPV6, 25) if v6 else (socket.IPPROTO_IP, 11)), 1)
        sock.sendto(b"x", (address, 53))
        with contextlib.suppress(OSError):
            sock.recv(100)
        _, control, _, _ = sock.recvmsg(100, 500, 0x2000)
        kind, code = struct.unpack_from("=IBBBB", control[0][2])[2:4]
        return kind, code


def test_rejected_udp_is_administratively_prohibited(stage: Stage, family: Family) -> None:
    _denied(stage, Options(reject=True))
    prohibited = (1, 1) if family is Family.V6 else (3, 13)
    for source, destination in (("a", "s"), ("f", "s"), ("t", "a"), ("t", "out")):
        place, address = stage.places[source], stage.places[destination].address(family)
        assert _errors(place, family, address, socket.IPPROTO_UDP) == prohibited, (source, destination)
    stage.given(options=Options())


def test_rejected_tcp_is_a_reset(stage: Stage, family: Family) -> None:
    _denied(stage, Options(reject=True))
    for source, destination in (("a", "s"), ("f", "s"), ("t", "a")):
        with stage.places[source].netns.entered():
            sock = socket.socket(socket.AF_INET6 if family is Family.V6 else socket.AF_INET)
        sock.settimeout(5)
        with sock, pytest.raises(ConnectionRefusedError):
            sock.connect((stage.places[destination].address(family), 80))
    stage.given(options=Options())


# What comes after


@pytest.mark.both_modes
def test_what_is_allowed_goes_on_to_the_nodes_own_rules(stage: Stage) -> None:
    """With ``accept`` it does not: a rule of the node that drops TCP 81 has no say on isolated pods."""
    rules = [
        policy("s", S, ingress=[{"from": [pods(pod="a"), namespaces(), block("0.0.0.0/0"), block("::/0")]}]),
        policy("t", labels(pod="t"), egress=[{}], types=["Egress"]),
    ]
    drop = "filter FORWARD -p tcp --dport 81 -j DROP"
    with rule(stage, Family.V4, drop), rule(stage, Family.V6, drop):
        stage.given(*rules)
        stage.expect(
            "a out -> s: tcp/80", denied=["a out -> s: tcp/81", "t -> a out: tcp/81", "a -> b: tcp/81"]
        )
        stage.given(*rules, options=Options(accept=True))
        stage.expect("a out -> s: tcp/80 tcp/81 udp/53", "t -> a out: tcp/81", denied=["a out -> b: tcp/81"])
    stage.given(options=Options())


@pytest.mark.both_modes
def test_accept_opens_nothing_that_is_denied(stage: Stage) -> None:
    stage.given(
        isolated("s"),
        policy("t", labels(pod="t"), egress=[{}], types=["Egress"]),
        policy("b", labels(pod="b"), ingress=[{"from": [pods(pod="t")], "ports": [port(80)]}]),
        options=Options(accept=True),
    )
    stage.expect(
        "t -> a c out", "t -> b: tcp/80", "s -> a", denied=["a t out -> s", "t -> b: tcp/81", "a -> b"]
    )
    stage.given(options=Options())


@pytest.mark.both_modes
@pytest.mark.parametrize(
    "options", [Options(), Options(mark_egress=0x8, mark_ingress=0x10)], ids=["usual", "chosen"]
)
def test_marks_are_clear_after_our_chains(stage: Stage, family: Family, options: Options) -> None:
    """Counted where packets leave the node: of those judged and allowed, none carries one of our bits."""
    stage.given(
        policy("s", S, ingress=[{"from": [pods(), namespaces()]}], egress=[{}], types=BOTH),
        policy("a", labels(pod="a"), egress=[{}], types=["Egress"]),
        options=options,
    )
    with (
        rule(stage, family, f"mangle POSTROUTING -m mark ! --mark 0x0/{options.both_marks:#x}"),
        rule(stage, family, "mangle POSTROUTING -p tcp --dport 80"),
    ):
        stage.expect(f"IPv{int(family)} a c f -> s: tcp/80", f"IPv{int(family)} s -> a c out: tcp/80")
        marked, seen = counted(stage, family)
    assert marked == 0
    assert seen >= 6
    stage.given(options=Options())


@pytest.mark.both_modes
@pytest.mark.parametrize("mark", [0x10000, 0x20000, 0x30000])
def test_a_mark_set_before_does_not_open_anything(stage: Stage, family: Family, mark: int) -> None:
    stage.given(isolated("s"), isolated("t", types=["Egress"]))
    with rule(stage, family, f"mangle PREROUTING -j MARK --set-xmark {mark:#x}/{mark:#x}"):
        here = f"IPv{int(family)} "
        stage.expect(f"{here}a -> c", denied=[f"{here}a f out -> s", f"{here}t -> a f out"])


@pytest.mark.both_modes
def test_other_bits_of_a_mark_are_left_alone(stage: Stage, family: Family) -> None:
    """Such as kube-proxy's 0x4000, by which it knows what to masquerade."""
    stage.given(policy("s", S, ingress=[{"from": [pods()]}]), policy("a", labels(pod="a"), egress=[{}]))
    with (
        rule(stage, family, "mangle PREROUTING -j MARK --set-xmark 0x48001/0x48001"),
        rule(stage, family, "mangle POSTROUTING -m mark --mark 0x48001/0xffffffff"),
    ):
        stage.all_arrive(stage.pods["s"], sender(stage, "a", "s", family, ODD["echo request"]))
        assert counted(stage, family)[0] >= TIMES
