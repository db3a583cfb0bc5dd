"""The trees of isolated addresses, one for each direction and family, kept up to date as chains."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.dataplane.iptables.rules import names, render
from agent.dataplane.iptables.rules.overlay import Overlay
from agent.dataplane.iptables.rules.rule import Chains, Changes, Leaf, Rules
from agent.dataplane.iptables.rules.tree import LEAF, ROOT, Prefix, build
from agent.kube.model import Key
from agent.net import Direction, Family, family_of
from agent.policy.program import PodId

Tree = tuple[Direction, Family]
_Node = tuple[tuple[Prefix, Key | None], ...]


@dataclass
class State:
    """One tree: ``nodes`` made of ``placed``, and ``early`` before the entries of the root.

    ``addresses`` are those isolated, ``kept`` those that were opened since and keep their place. Only the
    first of these is changed in place; all others are replaced.
    """

    addresses: dict[int, Key] = field(default_factory=dict)
    kept: Mapping[int, Key] = field(default_factory=dict)
    placed: Mapping[int, Key] = field(default_factory=dict)
    early: dict[int, Key] = field(default_factory=dict)
    nodes: Mapping[Prefix, _Node] = field(default_factory=dict)

    @property
    def prunable(self) -> bool:
        """Whether the tree has another shape than its addresses give it."""
        return bool(self.kept or self.early)


class _Draft:
    """One tree as it is to be; ``touched``: the addresses that may have another place since it was made."""

    def __init__(self, state: State) -> None:
        self.state = state
        self.addresses = Overlay(state.addresses)
        self.kept = dict(state.kept)
        self.placed, self.early, self.nodes = state.placed, state.early, state.nodes
        self.touched: set[int] = set()

    def wanted(self, number: int) -> Key | None:
        return self.addresses.get(number) or self.kept.get(number)

    def held(self, number: int) -> Key | None:
        return self.early.get(number) or self.placed.get(number)

    def added(self) -> dict[int, Key]:
        """Return the touched addresses that have no place yet, in the order in which they came."""
        numbers = (n for n in (*self.kept, *self.addresses.changes) if n in self.touched)
        found = {number: self.wanted(number) for number in numbers if self.held(number) is None}
        return {number: pod for number, pod in found.items() if pod is not None}

    def stays(self) -> bool:
        """Whether every address that has a place keeps it, with its pod: the others were not touched."""
        return all(self.held(n) in (None, self.wanted(n)) for n in self.touched)

    def make(self) -> None:
        self.addresses.make()
        state = self.state
        state.kept, state.placed, state.early, state.nodes = self.kept, self.placed, self.early, self.nodes


class Trees:
    """Trees as they are to be. Handles: an address isolated, opened, and passing from one pod to another.

    An address that is opened keeps its place until :meth:`prune`, since it is still isolated while the change
    is being made. One that is isolated stands at the root until then, so that the change only adds rules:
    the kernel takes much longer over a transaction that removes any, and a node that splits removes some.
    """

    def __init__(self, states: Mapping[Tree, State]) -> None:
        """``states`` change by :meth:`make` only; an empty one is rendered whole the first time."""
        self._states = states
        self._drafts = {tree: _Draft(state) for tree, state in states.items() if not state.nodes}

    def make(self) -> None:
        """Have the states be as they are here."""
        for draft in self._drafts.values():
            draft.make()

    def leave(self, direction: Direction, address: bytes, pod: Key, *, kept: bool) -> None:
        """Take an address from a pod, if it has it; ``kept``: it is being opened."""
        draft = self._touch(direction, address)
        number = int.from_bytes(address, "big")
        if draft is not None and draft.addresses.get(number) == pod:
            draft.addresses.pop(number)
            if kept:
                draft.kept[number] = pod

    def enter(self, direction: Direction, address: bytes, pod: Key) -> None:
        """Give an address to a pod."""
        draft = self._touch(direction, address)
        if draft is not None:
            number = int.from_bytes(address, "big")
            draft.addresses.put(number, pod)
            draft.kept.pop(number, None)

    def update(self) -> Changes:
        """Return the chains that changed since the last call."""
        changes: Changes = {family: {} for _, family in self._states}
        for tree, draft in sorted(self._drafts.items(), key=lambda item: item[0]):
            added = draft.added()
            if draft.nodes and draft.stays() and len(draft.early) + len(added) <= LEAF:
                if added:
                    draft.early = {**draft.early, **added}
                    changes[tree[1]].update(_chain(tree, ROOT, _root(draft, tree[1])))
            else:
                _rebuild(tree, draft, changes)
            draft.touched.clear()
        return changes

    def prune(self) -> Changes:
        """Return the chains that change when each tree takes the shape that its addresses alone give it."""
        changes: Changes = {family: {} for _, family in self._states}
        for tree, state in self._states.items():
            draft = self._drafts.get(tree)
            if draft.kept or draft.early if draft is not None else state.prunable:
                draft = self._draft(tree)
                draft.kept = {}
                _rebuild(tree, draft, changes)
        return changes

    @property
    def due(self) -> bool:
        """Whether :meth:`update` has something to look at."""
        return bool(self._drafts)

    def _touch(self, direction: Direction, address: bytes) -> _Draft | None:
        tree = (direction, family_of(address))
        if tree not in self._states:
            return None
        draft = self._draft(tree)
        draft.touched.add(int.from_bytes(address, "big"))
        return draft

    def _draft(self, tree: Tree) -> _Draft:
        if tree not in self._drafts:
            self._drafts[tree] = _Draft(self._states[tree])
        return self._drafts[tree]


def empty(families: Iterable[Family]) -> dict[Tree, State]:
    """Return trees that hold nobody."""
    return {(direction, family): State() for direction in Direction for family in families}


def _rebuild(tree: Tree, draft: _Draft, changes: Changes) -> None:
    _, family = tree
    before = {**draft.nodes, ROOT: _root(draft, family)} if draft.nodes else {}
    draft.placed, draft.early = {**draft.kept, **draft.addresses.whole()}, {}
    draft.nodes = {
        node: tuple(
            (entry, draft.placed.get(entry.value) if entry.length == family.bits else None)
            for entry in entries
        )
        for node, entries in build(draft.placed, family.bits).items()
    }
    for node, entries in draft.nodes.items():
        if before.get(node) != entries:
            changes[family].update(_chain(tree, node, entries))
    for node in before.keys() - draft.nodes.keys():
        changes[family][render.node_name(*tree, node)] = None


def _root(draft: _Draft, family: Family) -> _Node:
    # The latest first: for a rule inserted at the head the command need not read the chain.
    early = tuple((Prefix(number, family.bits), pod) for number, pod in reversed(draft.early.items()))
    return early + draft.nodes.get(ROOT, ())


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
