"""The rules that lead from an interface to what becomes of a pod's strange packets."""

from __future__ import annotations

import random
import re

import pytest

from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.linked import Linked, linked, verdicts
from agent.dataplane.podlinks import PodLink
from agent.kube.model import Key
from agent.net import Direction, Family
from agent.policy.lower.lowered import LoweredProgram
from agent.policy.program import PodId, PodProgram, network_policies

POLICY = Key("x", "allow")
OPTIONS = Options()


def numbered(number: int) -> bytes:
    return bytes((10, 244, number >> 8, number & 255))


def link(
    number: int, name: str, *, bridge: str = "cni0", pod: bool = True, others: tuple[bytes, ...] = ()
) -> PodLink:
    return PodLink(name, bridge, False, Key("x", f"p{number}") if pod else None, (numbered(number),), others)


def program(*numbers: int, direction: Direction = Direction.EGRESS) -> LoweredProgram:
    pods = {
        PodId(direction, Key("x", f"p{n}")): PodProgram((numbered(n),), network_policies((POLICY,)))
        for n in numbers
    }
    return LoweredProgram(pods=pods)


def walk(found: Linked, interface: str, source: bytes) -> tuple[str, int]:
    """Return where a packet ends, and how many rules it meets: by the matches that these rules have."""
    chains, met = found.chains, 0
    text = ".".join(map(str, source))

    def matches(rule: str, marked: bool) -> bool:
        if "! --mark 0x0/" in rule:
            return marked
        if "! --mark" in rule and marked:
            return False
        for pattern, value in ((r"-s (\S+)/32", text), (r"(?:-i|--physdev-in) (\S+)", interface)):
            if (wanted := re.search(pattern, rule)) is not None:
                start, plus, _ = wanted[1].partition("+")
                if value != start and not (plus and value.startswith(start)):
                    return False
        if (net := re.search(r"-s (\S+)/(\d+) ", rule)) and net[2] != "32":
            number, bits = int.from_bytes(source, "big"), 32 - int(net[2])
            base = int.from_bytes(bytes(map(int, net[1].split("."))), "big")
            return number >> bits == base >> bits
        return True

    def run(chain: str, marked: bool) -> tuple[str, bool]:
        nonlocal met
        for rule in chains[chain]:
            met += 1
            if not matches(rule, marked):
                continue
            target = re.search(r"-([jg]) (\S+)", rule)
            assert target is not None
            if target[2] == "MARK":
                marked = False
            elif target[2] == names.allow(Direction.EGRESS):
                marked = True
                if target[1] == "g":
                    return "", marked
            elif target[2] == names.DENY:
                return "denied", marked
            elif target[2] not in chains:
                return "judged", marked
            else:
                ended, marked = run(target[2], marked)
                if ended or target[1] == "g":
                    return ended, marked
        return "", marked

    ended, marked = run(names.links_chain(Direction.EGRESS), False)
    assert not marked or ended
    return ended or "goes on", met


@pytest.mark.parametrize("bridge", ["cni0", ""])
def test_each_packet_meets_few_rules_whoever_sends_it(bridge: str) -> None:
    generator = random.Random(7)
    count = 250
    links = [
        link(n, f"veth{generator.getrandbits(32):08x}", bridge=bridge, others=(bytes((192, 0, 2, n)),))
        for n in range(count)
    ]
    isolated = range(0, count, 2)
    found = linked(verdicts(program(*isolated), tuple(links)), Family.V4, OPTIONS)
    for n, one in enumerate(links):
        ended, met = walk(found, one.name, numbered(n))
        assert ended == "goes on"
        assert met <= 30
        # Another's address, nobody's, one of its own that the API does not know.
        expected = ("denied", "denied", "judged") if n in isolated else ("goes on",) * 3
        strange = (numbered((n + 1) % count), b"\xc0\0\2\xff", bytes((192, 0, 2, n)))
        for source, verdict in zip(strange, expected, strict=True):
            assert walk(found, one.name, source)[0] == verdict
    assert walk(found, "eth0", numbered(3))[0] == "goes on"


def test_names_that_begin_alike_are_told_apart() -> None:
    shapes = ("veth1", "veth10", "veth11", "veth2", "veth", "cali0", "cali01", "x", "veth100", "veth101")
    links = tuple(link(n, name) for n, name in enumerate(shapes))
    found = linked(verdicts(program(*range(0, len(shapes), 2)), links), Family.V4, OPTIONS)
    for n, name in enumerate(shapes):
        assert walk(found, name, numbered(99))[0] == ("denied" if n % 2 == 0 else "goes on")
        assert walk(found, name, numbered(n))[0] == "goes on"


def test_a_link_of_which_it_is_not_clear_whose_it_is_carries_what_it_may_be_sent_from() -> None:
    links = (link(1, "veth1", pod=False), link(2, "veth2"))
    found = linked(verdicts(program(2), links), Family.V4, OPTIONS)
    assert walk(found, "veth1", numbered(1))[0] == "goes on"
    assert walk(found, "veth1", numbered(2))[0] == "denied"


def test_where_nobody_is_isolated_there_is_no_rule() -> None:
    links = (link(1, "veth1", others=(numbered(9),)), link(2, "veth2", pod=False))
    assert linked(verdicts(LoweredProgram(), links), Family.V4, OPTIONS) == Linked()
    found = linked(verdicts(program(1, direction=Direction.INGRESS), (links[0],)), Family.V4, OPTIONS)
    assert not found.ways.tcp
    assert not found.ways.others
    assert found.ways.late


def test_what_comes_from_uplinks_is_not_asked_for_its_link() -> None:
    links = (link(1, "veth1"), link(2, "cali2", bridge=""), link(3, "calixyz", bridge=""))
    found = linked(verdicts(program(1, 2, 3), links), Family.V4, OPTIONS)
    egress = names.links_chain(Direction.EGRESS)
    assert found.ways.tcp == (f"-i cal+ -p tcp -j {egress}", f"-i cni0 -p tcp -j {egress}")
    assert found.ways.others == (f"-i cal+ ! -p tcp -j {egress}", f"-i cni0 ! -p tcp -j {egress}")


def test_an_address_that_stays_closed_closes_the_link_that_it_is_behind() -> None:
    closed = LoweredProgram()
    closed.closed[Direction.EGRESS].add(numbered(1))
    found = linked(verdicts(closed, (link(1, "veth1"),)), Family.V4, OPTIONS)
    assert walk(found, "veth1", numbered(9))[0] == "denied"


@pytest.mark.parametrize("shared", [False, True])
def test_an_address_claimed_by_an_open_pod_too_is_nobodys_where_packets_are_routed_into_a_bridge(
    shared: bool,
) -> None:
    others = (numbered(77), numbered(88))
    links = (
        link(1, "veth1", others=others)._replace(shared=shared),
        link(2, "veth2", others=(numbered(88),))._replace(shared=shared),
    )
    found = linked(verdicts(program(1, direction=Direction.INGRESS), links), Family.V4, OPTIONS)
    into = [rule.split()[-1] for rule in found.ways.late if "! --physdev-is-bridged" in rule]
    rules = [rule for chain in into for rule in found.chains[chain]]
    assert [rule.split()[1] for rule in rules] == ([] if shared else ["10.244.0.77/32"])
