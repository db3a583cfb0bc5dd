"""Frames as bytes, and what rules of the table make of them, one frame at a time."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from random import Random

from agent.dataplane.frames import table
from agent.dataplane.frames.bindings import bindings
from agent.dataplane.frames.table import TableRule
from agent.dataplane.podlinks import PodLink, Sender
from agent.kernel import nf_write as nf
from agent.kernel.netlink import Message, attributes
from agent.kernel.nf_tables import Rule
from agent.kube.model import Key
from agent.proof.frames.lines import INDEX, L4PROTO, META, NAME, PAYLOAD, PROTOCOL, Source, Test, line
from agent.proof.frames.reading import FrameReading
from tests.build import packed

MAC_A, MAC_B, MAC_C = (bytes((2, 0, 0, 0, 0, number)) for number in (1, 2, 3))
V4 = [packed(one) for one in ("10.0.0.1", "10.0.0.2", "10.0.0.9", "0.0.0.0")]
V6 = [packed(one) for one in ("fd00::1", "fd00::2", "fe80::1", "fe80::2", "::", "fd00::9")]


def link(number: int, hardware: bytes, *addresses: str, near: str = "", bridge: str = "cni0") -> PodLink:
    sender = Sender(number, hardware, (packed(near),) if near else ())
    key = Key("x", f"p{number}")
    return PodLink(f"veth{number}", bridge, False, key, tuple(map(packed, addresses)), (), sender)


A = link(1, MAC_A, "10.0.0.1", "fd00::1", near="fe80::1")
B = link(2, MAC_B, "10.0.0.2", "fd00::2", near="fe80::2")


def written(rules: Sequence[TableRule], links: Sequence[PodLink]) -> FrameReading:
    """Return what the kernel would tell of a table with these rules."""
    bound = bindings(links, {})
    made = [nf.add_rule("t", rule.chain, rule.match, nf.verdict(rule.word, rule.target)) for rule in rules]
    made += [nf.add_rule("t", chain, nf.counted(), nf.verdict("drop")) for chain in table.DENIALS]
    hooked = []
    for binding in bound.values():
        chain, jump = table.add_link(binding)
        made.append(jump)
        found = nf.base_chain_of(chain.attributes)
        assert found is not None
        hooked.append(found)
    chains: dict[str, list[Rule]] = {}
    for message in made:
        rule = _rule(message)
        chains.setdefault(rule.chain, []).append(rule)
    return FrameReading(
        True,
        False,
        tuple(hooked),
        {chain: tuple(map(line, some)) for chain, some in chains.items()},
        {name: frozenset(keys) for name, keys in table.keys(bound.values()).items()},
        {binding.number: binding.name for binding in bound.values()},
    )


def _rule(message: Message) -> Rule:
    fields = dict(attributes(message.attributes))
    name = bytes(fields[2]).rstrip(b"\0").decode()
    return Rule("t", name, 0, bytes(fields[4]))


def frames(random: Random) -> Iterator[bytes]:
    """Yield frames of all kinds, of which few are as they should be."""
    while True:
        ethertype, packet = random.choice((_arp, _ipv4, _ipv6, _other))(random)
        source = random.choice((MAC_A, MAC_A, MAC_A, MAC_B, MAC_C))
        tag = b"\x81\x00\0\5" if random.random() < 0.1 else b""
        whole = b"\xff" * 6 + source + tag + ethertype + packet
        yield whole[: random.randrange(14 + len(tag), len(whole))] if random.random() < 0.1 else whole


def _arp(random: Random) -> tuple[bytes, bytes]:
    kind = random.choice((b"\0\1\x08\0\6\4", b"\0\1\x08\0\6\4", b"\0\1\x08\0\6\5"))
    operation = struct.pack("!H", random.choice((1, 2, 3)))
    sender = random.choice((MAC_A, MAC_B)) + random.choice(V4)
    return b"\x08\x06", kind + operation + sender + bytes(10)


def _udp(random: Random) -> bytes:
    ports = random.choice(((68, 67), (67, 68), (547, 546), (1, 2)))
    return struct.pack("!HHHH", *ports, 8, 0)


def _ipv4(random: Random) -> tuple[bytes, bytes]:
    protocol = random.choice((2, 17, 17, 6))
    words = random.choice((5, 5, 5, 6))
    head = struct.pack(
        "!BBHHHBBH", 0x40 | words, 0, 4 * words + 8, 0, random.choice((0, 0, 1)), 64, protocol, 0
    )
    return b"\x08\x00", head + random.choice(V4) + V4[0] + bytes(4 * words - 20) + _udp(random)


def _ipv6(random: Random) -> tuple[bytes, bytes]:
    protocol = random.choice((17, 58, 58, 58, 6))
    kinds = (128, 129, 131, 132, 133, 134, 135, 136, 137, 143, 1)
    body = _udp(random)
    if protocol == 58:
        body = bytes((random.choice(kinds), 0, 0, 0)) + bytes(4) + random.choice(V6)
    first = protocol
    if random.random() < 0.3:
        body, first = struct.pack("!BBHI", protocol, 0, random.choice((0, 1, 8)), 7) + body, 44
    head = struct.pack("!IHBB", 6 << 28, len(body), first, 255)
    return b"\x86\xdd", head + random.choice(V6) + V6[0] + body


def _other(random: Random) -> tuple[bytes, bytes]:
    return random.choice((b"\x88\xb5", b"\x88\x47", b"\0\x2e")), bytes(30)


class Seen:
    """A frame as the kernel hands it to a chain of an interface: by bytes, with its tag set aside."""

    def __init__(self, data: bytes, number: int, name: str) -> None:
        self._data = data
        self._tagged = data[12:14] == b"\x81\x00"
        self._network = data[18:] if self._tagged else data[14:]
        self.protocol = data[16:18] if self._tagged else data[12:14]
        self._of_link: Mapping[int, bytes] = {
            INDEX: struct.pack("=I", number),
            NAME: name.encode().ljust(16, b"\0"),
        }
        self._carried, self._transport, self._fragment = self._behind()

    def _behind(self) -> tuple[int | None, bytes | None, bytes | None]:
        """Return what IP carries, its bytes where it is the first of its fragments, and a fragment's
        offset."""
        packet = self._network
        if self.protocol == b"\x08\x00" and len(packet) >= 20 and packet[0] >> 4 == 4:
            length = 4 * (packet[0] & 15)
            if length < 20 or len(packet) < int.from_bytes(packet[2:4], "big"):
                return None, None, None
            offset = int.from_bytes(packet[6:8], "big") & 0x1FFF
            return packet[9], None if offset else packet[length:], None
        if self.protocol == b"\x86\xdd" and len(packet) >= 40 and packet[0] >> 4 == 6:
            if len(packet) < 40 + int.from_bytes(packet[4:6], "big"):
                return None, None, None
            if packet[6] != socket.IPPROTO_FRAGMENT:
                return packet[6], packet[40:], None
            fragment = packet[42:44]
            first = int.from_bytes(fragment, "big") & 0xFFF8 == 0
            return packet[40], packet[48:] if first else None, fragment
        return None, None, None

    def part(self, source: Source) -> bytes | None:
        if source.kind == META:
            if source.base == PROTOCOL:
                return self.protocol
            if source.base == L4PROTO:
                return None if self._carried is None else bytes((self._carried,))
            return self._of_link[source.base]
        if source.kind != PAYLOAD:
            return self._fragment
        data = {0: self._data, 1: self._network, 2: self._transport}[source.base]
        found = b"" if data is None else data[source.offset : source.offset + source.length]
        return found if len(found) == source.length else None


def passes(reading: FrameReading, data: bytes, number: int) -> bool:
    """Whether a frame passes the table, rule by rule."""
    name = reading.interfaces[number]
    frame = Seen(data, number, name)
    return all(
        _through(reading, chain.name, frame) != "drop" for chain in reading.hooked if name in chain.devices
    )


def _through(reading: FrameReading, chain: str, frame: Seen) -> str:
    for rule in reading.chains.get(chain, ()):
        assert not rule.unread
        if not all(_matches(reading, test, frame) for test in rule.tests):
            continue
        if rule.word in ("accept", "drop"):
            return rule.word
        if rule.word == "return":
            return ""
        found = _through(reading, rule.target, frame)
        if found or rule.word == "goto":
            return found
    return ""


def _matches(reading: FrameReading, test: Test, frame: Seen) -> bool:
    parts = [frame.part(source) for source in test.parts]
    if any(part is None for part in parts):
        return False
    found = [part for part in parts if part is not None]
    if test.of_set:
        key = b"".join(part + bytes(-len(part) % 4) for part in found)
        return (key in (reading.sets[test.of_set] or ())) is not test.negated
    masked = bytes(one & other for one, other in zip(found[0], test.mask, strict=True))
    return (masked == test.value) is not test.negated
