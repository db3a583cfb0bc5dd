"""The segments by which the ends of a connection are asked where they are."""

from __future__ import annotations

import errno
import socket
import struct

import pytest

from agent.kernel.conntrack import Tuple
from agent.kernel.resets import Resets, checksum, segment
from tests.build import packed

SYN_ACK = 0x12


@pytest.mark.parametrize(("source", "destination"), [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")])
def test_a_segment_is_between_the_ends_and_has_the_right_sum(source: str, destination: str) -> None:
    way = Tuple(packed(source), packed(destination), socket.IPPROTO_TCP, 40000, 443)
    sent = segment(way, SYN_ACK)
    head, tcp = sent[:-20], sent[-20:]
    if len(head) == 20:
        assert (head[0], struct.unpack_from("!H", head, 2)[0], head[9]) == (0x45, len(sent), 6)
        pseudo = way.source + way.destination + bytes((0, 6)) + struct.pack("!H", len(tcp))
    else:
        assert (head[0] >> 4, struct.unpack_from("!H", head, 4)[0], head[6]) == (6, len(tcp), 6)
        pseudo = way.source + way.destination + struct.pack("!II", len(tcp), 6)
    assert head.endswith(way.source + way.destination)
    assert struct.unpack_from("!HH", tcp) == (40000, 443)
    assert tcp[12:14] == bytes((0x50, SYN_ACK))
    # A sum with its own complement in it is nothing (RFC 1071).
    assert checksum(pseudo + tcp) == 0


def test_why_no_end_can_be_asked_is_returned(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object) -> socket.socket:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    way = Tuple(packed("10.0.0.1"), packed("10.0.0.2"), socket.IPPROTO_TCP, 40000, 443)
    monkeypatch.setattr(socket, "socket", refused)
    with Resets() as resets:
        error = resets.ask([(way, way)], 1)
        assert error is not None
        assert error.errno == errno.EPERM
        assert resets.ask([], 1) is None
