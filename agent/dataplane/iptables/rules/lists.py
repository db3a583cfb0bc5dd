"""Lists of policies that pods share: so a further policy does not rewrite the chain of each pod it selects.

A pod of a few policies has them in its own chain. One of more leads to a list of them, which all pods of the
same policies share, and which is made of lists of some 30 each. A list is named by what it holds. A policy
that comes or goes so makes one new list of each size, and changes one rule of each pod's chain. Where a list
ends is told by the policy's own hash, so that others stay as they are.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.overlay import Overlay
from agent.dataplane.iptables.rules.rule import Rule, Rules, jump
from agent.kube.model import Key
from agent.net import Direction
from agent.policy.program import PolicyId

FEW = 32
"""As many policies are in a pod's own chain."""

_ENDS = "a"
"""A list ends after an entry whose name ends so: after one of 32, as a hash is written in base32."""

_MOST = 64
"""Entries of a list at most."""


class Entry(NamedTuple):
    """A chain that is jumped to; where it is a policy's, the policy, and the comment on what it allowed."""

    chain: str
    policy: PolicyId | None = None
    about: str = ""


def rules_of(entries: Iterable[Entry], direction: Direction, options: Options) -> list[Rule]:
    """Return rules that ask each chain in turn, and return as soon as one has allowed the packet."""
    bit = f"{options.mark(direction):#x}"
    found = []
    for chain, policy, about in entries:
        found.append(jump(chain, about=policy))
        found.append(jump("RETURN", f"-m mark --mark {bit}/{bit}", about, about=policy))
    return found


def entries_of(
    direction: Direction, policies: Iterable[Key], options: Options
) -> tuple[list[Entry], dict[str, Rules]]:
    """Return what a pod's chain asks for these policies, and the lists that this needs."""
    entries = [_entry(direction, policy) for policy in policies]
    chains: dict[str, Rules] = {}
    if len(entries) <= FEW:
        return entries, chains
    while len(entries) > 1:
        above = []
        for part in _parts(entries):
            name = names.list_chain(direction, [entry.chain for entry in part])
            chains[name] = _list(tuple(part), direction, options)
            above.append(Entry(name))
        entries = above
    return entries, chains


# A pod may have thousands of policies, of which one comes or goes. The entries of all others are as they
# were, and all lists but one of each size.


@lru_cache(maxsize=4096)
def _entry(direction: Direction, policy: Key) -> Entry:
    which = PolicyId(direction, policy)
    return Entry(names.policy_chain(which), which, names.about(f"allowed by {direction} policy", policy))


@lru_cache(maxsize=128)
def _list(part: tuple[Entry, ...], direction: Direction, options: Options) -> Rules:
    return tuple(rules_of(part, direction, options))


def _parts(entries: list[Entry]) -> Iterable[list[Entry]]:
    if len(entries) <= _MOST:
        return [entries]
    found: list[list[Entry]] = [[]]
    for entry in entries:
        found[-1].append(entry)
        if len(found[-1]) == _MOST or (len(found[-1]) > 1 and entry.chain.endswith(_ENDS)):
            found.append([])
    return filter(None, found)


class _List(NamedTuple):
    entries: list[Entry]
    chains: dict[str, Rules]


Which = tuple[Direction, tuple[Key, ...]]
"""The policies of a pod in one direction."""


@dataclass
class Known:
    """The lists in use: of which policies, how many pods need each, and how often each chain is used."""

    lists: dict[Which, _List] = field(default_factory=dict)
    pods: dict[Which, int] = field(default_factory=dict)
    uses: dict[str, int] = field(default_factory=dict)


class Lists:
    """Lists as they are to be. Handles: a pod whose policies change, one that comes, and one that goes."""

    def __init__(self, options: Options, known: Known | None = None) -> None:
        """``known`` changes by :meth:`make` only."""
        known = known or Known()
        self._options = options
        self._lists = Overlay(known.lists)
        self._pods = Overlay(known.pods)
        self._uses = Overlay(known.uses)
        self._few: dict[Which, list[Entry]] = {}
        """What pods ask that are in no list: many that change at once have the same policies."""

    def make(self) -> None:
        """Have the lists be known as they are here."""
        for overlay in (self._lists, self._pods, self._uses):
            overlay.make()

    def uses(self, name: str) -> bool:
        """Whether a pod needs a list."""
        return bool(self._uses.get(name))

    def enter(self, direction: Direction, policies: tuple[Key, ...]) -> tuple[list[Entry], dict[str, Rules]]:
        """Take note of a pod of these policies; return what its chain asks, and the lists that are new."""
        which = (direction, policies)
        if len(policies) <= FEW:
            if which not in self._few:
                self._few[which], _ = entries_of(direction, policies, self._options)
            return self._few[which], {}
        pods, found = self._pods.get(which) or 0, self._lists.get(which)
        self._pods.put(which, pods + 1)
        if found is not None:
            return found.entries, {}
        found = _List(*entries_of(direction, policies, self._options))
        self._lists.put(which, found)
        new = {}
        for name, rules in found.chains.items():
            uses = self._uses.get(name) or 0
            if not uses:
                new[name] = rules
            self._uses.put(name, uses + 1)
        return found.entries, new

    def leave(self, direction: Direction, policies: tuple[Key, ...]) -> set[str]:
        """Take note that a pod of these policies is none any more; return the lists that nobody uses then."""
        which = (direction, policies)
        if len(policies) <= FEW:
            return set()
        pods = self._pods.get(which) or 0
        if pods > 1:
            self._pods.put(which, pods - 1)
            return set()
        self._pods.pop(which)
        left = self._lists.pop(which)
        gone = set()
        for name in () if left is None else left.chains:
            uses = self._uses.pop(name) or 0
            if uses > 1:
                self._uses.put(name, uses - 1)
            else:
                gone.add(name)
        return gone
