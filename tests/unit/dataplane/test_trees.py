"""Trees as they change: where each address leads, after every step, and what a step removes."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from agent.dataplane.iptables.rules import names, render, script
from agent.dataplane.iptables.rules.rule import Changes
from agent.dataplane.iptables.rules.tree import LEAF, ROOT
from agent.dataplane.iptables.rules.trees import Trees, empty
from agent.kube.model import Key
from agent.net import Direction, Family
from agent.policy.program import PodId

IN, V4 = Direction.INGRESS, Family.V4
NUMBERS = st.integers(1, 40) | st.sampled_from([250, 256, 1 << 16])
STEPS = st.lists(st.dictionaries(NUMBERS, st.integers(0, 3), max_size=20), max_size=8)
"""After each step, which addresses have which pod."""


def numbered(number: int) -> bytes:
    return (0x0A000000 + number).to_bytes(4, "big")


def owner_key(number: int, owner: int) -> Key:
    return Key("default", f"p{number}-{owner}")


class Held:
    """Chains as the kernel holds them, and where they lead a packet."""

    def __init__(self) -> None:
        self.chains: dict[str, tuple[str, ...]] = {}
        self.removed = False

    def take(self, changes: Changes) -> None:
        written = {c: r for c, r in changes[V4].items() if r is not None}
        old = {c: self.chains[c] for c in written if c in self.chains}
        self.removed = any(script.insertions(old[c], written[c]) is None for c in old)
        for chain, rules in changes[V4].items():
            if rules is None:
                del self.chains[chain]
            else:
                self.chains[chain] = rules

    def leads_to(self, number: int) -> str:
        chain = render.node_name(IN, V4, ROOT)
        while chain in self.chains:
            for rule in self.chains[chain]:
                network, target = rule.split()[1], rule.split()[-1]
                address, length = network.split("/")
                shift = 32 - int(length)
                first = int.from_bytes(bytes(map(int, address.split("."))), "big")
                if (0x0A000000 + number) >> shift == first >> shift:
                    chain = target
                    break
            else:
                return ""
        return chain


def move(trees: Trees, before: dict[int, int], after: dict[int, int]) -> None:
    for number, owner in before.items():
        if after.get(number) != owner:
            trees.leave(IN, numbered(number), owner_key(number, owner), kept=False)
    for number, owner in after.items():
        trees.enter(IN, numbered(number), owner_key(number, owner))


@given(STEPS, st.data())
def test_every_address_leads_to_its_pod_after_each_step_and_pruned_trees_know_no_history(
    steps: list[dict[int, int]], data: st.DataObject
) -> None:
    states = empty([V4])
    trees, held = Trees(states), Held()
    now: dict[int, int] = {}
    held.take(trees.update())
    for step in steps:
        move(trees, now, step)
        now = step
        held.take(trees.update())
        for number in {*range(1, 45), 250, 256, 1 << 16}:
            owner = now.get(number)
            wanted = "" if owner is None else names.pod_chain(PodId(IN, owner_key(number, owner)))
            assert held.leads_to(number) == wanted
        if data.draw(st.booleans()):
            held.take(trees.prune())
    held.take(trees.prune())
    trees.make()
    assert not any(tree.prunable for tree in states.values())
    fresh, new = Trees(empty([V4])), Held()
    move(fresh, {}, now)
    new.take(fresh.update())
    assert held.chains == new.chains


def test_a_few_addresses_that_come_remove_nothing_though_a_node_will_split() -> None:
    states = empty([V4])
    trees, held = Trees(states), Held()
    now = dict.fromkeys(range(1, LEAF + 1), 0)
    move(trees, {}, now)
    held.take(trees.update())
    move(trees, now, {**now, 1 << 16: 0})
    held.take(trees.update())
    assert not held.removed
    trees.make()
    assert any(tree.prunable for tree in states.values())
    held.take(trees.prune())
    assert held.removed


def test_an_address_that_is_opened_keeps_its_place_until_the_tree_is_pruned() -> None:
    states = empty([V4])
    trees, held = Trees(states), Held()
    move(trees, {}, {1: 0, 2: 0})
    held.take(trees.update())
    trees.leave(IN, numbered(1), owner_key(1, 0), kept=True)
    held.take(trees.update())
    assert held.leads_to(1) == names.pod_chain(PodId(IN, owner_key(1, 0)))
    held.take(trees.prune())
    assert held.leads_to(1) == ""
