"""Lists of policies that pods share: all policies in order, and little that changes when one comes."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest

from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import lists, names
from agent.dataplane.iptables.rules.lists import FEW, Entry, Lists, entries_of
from agent.dataplane.iptables.rules.rule import Chains
from agent.kube.model import Key
from agent.net import Direction
from agent.policy.program import PolicyId

IN = Direction.INGRESS


def keys(numbers: Iterable[int]) -> tuple[Key, ...]:
    return tuple(Key("tenant", f"p{number:06}") for number in numbers)


def asked(entries: Sequence[Entry], chains: Chains) -> list[str]:
    """Return the chains of policies that a packet meets which none of them allows, in order."""
    found = []
    for entry in entries:
        if entry.chain not in chains:
            found.append(entry.chain)
            continue
        rules = chains[entry.chain]
        for jump, check in zip(rules[::2], rules[1::2], strict=True):
            assert check.startswith("-m mark --mark 0x20000/0x20000 ")
            assert check.endswith("-j RETURN")
            found += asked([Entry(jump.removeprefix("-j "))], chains)
    return found


@pytest.mark.parametrize("count", [0, 1, FEW, FEW + 1, 64, 65, 200, 3000])
def test_every_policy_is_asked_once_in_order_and_no_chain_is_long(count: int) -> None:
    policies = keys(range(count))
    entries, chains = entries_of(IN, policies, Options())
    assert asked(entries, chains) == [names.policy_chain(PolicyId(IN, policy)) for policy in policies]
    assert len(entries) == (count if count <= FEW else 1)
    assert bool(chains) is (count > FEW)
    assert all(len(rules) <= 2 * 64 for rules in chains.values())
    assert all(map(names.is_ours, chains))


@pytest.mark.parametrize("at", [0, 1234, 2999])
def test_a_policy_more_makes_few_lists_new(at: int) -> None:
    policies = keys(n for n in range(3000) if n != at)
    _, before = entries_of(IN, policies, Options())
    _, after = entries_of(IN, keys(range(3000)), Options())
    assert len(after.keys() - before.keys()) <= 9
    assert len(before.keys() - after.keys()) <= 9


def test_lists_are_there_for_as_long_as_a_pod_needs_them() -> None:
    found = Lists(Options())
    one, other = keys(range(100)), keys(range(101))
    _, made = found.enter(IN, one)
    assert made
    assert found.enter(IN, one)[1] == {}
    _, more = found.enter(IN, other)
    assert not made.keys() & more.keys()
    assert found.leave(IN, one) == set()
    gone = found.leave(IN, one)
    assert gone
    assert gone <= made.keys()
    assert not any(map(found.uses, gone))
    assert all(map(found.uses, more))
    assert found.leave(IN, other) == (made.keys() - gone) | more.keys()
    assert found.enter(IN, keys(range(3))) == entries_of(IN, keys(range(3)), Options())
    assert lists.FEW == FEW
