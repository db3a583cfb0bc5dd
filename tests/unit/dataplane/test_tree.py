"""The tree from addresses to pods: canonical, complete, and shallow enough."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.dataplane.iptables.rules.tree import FANOUT_BITS, LEAF, ROOT, Prefix, build

WIDTHS = pytest.mark.parametrize("bits", [32, 128])


@st.composite
def addresses(draw: st.DrawFn, bits: int) -> set[int]:
    """Return addresses in a few clusters, some of them dense and some at the ends of the space."""
    bases = draw(st.lists(st.integers(0, (1 << bits) - 1), min_size=1, max_size=4))
    found: set[int] = set()
    for base in [*bases, 0, (1 << bits) - 1]:
        offsets = draw(st.sets(st.integers(0, draw(st.sampled_from((0, 15, 300, 1 << 20)))), max_size=30))
        found |= {(base + offset) % (1 << bits) for offset in offsets}
    return found


def covers(prefix: Prefix, address: int, bits: int) -> bool:
    return address >> (bits - prefix.length) == prefix.value >> (bits - prefix.length)


def walk(nodes: dict[Prefix, tuple[Prefix, ...]], address: int, bits: int) -> tuple[Prefix | None, int]:
    """Follow an address as a packet does, by goto at the first match; return its entry and the rules met."""
    node, met = ROOT, 0
    while True:
        for entry in nodes[node]:
            met += 1
            if covers(entry, address, bits):
                if entry.length == bits and entry not in nodes:
                    return entry, met
                node = entry
                break
        else:
            return None, met


@WIDTHS
@given(data=st.data())
def test_every_address_is_reached_and_no_other(bits: int, data: st.DataObject) -> None:
    wanted = data.draw(addresses(bits))
    nodes = build(wanted, bits)
    for address in wanted:
        assert walk(nodes, address, bits)[0] == Prefix(address, bits)
    for address in wanted:
        for other in ((address + 1) % (1 << bits), address ^ 1 << (bits // 2)):
            if other not in wanted:
                assert walk(nodes, other, bits)[0] is None


@WIDTHS
@given(data=st.data())
def test_the_shape_depends_on_the_addresses_alone(bits: int, data: st.DataObject) -> None:
    wanted = list(data.draw(addresses(bits)))
    shuffled = data.draw(st.permutations(wanted))
    assert build(wanted, bits) == build(shuffled, bits)


@WIDTHS
@given(data=st.data())
def test_no_node_has_more_entries_than_a_leaf_or_a_fan(bits: int, data: st.DataObject) -> None:
    nodes = build(data.draw(addresses(bits)), bits)
    assert ROOT in nodes
    for node, entries in nodes.items():
        assert len(entries) <= max(LEAF, 1 << FANOUT_BITS)
        assert node == ROOT or len(entries) >= 2
        assert len(set(entries)) == len(entries)
        for entry in entries:
            assert entry.length == bits or entry in nodes
            assert entry.length > node.length or node == ROOT
            assert covers(node, entry.value, bits)
            assert entry.value & ((1 << (bits - entry.length)) - 1) == 0


def test_an_empty_tree_has_its_root() -> None:
    assert build([], 32) == {ROOT: ()}


@WIDTHS
def test_a_node_full_of_pods_costs_a_packet_about_a_dozen_rules(bits: int) -> None:
    base = Random(1).getrandbits(bits) >> 10 << 10
    wanted = [base + host for host in range(1, 241)]
    nodes = build(wanted, bits)
    met = [walk(nodes, address, bits)[1] for address in wanted]
    assert sum(met) / len(met) <= 14
    assert max(met) <= 3 * 8
