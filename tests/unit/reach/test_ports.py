"""Sets of ports as they are written and read."""

from __future__ import annotations

import pytest

from agent.net import Protocol
from agent.reach import ports


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("80", ports.ports(Protocol.TCP, 80, 80)),
        ("tcp/80", ports.ports(Protocol.TCP, 80, 80)),
        ("53/UDP", ports.ports(Protocol.UDP, 53, 53)),
        ("udp/8000-8100", ports.ports(Protocol.UDP, 8000, 8100)),
        ("sctp", ports.ports(Protocol.SCTP)),
        ("other", ports.OTHER),
    ],
)
def test_ports_are_read_as_people_write_them(written: str, expected: ports.Ports) -> None:
    assert ports.read(written) == expected


@pytest.mark.parametrize(
    "written", ["", "http", "tcp/0", "tcp/65536", "tcp/90-80", "tcp/80/udp", "-80", "tcp/"]
)
def test_what_is_no_port_says_how_to_write_it(written: str) -> None:
    with pytest.raises(ValueError, match="is no port; "):
        ports.read(written)


def test_a_set_is_told_by_protocol() -> None:
    web = ports.union(map(ports.read, ("tcp/443", "tcp/80", "udp", "other")))
    assert str(web) == "tcp 80,443; udp all; other protocols"
    assert ports.words(web) == ["tcp/80", "tcp/443", "udp", "other"]
    assert ports.union(map(ports.read, ports.words(web))) == web
    assert (str(ports.ALL), str(ports.NONE)) == ("all", "none")
