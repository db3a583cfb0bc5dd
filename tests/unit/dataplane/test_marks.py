"""Which bits of packets' marks the agent takes, from what others use."""

from __future__ import annotations

import struct

import pytest

from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.tables import markuse
from agent.dataplane.iptables.tables.marks import ORDER, RESERVED, choose, held_by
from agent.dataplane.iptables.tables.markuse import FULL, Use
from agent.net import Direction
from agent.runtime.backends import options_of
from tests.unit.test_settings import settings

AUTO = Options(chosen_marks=frozenset(Direction))
FIXED = Options()
IN, OUT = Direction.INGRESS, Direction.EGRESS
DEFAULT = {OUT: 0x10000, IN: 0x20000}


def used(bits: int, cleared: int = 0) -> Use:
    return Use("somebody's rule", bits, cleared)


def test_nobody_in_the_way() -> None:
    assert choose(AUTO, [], {}) == (DEFAULT, ())
    assert choose(FIXED, [], {}) == (DEFAULT, ())


def test_a_bit_in_use_is_left_and_the_other_kept() -> None:
    choice = choose(AUTO, [used(0x1BD10)], {})
    assert choice.bits == {OUT: ORDER[2], IN: 0x20000}
    assert choice.faults == ()
    assert choose(AUTO, [used(0x20000)], {}).bits == {OUT: 0x10000, IN: ORDER[2]}
    both = choose(AUTO, [used(0x30000)], {}).bits
    assert len(set(both.values())) == 2
    assert not markuse.union(both.values()) & (0x30000 | RESERVED)


def test_bits_that_are_held_stay_while_they_are_free() -> None:
    held = {OUT: 0x100, IN: 0x200}
    assert choose(AUTO, [used(0xFF0000)], held).bits == held
    moved = choose(AUTO, [used(0x100)], held).bits
    assert moved == {OUT: 0x10000, IN: 0x200}
    # Neither takes the other's, which a packet on its way may carry.
    crossed = choose(AUTO, [used(0x10000)], {OUT: 0x10000, IN: ORDER[2]}).bits
    assert crossed[IN] == ORDER[2]
    assert crossed[OUT] not in (0x10000, ORDER[2])


def test_bits_that_are_only_cleared_are_avoided_where_others_are_free() -> None:
    assert not markuse.union(choose(AUTO, [used(0, 0xFFFF0000)], {}).bits.values()) & 0xFFFF0000
    assert choose(AUTO, [used(0, FULL)], {}).bits == DEFAULT


def test_where_no_bit_is_free_it_is_said_and_the_usual_ones_are_kept() -> None:
    choice = choose(AUTO, [used(FULL)], {})
    assert choice.bits == DEFAULT
    assert len(choice.faults) == 2
    assert not any(fault.blocking for fault in choice.faults)
    assert "somebody's rule" in choice.faults[0].what
    assert "none of the 32 bits is free" in choice.faults[0].remedy


def test_bits_that_a_person_set_stay_and_are_told_where_they_are_in_use() -> None:
    choice = choose(FIXED, [used(0x1BD10)], {OUT: 0x100, IN: 0x200})
    assert choice.bits == DEFAULT
    (fault,) = choice.faults
    assert "0x10000" in fault.what
    assert "somebody's rule" in fault.what
    assert "--mark-egress" in fault.remedy


def test_where_connections_are_cut_it_is_said_what_a_bit_in_use_refuses() -> None:
    egress, ingress = choose(Options(cut=True), [used(0x30000)], {}).faults
    refused = (" are refused (--cut-denied)" in fault.what for fault in (egress, ingress))
    assert sorted(refused) == [False, True]
    assert not any("--cut-denied" in fault.what for fault in choose(FIXED, [used(0x30000)], {}).faults)


def test_who_overwrites_marks_of_connections_is_told_where_connections_are_cut() -> None:
    uses = [Use("rule 1", 0x9, 0, FULL), Use("rule 2", 0x80, 0, 0x80)]
    assert choose(Options(), uses, {}).faults == ()
    (fault,) = choose(Options(cut=True), uses, {}).faults
    assert fault.what.endswith("and bit 0x10000 of the agent with it: rule 1")
    assert not fault.blocking
    assert choose(Options(cut=True), uses[1:], {}).faults == ()


def test_the_settings_say_which_are_chosen() -> None:
    assert options_of(settings()).chosen_marks == set(Direction)
    mixed = options_of(settings(mark_ingress="0x10000"))
    assert (mixed.mark_ingress, mixed.mark_egress) == (0x10000, 0x20000)
    assert mixed.chosen_marks == {OUT}
    assert choose(mixed, [], {}).bits == {IN: 0x10000, OUT: 0x20000}


def test_what_the_kernel_holds_is_read_from_the_chains_that_set_it() -> None:
    chain = {d: f"KUBE-NETPOL-ALLOW-{d.upper()}" for d in Direction}
    table = {chain[OUT]: ("-j MARK --set-xmark 0x100/0x100",), chain[IN]: ("-j MARK --set-xmark 0x2/0x2",)}
    assert held_by([{}, table]) == {OUT: 0x100, IN: 0x2}
    assert held_by([{chain[OUT]: ("[nft 7 ?]",), chain[IN]: table[chain[OUT]]}]) == {IN: 0x100}


@pytest.mark.parametrize(
    ("name", "revision", "info", "bits", "cleared"),
    [
        ("mark", 1, struct.pack("=IIB", 0x1BD10, FULL, 0), 0x1BD10, 0),
        ("mark", 1, struct.pack("=IIB", 0x100, 0x300, 1), 0x300, 0),
        ("MARK", 2, struct.pack("=II", 0x1BD10, FULL), 0x1BD10, 0),
        ("MARK", 2, struct.pack("=II", 0x40, 0xFF), 0xFF, 0),
        ("MARK", 2, struct.pack("=II", 0x4000, 0x4000), 0x4000, 0),
        ("MARK", 2, struct.pack("=II", 0, 0xFF00), 0, 0xFF00),
        ("MARK", 2, struct.pack("=II", 0, FULL), 0, 0),
        ("connmark", 1, struct.pack("=IIB", 0x7, FULL, 0), 0x7, 0),
        ("CONNMARK", 1, struct.pack("=IIIB", 0x1, 0x1, FULL, 0), 0x1, 0),
        ("CONNMARK", 1, struct.pack("=IIIB", 0, 0x80, 0x80, 1), 0x80, 0),
        ("CONNMARK", 2, struct.pack("=IIIBBB", 0, 0x80, 0x40, 0, 0, 1), 0xC0, 0),
        ("CONNMARK", 2, struct.pack("=IIIBBB", 0, FULL, FULL, 0, 0, 2), 0, 0),
        ("TPROXY", 1, struct.pack("=II", 0x200, 0x200) + bytes(20), 0x200, 0),
        ("comment", 0, b"mark" + bytes(252), 0, 0),
    ],
)
def test_what_a_match_or_target_uses(name: str, revision: int, info: bytes, bits: int, cleared: int) -> None:
    assert markuse.xt(name, revision, info) == (bits, cleared)
