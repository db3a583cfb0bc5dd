"""The blocks of rules, asked which of them opens a network, and for which ports."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from agent.kube.model import IPBlock, Port, Rule
from agent.lint.networks import Networks
from agent.lint.spans import Spans, spans_of
from agent.net import Network

_EVERYWHERE = IPBlock(Network(bytes(4), 0)), IPBlock(Network(bytes(16), 0))


class Opening(NamedTuple):
    """A block of a rule, with the indexes of both; ``peer`` None: the rule has no peers and opens all."""

    rule: int
    peer: int | None
    block: IPBlock
    ports: tuple[Port, ...]


class _Alike:
    """The blocks that say the same: ``first`` has one for each list of ports, by the list's identity."""

    def __init__(self, block: IPBlock) -> None:
        self.excepts = Networks(block.excepts)
        self.first: dict[int, Opening] = {}
        self.lists = 0

    def spans(self) -> Spans[int]:
        """Return what the lists allow, each span with the identity of its list."""
        return Spans((span, key) for key, one in self.first.items() for span in spans_of(one.ports))


class Openings:
    """The blocks of some rules of one direction. ``everywhere``: a rule without peers counts as two blocks.

    A policy may have thousands of each: blocks, excepts, ports. So a question looks at the blocks around
    the network only, at those that say the same once, and at each pair of lists of ports once. The rules must
    live as long as this does.
    """

    def __init__(self, rules: Sequence[Rule], *, everywhere: bool = False) -> None:
        self._groups: dict[Network, dict[tuple[Network, ...], _Alike]] = {}
        for index, rule in enumerate(rules):
            blocks: list[tuple[int | None, IPBlock]] = [
                (n, peer.block) for n, peer in enumerate(rule.peers) if peer.block is not None
            ]
            if everywhere and not rule.peers:
                blocks = [(None, one) for one in _EVERYWHERE]
            for peer, block in blocks:
                groups = self._groups.setdefault(block.cidr, {})
                if (group := groups.get(block.excepts)) is None:
                    group = groups[block.excepts] = _Alike(block)
                group.first.setdefault(id(rule.ports), Opening(index, peer, block, rule.ports))
        self._cidrs = Networks(self._groups)
        numbers: dict[tuple[int, ...], int] = {}
        for groups in self._groups.values():
            for group in groups.values():
                group.lists = numbers.setdefault(tuple(group.first), len(numbers))
        self._closed: set[Network] = set()
        self._met: dict[tuple[int, int], int | None] = {}

    def around(self, network: Network) -> Iterator[Opening]:
        """Give blocks that open every address of a network, the widest first, one of those that are alike."""
        return (next(iter(group.first.values())) for group in self._opening(network))

    def sharing(self, network: Network, ports: tuple[Port, ...]) -> Opening | None:
        """Return a block that opens every address of a network on one of some ports; None: none does.

        ``ports`` are those of a rule that lives as long as this does, () for every port.
        """
        for group in self._opening(network):
            asked = id(ports), group.lists
            if asked not in self._met:
                theirs = group.spans()
                found = map(theirs.meeting, spans_of(ports))
                self._met[asked] = next((key for key in found if key is not None), None)
            if (key := self._met[asked]) is not None:
                return group.first[key]
        return None

    def _opening(self, network: Network) -> Iterator[_Alike]:
        if network in self._closed:
            return
        found = False
        for cidr in self._cidrs.around(network):
            for group in self._groups[cidr].values():
                if not group.excepts.meet(network):
                    found = True
                    yield group
        if not found:
            self._closed.add(network)
