"""The trees of isolated addresses, one for each direction and family, kept up to date as chains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.dataplane.iptables.rules import names, render
from agent.dataplane.iptables.rules.rule import Chains, Changes, Leaf, Rules
from agent.dataplane.iptables.rules.tree import LEAF, ROOT, Prefix, build
from agent.kube.model import Key
from agent.net import Direction, Family, family_of
from agent.policy.program import PodId

Tree = tuple[Direction, Family]
_Node = tuple[tuple[Prefix, Key | None], ...]


@dataclass
class _State:
    """What one tree holds: ``nodes`` made of ``placed``, and ``early`` before the entries of the root."""

    addresses: dict[int, Key] = field(default_factory=dict)
    kept: dict[int, Key] = field(default_factory=dict)
    placed: dict[int, Key] = field(default_factory=dict)
    early: dict[int, Key] = field(default_factory=dict)
    nodes: dict[Prefix, _Node] = field(default_factory=dict)

    def copy(self) -> _State:
        return _State(
            dict(self.addresses), dict(self.kept), dict(self.placed), dict(self.early), dict(self.nodes)
        )

    def wanted(self) -> dict[int, Key]:
        return {**self.kept, **self.addresses}


class Trees:
    """Handles: an address isolated, opened, and passing from one pod to another.

    An address that is opened keeps its place until :meth:`prune`, since it is still isolated while the change
    is being made. One that is isolated stands at the root until then, so that the change only adds rules:
    the kernel takes much longer over a transaction that removes any, and a node that splits removes some.
    """

    def __init__(self, families: Iterable[Family]) -> None:
        """Make empty trees; each is rendered whole the first time."""
        self.families = tuple(families)
        self._states = {(d, f): _State() for d in Direction for f in self.families}
        self._touched = set(self._states)

    def copy(self) -> Trees:
        """Return trees that change by themselves from now on."""
        other = Trees(self.families)
        other._states = {tree: state.copy() for tree, state in self._states.items()}
        other._touched = set(self._touched)
        return other

    def leave(self, direction: Direction, address: bytes, pod: Key, *, kept: bool) -> None:
        """Take an address from a pod, if it has it; ``kept``: it is being opened."""
        state = self._touch(direction, address)
        number = int.from_bytes(address, "big")
        if state is not None and state.addresses.get(number) == pod:
            del state.addresses[number]
            if kept:
                state.kept[number] = pod

    def enter(self, direction: Direction, address: bytes, pod: Key) -> None:
        """Give an address to a pod."""
        state = self._touch(direction, address)
        if state is not None:
            number = int.from_bytes(address, "big")
            state.addresses[number] = pod
            state.kept.pop(number, None)

    def update(self) -> Changes:
        """Return the chains that changed since the last call."""
        changes: Changes = {family: {} for family in self.families}
        for tree in sorted(self._touched):
            state = self._states[tree]
            wanted = state.wanted()
            held = state.placed | state.early
            added = {number: pod for number, pod in wanted.items() if number not in held}
            stays = all(wanted.get(number) == pod for number, pod in held.items())
            if stays and state.nodes and len(state.early) + len(added) <= LEAF:
                if added:
                    state.early |= added
                    changes[tree[1]].update(_chain(tree, ROOT, _root(state, tree[1])))
            else:
                _rebuild(tree, state, changes)
        self._touched.clear()
        return changes

    def prune(self) -> Changes:
        """Return the chains that change when each tree takes the shape that its addresses alone give it."""
        changes: Changes = {family: {} for family in self.families}
        for tree, state in self._states.items():
            if state.kept or state.early:
                state.kept = {}
                _rebuild(tree, state, changes)
        return changes

    @property
    def due(self) -> bool:
        """Whether :meth:`update` has something to look at."""
        return bool(self._touched)

    @property
    def prunable(self) -> bool:
        """Whether a tree has another shape than its addresses give it."""
        return any(state.kept or state.early for state in self._states.values())

    def _touch(self, direction: Direction, address: bytes) -> _State | None:
        tree = (direction, family_of(address))
        state = self._states.get(tree)
        if state is not None:
            self._touched.add(tree)
        return state


def _rebuild(tree: Tree, state: _State, changes: Changes) -> None:
    _, family = tree
    before = {**state.nodes, ROOT: _root(state, family)} if state.nodes else {}
    state.placed, state.early = state.wanted(), {}
    state.nodes = {
        node: tuple(
            (entry, state.placed.get(entry.value) if entry.length == family.bits else None)
            for entry in entries
        )
        for node, entries in build(state.placed, family.bits).items()
    }
    for node, entries in state.nodes.items():
        if before.get(node) != entries:
            changes[family].update(_chain(tree, node, entries))
    for node in before.keys() - state.nodes.keys():
        changes[family][render.node_name(*tree, node)] = None


def _root(state: _State, family: Family) -> _Node:
    # The latest first: for a rule inserted at the head the command need not read the chain.
    early = tuple((Prefix(number, family.bits), pod) for number, pod in reversed(state.early.items()))
    return early + state.nodes.get(ROOT, ())


def _chain(tree: Tree, node: Prefix, entries: _Node) -> Chains:
    return render.tree_chain(*tree, node, entries)


def changed_hands(chains: Mapping[Family, Mapping[str, Rules]], owners: Mapping[bytes, Key]) -> set[bytes]:
    """Return the addresses that rules lead to the chain of another pod than has them now."""
    found = set()
    for table in chains.values():
        for chain, rules in table.items():
            if not chain.startswith(names.TREE_PREFIX):
                continue
            for rule in rules:
                if not isinstance(rule.about, Leaf):
                    continue
                owner = owners.get(rule.about.address)
                # Not by the pod of which the rule says that it is: its comment may be cut.
                if owner is not None and rule.target not in {
                    names.pod_chain(PodId(d, owner)) for d in Direction
                }:
                    found.add(rule.about.address)
    return found
