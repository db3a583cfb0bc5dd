"""Connections of some ends, by their own marks: picked by the kernel, or searched for here."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Set

import pytest

from agent.kernel import conntrack, marked
from agent.kernel.marked import Connection
from agent.kernel.netlink import NESTED, Message, NetlinkSocket, attribute, attributes
from agent.net import address_text
from tests.build import packed
from tests.kernel.test_conntrack import count, entry
from tests.lab.netns import Netns
from tests.lab.tracked import ASSURED, CONFIRMED, ESTABLISHED, SEEN_REPLY, SYN_RECEIVED, stream

BIT = 0x10000
FOUR = tuple(packed(f"10.0.0.{n}") for n in range(6))
SIX = tuple(packed(f"fd00::{n}") for n in range(6))
SERVICE = {4: packed("10.96.0.1"), 16: packed("fd96::1")}

pytestmark = pytest.mark.usefixtures("netns")


@pytest.fixture(params=["picked", "searched", "unheeded", "opposite"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How connections are found: kernels do not heed the filter, or give what was not asked for, too."""
    way: str = request.param
    monkeypatch.setattr(conntrack, "_READ_MS", 0.0 if way == "searched" else 1e9)
    if way == "unheeded":
        monkeypatch.setattr(conntrack, "_FILTER", 100)
    if way == "opposite":
        monkeypatch.setattr(NetlinkSocket, "dump", _opposite)
    return way


def _opposite(self: NetlinkSocket, message: Message, *, behind: int = 4) -> Iterator[memoryview]:
    """Answer as kernels do that have taken the comparison of addresses the wrong way round."""
    sides = {conntrack.OPENING.of_tuple: conntrack.OPENING, conntrack.ANSWERING.of_tuple: conntrack.ANSWERING}
    asked = dict(attributes(message.attributes))
    every = [bytes(one) for one in _dump(self, message._replace(attributes=b""), behind=behind)]
    if conntrack._FILTER not in asked:
        yield from (memoryview(one) for one in every)
        return
    (side,) = (side for kind, side in sides.items() if kind in asked)
    ((_, ip),) = attributes(asked[side.of_tuple])
    ((_, address),) = attributes(ip)
    for one in every:
        end = conntrack.ends_of(memoryview(one))[side.at]
        if len(end) == len(address) and end != address:
            yield memoryview(one)


_dump = NetlinkSocket.dump


def made(*entries: Message) -> None:
    with NetlinkSocket() as netlink:
        assert netlink.request(entries) == []


def of(ends: Set[bytes], bit: int = BIT) -> list[Connection]:
    return list(marked.connections(bit, ends, lambda source, to, *_: source in ends or to in ends))


def found(ends: Set[bytes], bit: int = BIT) -> list[tuple[str, str, int]]:
    return sorted(
        (address_text(one.opened.source), address_text(one.reply.source), one.opened.source_port)
        for one in of(ends, bit)
    )


@pytest.mark.parametrize("hosts", [FOUR, SIX], ids=["v4", "v6"])
def test_an_end_is_who_opens_a_connection_or_what_answers_it(hosts: tuple[bytes, ...]) -> None:
    service = SERVICE[len(hosts[0])]
    made(
        entry(hosts[1], hosts[2], 1),
        entry(hosts[2], hosts[1], 2),
        entry(hosts[3], service, 3, answering=hosts[1]),
        entry(hosts[1], service, 4, answering=hosts[3]),
        entry(hosts[3], hosts[2], 5),
        entry(hosts[1], hosts[1], 6),
    )
    one, two, three = map(address_text, hosts[1:4])
    of_one = [(one, one, 6), (one, two, 1), (one, three, 4), (two, one, 2), (three, one, 3)]
    assert found({hosts[1]}) == sorted(of_one)
    # Each once, whichever end it is found by.
    assert found({hosts[1], hosts[2], hosts[3]}) == sorted([*of_one, (three, two, 5)])
    # What was asked for is not what answers.
    assert found({service}) == []
    assert found({hosts[5]}) == []
    assert found(set()) == []


def test_both_families_are_found_at_once() -> None:
    made(*(entry(hosts[1], hosts[2], 1) for hosts in (FOUR, SIX)), entry(FOUR[3], FOUR[4], 2))
    assert len(found({FOUR[1], SIX[2]})) == 2
    assert [one for one, _, _ in found({SIX[1]})] == [address_text(SIX[1])]


def test_connections_of_each_zone_are_found() -> None:
    zones = (b"", *(attribute(18, struct.pack("!H", number)) for number in (7, 8)))
    made(*(entry(FOUR[1], FOUR[2], 1, zone) for zone in zones))
    assert len(found({FOUR[1]})) == len(found({FOUR[2]})) == 3
    assert len({one.entry for one in of({FOUR[1], FOUR[2]})}) == 3


def test_what_carries_the_bit_is_not_found_again() -> None:
    made(*(entry(hosts[1], hosts[2], port) for hosts in (FOUR, SIX) for port in (1, 2)))
    first = of({FOUR[1], SIX[1]})
    chosen = [one for one in first if one.opened.source_port == 1]
    assert marked.mark(chosen, BIT) == chosen
    assert [port for _, _, port in found({FOUR[2], SIX[2]})] == [2, 2]
    assert len(found({FOUR[2], SIX[2]}, BIT << 1)) == 4
    carrying = marked.carrying(BIT, lambda *_: True)
    assert {one.entry for one in carrying} == {one.entry for one in chosen}
    opened = list(marked.opened([one.opened for one in first]))
    assert {one.opened for one in opened} == {one.opened for one in first}


@pytest.mark.parametrize("seen", [SEEN_REPLY, SEEN_REPLY | ASSURED], ids=["replied", "assured"])
def test_what_was_being_opened_when_it_was_found_is_marked_as_all_others(netns: Netns, seen: int) -> None:
    """The kernel takes no status that lacks what it has seen since."""
    opening = [stream((FOUR[1], FOUR[2]), (port, 80), SYN_RECEIVED, CONFIRMED) for port in (1, 2, 3)]
    made(*opening)
    first = of({FOUR[2]})
    assert [one.replied for one in first] == [False] * 3
    made(stream((FOUR[1], FOUR[2]), (2, 80), ESTABLISHED, CONFIRMED | seen))
    marks = marked.mark(first, BIT)
    assert {(one.opened.source_port, one.replied) for one in marks} == {(1, False), (2, True), (3, False)}
    assert found({FOUR[2]}) == []
    kept = netns.run(["conntrack", "-L"]).splitlines()
    assert [3590 < int(line.split()[2]) <= marked.SILENT_SECONDS for line in kept] == [True] * 3


def test_what_a_helper_listens_to_is_known() -> None:
    ftp = attribute(5 | NESTED, attribute(1, b"ftp\0"))
    made(stream((FOUR[1], FOUR[2]), (1, 21), more=ftp), stream((FOUR[1], FOUR[2]), (2, 80)))
    assert {one.opened.port: one.helped for one in of({FOUR[2]})} == {21: True, 80: False}


def test_what_is_to_be_done_between_walks_is(way: str) -> None:
    made(entry(FOUR[1], FOUR[2], 1))
    done: list[str] = []
    list(marked.connections(BIT, {FOUR[3], FOUR[4]}, lambda *_: False, lambda: done.append("")))
    assert len(done) == {"picked": 4, "searched": 0}.get(way, 1)


def test_a_long_table(netns: Netns) -> None:
    made(*(entry((0x0A010000 + n % 500).to_bytes(4), (0x0A020000 + n).to_bytes(4), 1) for n in range(30_000)))
    assert len(found({packed("10.1.0.7")})) == 60
    assert len(found({packed("10.1.0.7"), packed("10.2.0.7"), packed("fd00::1")})) == 60
    assert count(netns) == 30_000
