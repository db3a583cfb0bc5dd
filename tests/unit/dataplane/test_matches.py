"""Ports as matches of iptables."""

from __future__ import annotations

import re

import pytest
from hypothesis import given

from agent.dataplane.iptables.rules import render
from agent.net import Protocol
from agent.policy.program import PortRange
from tests.unit.dataplane.test_render import port_lists

MATCH = re.compile(r"-p (tcp|udp|sctp)(?: -m (?:\1 --dport|multiport --dports) (\S+))?")


def matched(match: str) -> list[PortRange]:
    """Read a match as iptables does."""
    found = MATCH.fullmatch(match)
    assert found, match
    protocol = Protocol[found[1].upper()]
    if found[2] is None:
        return [PortRange(protocol, 0, 65535)]
    result = []
    for text in found[2].split(","):
        first, _, last = text.partition(":")
        result.append(PortRange(protocol, int(first), int(last or first)))
    return result


@given(port_lists)
def test_the_matches_hold_exactly_the_ports(wanted: list[PortRange]) -> None:
    found = [r for match in render.port_matches(wanted) for r in matched(match)]
    edges = {(p, n) for p, a, b in wanted for n in (a - 1, a, b, b + 1) if 0 <= n <= 65535}
    for protocol, number in edges:
        assert any(p is protocol and a <= number <= b for p, a, b in wanted) == any(
            p is protocol and a <= number <= b for p, a, b in found
        )


@given(port_lists)
def test_a_multiport_match_has_at_most_fifteen_ports_a_range_counting_two(wanted: list[PortRange]) -> None:
    for match in render.port_matches(wanted):
        if "--dports" in match:
            texts = match.split(" ")[-1].split(",")
            assert sum(2 if ":" in text else 1 for text in texts) <= 15
            assert len(texts) > 1


@pytest.mark.parametrize(
    ("wanted", "matches"),
    [
        ([], []),
        ([PortRange(Protocol.TCP, 80, 80)], ["-p tcp -m tcp --dport 80"]),
        ([PortRange(Protocol.UDP, 1, 65535)], ["-p udp -m udp --dport 1:65535"]),
        ([PortRange(Protocol.SCTP, 0, 65535)], ["-p sctp"]),
        (
            [PortRange(Protocol.TCP, 80, 80), PortRange(Protocol.TCP, 90, 99), PortRange(Protocol.UDP, 5, 5)],
            ["-p tcp -m tcp --dport 80", "-p tcp -m tcp --dport 90:99", "-p udp -m udp --dport 5"],
        ),
        (
            [PortRange(Protocol.TCP, n, n + n // 90) for n in (70, 80, 90)],
            ["-p tcp -m multiport --dports 70,80,90:91"],
        ),
    ],
)
def test_ports_are_written_as_iptables_prints_them(wanted: list[PortRange], matches: list[str]) -> None:
    assert render.port_matches(wanted) == matches


def test_fifteen_ports_are_one_match_and_sixteen_are_two() -> None:
    ports = [PortRange(Protocol.TCP, n, n) for n in range(100, 116)]
    assert len(render.port_matches(ports[:15])) == 1
    assert len(render.port_matches(ports)) == 2
    wide = [PortRange(Protocol.TCP, n, n + 5) for n in range(100, 170, 10)]
    assert len(render.port_matches(wide)) == 1
    assert len(render.port_matches([*wide, ports[0]])) == 1
    assert len(render.port_matches([*wide, PortRange(Protocol.TCP, 7, 8)])) == 2
