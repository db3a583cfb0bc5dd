"""What a pod takes, and from whom; what it may send, and to whom: as the specification says, for all at once.

:func:`agent.spec.evaluator.judge_direction` answers for one packet. Here the same rules are read for sets of
addresses, protocols and ports; which policies isolate a pod, what a selector matches and what a port's name
stands for is asked of the specification itself.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

from agent.kube.model import Key, Peer, Pod, Port, Rule, Selector
from agent.net import Direction, Protocol
from agent.reach import ports
from agent.reach.known import Known, Look, Standing, bits
from agent.reach.ports import ALL, NONE, Ports
from agent.reach.region import Piece, Region, region
from agent.spec.evaluator import isolating

Share = tuple[tuple[int, Ports], ...]
"""Sets of parts and what is allowed with each: no part is in two, and parts with nothing are in none."""


def admits(known: Known, pod: Key, direction: Direction) -> Region:
    """Return what policies let a pod take (ingress: from which address) or send (egress: to which).

    The set has (peer address, protocol, destination port). What it sends itself is in it. Raises KeyError for
    a pod that is not judged: on the host's network, finished, or whose address is a newer pod's.
    """
    standing = known.standings[pod]
    pieces: list[Piece] = []
    for parts, allowed in Rules(known).share(standing.look, direction):
        for part in bits(parts):
            pieces += [(first, end, allowed) for first, end in known.addresses[part]]
    return region(pieces) | region((number, number + 1, ALL) for number in known.numbers[pod])


@dataclass
class Rules:
    """The policies of a cluster, read for its parts; what has been read once is remembered."""

    known: Known
    _shares: dict[tuple[int, Direction], Share] = field(default_factory=dict)
    _rows: dict[tuple[int, Direction], Sequence[Ports]] = field(default_factory=dict)
    _peers: dict[tuple[str, Peer], int] = field(default_factory=dict)
    _selected: dict[Selector, int] = field(default_factory=dict)
    _named: dict[tuple[str, Protocol], Mapping[int, int]] = field(default_factory=dict)
    _ways: dict[tuple[Share, Share], int] = field(default_factory=dict)
    _labels: tuple[dict[str, str], ...] = field(init=False)

    def __post_init__(self) -> None:
        self._labels = tuple(dict(look.labels) for look in self.known.looks)

    def share(self, look: int, direction: Direction) -> Share:
        """Return what pods of a look take or may send, by parts; what one sends itself is not in it."""
        found = self._shares.get((look, direction))
        if found is None:
            found = self._shares[look, direction] = self._share(look, direction)
        return found

    def row(self, look: int, direction: Direction) -> Sequence[Ports]:
        """Return the same as a list with an entry for each part."""
        found = self._rows.get((look, direction))
        if found is None:
            row = [NONE] * len(self.known.parts)
            for parts, allowed in self.share(look, direction):
                for part in bits(parts):
                    row[part] = allowed
            found = self._rows[look, direction] = row
        return found

    def alike(self, standing: Standing) -> Standing:
        """Return the same for all pods that no policy tells apart: which allow the same, and are allowed it.

        That is less than to look the same: a label that selectors name may make no difference.
        """
        look, parts = standing
        ways = (self.share(look, Direction.INGRESS), self.share(look, Direction.EGRESS))
        return Standing(
            self._ways.setdefault(ways, look), tuple(sorted({self._classes[part] for part in parts}))
        )

    @cached_property
    def _classes(self) -> Sequence[int]:
        """Return for each part the first that is alike: a pod may do the same with both."""
        found: list[object] = [(part.family, part.look is None) for part in self.known.parts]
        looks = range(len(self.known.looks))
        for share in {self.share(look, direction) for look in looks for direction in Direction}:
            told: dict[object, object] = {}
            for index, (parts, _) in enumerate(share):
                for part in bits(parts):
                    found[part] = told.setdefault((found[part], index), object())
        first: dict[object, int] = {}
        return [first.setdefault(one, number) for number, one in enumerate(found)]

    def _share(self, look: int, direction: Direction) -> Share:
        pod = self.known.examples[look]
        policies = isolating(self.known.namespaces[pod.namespace], direction, pod)
        if not policies:
            return ((self.known.every, ALL),)
        found: defaultdict[Ports, int] = defaultdict(int)
        for policy in policies:
            for rule in policy.rules(direction) or ():
                for parts, allowed in self._rule(policy.namespace, rule, look, direction):
                    found[allowed] |= parts
        return laid_over(found.items(), self.known.every)

    def _rule(
        self, namespace: str, rule: Rule, look: int, direction: Direction
    ) -> Iterator[tuple[int, Ports]]:
        """Give which parts a rule allows what: one that has ports by name, of each number its own."""
        peers = self.known.every if not rule.peers else 0
        for peer in rule.peers:
            peers |= self.peer(namespace, peer)
        yield peers, numbered(rule.ports)
        for port in rule.ports:
            if not isinstance(port.port, str):
                continue
            if direction is Direction.INGRESS:
                yield peers, on(self.known.looks[look], port)
                continue
            for number, parts in self._having(port.port, port.protocol).items():
                yield peers & parts, ports.ports(port.protocol, number, number)

    def peer(self, namespace: str, peer: Peer) -> int:
        """Return the parts that a peer of a policy of a namespace matches (``NetworkPolicyPeer``)."""
        found = self._peers.get((namespace, peer))
        if found is None:
            found = self._peers[namespace, peer] = self._peer(namespace, peer)
        return found

    def _peer(self, namespace: str, peer: Peer) -> int:
        known = self.known
        if peer.block is not None:
            return known.of_block[peer.block]
        if peer.pod_selector is None and peer.namespace_selector is None:
            return 0
        if peer.namespace_selector is None:
            names = {namespace}
        else:
            chosen = known.cluster.namespaces.values()
            names = {one.name for one in chosen if peer.namespace_selector.matches(one.labels)}
        within = 0
        for name in names:
            within |= known.of_namespace.get(name, 0)
        return within & self._matched(peer.pod_selector or Selector())

    def _matched(self, selector: Selector) -> int:
        found = self._selected.get(selector)
        if found is None:
            found = 0
            for labels, parts in zip(self._labels, self.known.of_look, strict=True):
                found |= parts if selector.matches(labels) else 0
            self._selected[selector] = found
        return found

    def _having(self, name: str, protocol: Protocol) -> Mapping[int, int]:
        """Return the parts of pods that have a port of a name, by its number there."""
        found = self._named.get((name, protocol))
        if found is None:
            numbers: defaultdict[int, int] = defaultdict(int)
            for look, parts in zip(self.known.looks, self.known.of_look, strict=True):
                for port in look.ports:
                    if (port.name, port.protocol) == (name, protocol):
                        numbers[port.port] |= parts
            found = self._named[name, protocol] = numbers
        return found


def numbered(given: Sequence[Port]) -> Ports:
    """Return the ports of a rule but those by name; without any: all ports of all protocols."""
    if not given:
        return ALL
    found = []
    for port in given:
        if port.port is None:
            found.append(ports.ports(port.protocol))
        elif isinstance(port.port, int):
            found.append(ports.ports(port.protocol, port.port, port.port if port.end is None else port.end))
    return ports.union(found)


def on(pod: Look | Pod, port: Port) -> Ports:
    """Return what a port by name is on a pod."""
    for one in pod.ports:
        if one.name == port.port and one.protocol is port.protocol:
            return ports.ports(one.protocol, one.port, one.port)
    return NONE


_FEW = 64
"""So many pieces are all looked at, for each set that is laid over them."""


def laid_over(found: Iterable[tuple[Ports, int]], every: int) -> Share:
    """Lay sets of parts over each other: what is allowed with a part is what any of its sets allows.

    A policy may have thousands of rules about a few parts each, and then has as many pieces. From so many on
    each part knows its piece, and a set costs what it has of parts.
    """
    pieces = [(every, NONE)]
    piece_of: list[int] | None = None
    for allowed, parts in found:
        if not allowed:
            continue
        touched: Iterable[int] = range(len(pieces))
        if len(pieces) > _FEW:
            if piece_of is None:
                piece_of = _pieces_of(pieces)
            if parts.bit_count() < len(pieces):
                touched = sorted({piece_of[part] for part in bits(parts)})
        for at in touched:
            piece, before = pieces[at]
            inside, outside = piece & parts, piece & ~parts
            if not inside:
                continue
            if not outside:
                pieces[at] = inside, before | allowed
                continue
            # The smaller half gets the new number: then a part changes its own a few times only.
            halves = (inside, before | allowed), (outside, before)
            less, more = sorted(halves, key=lambda half: half[0].bit_count())
            pieces[at] = more
            pieces.append(less)
            if piece_of is not None:
                for part in bits(less[0]):
                    piece_of[part] = len(pieces) - 1
    merged: defaultdict[Ports, int] = defaultdict(int)
    for piece, allowed in pieces:
        if allowed:
            merged[allowed] |= piece
    return tuple((parts, allowed) for allowed, parts in merged.items())


def _pieces_of(pieces: Sequence[tuple[int, Ports]]) -> list[int]:
    found = [0] * max(parts.bit_length() for parts, _ in pieces)
    for at, (parts, _) in enumerate(pieces):
        for part in bits(parts):
            found[part] = at
    return found
