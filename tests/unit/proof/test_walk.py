"""How all packets at once go through chains: jumps, returns, marks, and what cannot be read."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from agent.kernel.ipset_shapes import SetContent, SetShape
from agent.net import AddressPort, Direction, Family, Protocol
from agent.proof.atoms import Atoms
from agent.proof.lines import line
from agent.proof.matches import network
from agent.proof.walk import BACK, DENIED, PASSED, UNREAD, Tables, Walker
from agent.proof.ways import UNNAMED, Way
from agent.reach.addresses import number_of
from agent.reach.known import know
from agent.spec.cluster import cluster_of
from tests.build import packed

OWN, PEER, OTHER = (packed(f"10.0.0.{n}") for n in (1, 2, 3))
SETS = {
    "peers": SetContent(SetShape("hash:ip", Family.V4), {PEER}),
    "ports": SetContent(SetShape("hash:ip,port", Family.V4), {AddressPort(OWN, Protocol.TCP, 80)}),
}


def fate(
    chains: Mapping[str, tuple[str, ...]],
    peer: bytes = PEER,
    port: int = 80,
    way: Way = Way(),  # noqa: B008 - immutable
    protocol: int = Protocol.TCP,
) -> tuple[str, int]:
    """Return what becomes of one packet to :data:`OWN` that comes to the chain ``top``, and its mark."""
    texts = [rule for rules in chains.values() for rule in rules]
    asked = [c.value for text in texts for c in line(text).conditions if c.option in ("-s", "-d")]
    atoms = Atoms(Family.V4, SETS, map(network, asked), know(cluster_of([])))
    walker = Walker(Tables(chains, SETS, (), (), atoms), Direction.INGRESS)
    atom = atoms.at(number_of(peer))
    found = [
        outcome
        for outcome, area in walker.walk("top", number_of(OWN), way).items()
        if any(mask >> atom & 1 and ports.has(protocol, port) for ports, mask in area.items())
    ]
    assert len(found) == 1, "each packet has one end"
    return found[0]


def test_what_a_jump_leads_to_comes_back_and_what_a_goto_leads_to_does_not() -> None:
    inner = {"a": ("-g b", "-j DROP"), "b": ("-j RETURN",)}
    assert fate({"top": ("-j a", "-j ACCEPT"), **inner}) == (PASSED, 0)
    assert fate({"top": ("-g a", "-j ACCEPT"), **inner}) == (BACK, 0)
    assert fate({"top": ("-j a",), "a": ("-j b", "-j DROP"), "b": ()}) == (DENIED, 0)


def test_marks_are_set_cleared_and_asked_for() -> None:
    chains = {
        "top": (
            "-m mark ! --mark 0x0/0x30000 -j MARK --set-xmark 0x0/0x30000",
            "-m set --match-set peers src -j MARK --set-xmark 0x20000/0x20000",
            "-m mark ! --mark 0x20000/0x20000 -j DROP",
        )
    }
    assert fate(chains) == (BACK, 0x20000)
    assert fate(chains, OTHER) == (DENIED, 0)
    assert fate(chains, OTHER, way=Way(mark=0x30001)) == (DENIED, 1)


def test_addresses_ports_and_sets_are_asked_for_together() -> None:
    chains = {
        "top": (
            "-m set ! --match-set ports dst,dst -j RETURN",
            "-s 10.0.0.2/31 -d 10.0.0.1/32 -p tcp -m multiport --dports 22,80:81 -j ACCEPT",
            "-j DROP",
        )
    }
    assert fate(chains) == (PASSED, 0)
    assert fate(chains, OTHER) == (PASSED, 0)
    assert fate(chains, packed("10.0.0.4")) == (DENIED, 0)
    assert fate(chains, port=81) == (BACK, 0)
    assert fate(chains, protocol=1) == (BACK, 0)


def test_the_way_of_a_packet_is_asked_for() -> None:
    chains = {"top": ("-i eth0 -j ACCEPT", "-i cal+ -m conntrack --ctstate NEW -j DROP")}
    assert fate(chains, way=Way(come="eth0")) == (PASSED, 0)
    assert fate(chains, way=Way(come="cali7")) == (DENIED, 0)
    assert fate(chains, way=Way(come="cali7", state="ESTABLISHED")) == (BACK, 0)
    assert fate(chains) == (BACK, 0)


@pytest.mark.parametrize(
    "rule",
    [
        "-m ttl --ttl-eq 7 -j ACCEPT",
        "-p icmp -j ACCEPT",
        "-p icmp -m icmp --icmp-type 8 -j ACCEPT",
        "-m limit --limit 1/sec -j ACCEPT",
        "-m set --match-set gone src -j ACCEPT",
        "-m set --match-set peers src,dst -j ACCEPT",
        "-j nowhere",
        "-j SET --add-set peers src",
    ],
)
def test_what_cannot_be_read_ends_the_way_of_all_that_come_to_it(rule: str) -> None:
    assert fate({"top": (rule,)}) == (UNREAD, 0)
    assert fate({"top": ("-m set --match-set peers src -j DROP", rule)}) == (DENIED, 0)


def test_protocols_that_policies_do_not_tell_apart_are_told_apart_where_it_is_asked() -> None:
    chains = {"top": ("-p gre -j DROP", "! -p esp -j RETURN", "-j ACCEPT")}
    assert fate(chains, protocol=1)[0] == UNREAD
    assert fate(chains, way=Way(protocol=47), protocol=47)[0] == DENIED
    assert fate(chains, way=Way(protocol=50), protocol=50)[0] == PASSED
    assert fate(chains, way=Way(protocol=UNNAMED), protocol=1)[0] == BACK
    assert fate(chains, way=Way(protocol=47))[0] == BACK
    assert fate({"top": ("-p nothing -j DROP",)}, way=Way(protocol=47), protocol=47)[0] == UNREAD
