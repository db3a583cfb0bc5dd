"""Restore lines: carried out on a model of chains they give what is wanted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.dataplane.iptables.rules import script

CHAINS = ("A", "B", "C")
rules = st.lists(st.sampled_from(("r1", "r2", "r3", "r4")), max_size=6).map(tuple)
tables = st.dictionaries(st.sampled_from(CHAINS), rules, max_size=3)


def carry_out(current: dict[str, tuple[str, ...]], lines: list[str]) -> dict[str, tuple[str, ...]]:
    """Do what iptables-restore --noflush does."""
    chains = {chain: list(found) for chain, found in current.items()}
    for line in lines:
        if line.startswith(":"):
            chains[line[1:].split()[0]] = []
            continue
        command, chain, *rest = line.split()
        if command == "-A":
            chains[chain] += rest
        elif command == "-I":
            position, rule = rest
            assert 1 <= int(position) <= len(chains[chain]) + 1
            chains[chain].insert(int(position) - 1, rule)
        else:
            assert command == "-X"
            assert not chains.pop(chain)
    return {chain: tuple(found) for chain, found in chains.items()}


@given(tables, tables)
def test_the_lines_give_the_wanted_chains_and_leave_the_others(
    current: dict[str, tuple[str, ...]], wanted: dict[str, tuple[str, ...]]
) -> None:
    assert carry_out(current, script.lines(current, wanted)) == {**current, **wanted}


@given(rules, st.data())
def test_a_chain_that_only_gains_is_not_emptied(old: tuple[str, ...], data: st.DataObject) -> None:
    new = list(old)
    for rule in data.draw(rules):
        new.insert(data.draw(st.integers(0, len(new))), rule)
    lines = script.lines({"A": old}, {"A": tuple(new)})
    assert len(lines) == len(new) - len(old)
    assert not [line for line in lines if line.startswith((":", "-D", "-X"))]
    assert carry_out({"A": old}, lines) == {"A": tuple(new)}


@given(rules, rules)
def test_insertions_are_told_exactly_when_they_are_enough(old: tuple[str, ...], new: tuple[str, ...]) -> None:
    at = iter(new)
    contained = all(rule in at for rule in old)
    assert (script.insertions(old, new) is not None) == contained


@given(tables)
def test_nothing_is_written_for_what_is_there(current: dict[str, tuple[str, ...]]) -> None:
    assert script.lines(current, current) == []


@given(tables)
def test_chains_that_refer_to_each_other_are_emptied_before_they_go(
    current: dict[str, tuple[str, ...]],
) -> None:
    lines = script.deletions(current)
    assert carry_out(current, lines) == {}
    kinds = ["-X" if line.startswith("-X") else ":" for line in lines]
    assert kinds == sorted(kinds, reverse=True)


def test_chains_are_declared_before_any_rule() -> None:
    lines = script.lines({"A": ("x",)}, {"A": ("y",), "B": ("z",)})
    assert lines == [":A - [0:0]", ":B - [0:0]", "-A A y", "-A B z"]


@given(tables, st.integers(1, 12))
def test_parts_make_the_same_chains_and_say_what_each_has_made(
    wanted: dict[str, tuple[str, ...]], size: int
) -> None:
    made: dict[str, tuple[str, ...]] = {}
    for lines, whole in script.parts(wanted, size):
        made = carry_out(made, lines)
        assert {chain: made[chain] for chain in whole} == whole
        assert len(lines) < size + 6
    assert made == wanted
