"""The proof of one family: the rules that were read, and what they do with packets of each address."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterable, Iterator, Mapping

from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.tables import hooks
from agent.dataplane.iptables.tables.table import Table
from agent.dataplane.podlinks import PodLink
from agent.kube.model import Key
from agent.net import Direction, Family, Network, Protocol
from agent.proof import area, lines
from agent.proof.area import Area
from agent.proof.atoms import Atoms
from agent.proof.difference import Difference, Kind
from agent.proof.expected import Expected, OfFamily, Target
from agent.proof.given import Given
from agent.proof.matches import network
from agent.proof.reading import Reading, named_sets
from agent.proof.say import Sayer
from agent.proof.walk import BACK, CACHED, PASSED, UNREAD, Outcomes, Tables, Walker
from agent.proof.ways import UnreadError, Way, marks, states
from agent.reach import ports
from agent.reach.addresses import EVERY, number_of

UNNAMED = {
    Family.V4: ("169.254.0.0/16", "224.0.0.0/4", "255.255.255.255/32"),
    Family.V6: ("fe80::/10", "ff00::/8"),
}
"""Addresses that name no pod: on a bridge packets from and to them are dropped whatever policies say."""
_OTHER = {Direction.INGRESS: Direction.EGRESS, Direction.EGRESS: Direction.INGRESS}
_STARTS = {"FORWARD": names.FORWARD, "OUTPUT": names.OUTPUT}


class Proof:
    """The proof of one family: the kernel's rules and the policies in the same atoms."""

    @classmethod
    def of(cls, family: Family, given: Given, reading: Reading) -> Proof:
        """Return it for a family alone."""
        return cls(family, given, Expected(given), reading)

    def __init__(self, family: Family, given: Given, expected: Expected, reading: Reading) -> None:
        self.family = family
        self.given = given
        self.expected = expected
        self.reading = reading
        self.table: Table = reading.tables[family]
        self.chains = {c: rules for c, rules in self.table.items() if names.is_ours(c)}
        sets = {name: reading.sets[name] for name in named_sets(self.table) if name in reading.sets}
        self.targets = expected.targets(family)
        self.unnamed = tuple(map(network, UNNAMED[family]))
        self.atoms = Atoms(family, sets, self._networks(), expected.known)
        self.of_family = OfFamily(expected, self.atoms)
        lookups = {name for name in named_sets(self.table) if names.is_lookup(name)}
        noted = {name for name in named_sets(self.table) if names.changes_by_itself(name)} - lookups
        self.tables = Tables(self.chains, sets, lookups, noted, self.atoms)
        self.walkers = {
            direction: Walker(
                self.tables,
                direction,
                (names.judge(other), names.links_chain(other), names.unknown(other)),
            )
            for direction, other in _OTHER.items()
        }
        self.say = Sayer(family, self.atoms, expected, self.walkers)
        self._links = _links_of(given.links)
        self.marks = marks(self.chains)
        self.states = states(self.chains)
        udp = ports.union(
            ports.ports(Protocol.UDP, number, number) for number in given.tunnels.get(family, ())
        )
        self.to_tunnels: Area = {udp: self.atoms.every} if udp else area.NOTHING
        self._closing = self._unknown()
        self._bridges = any("physdev" in rule for rules in self.chains.values() for rule in rules)
        self._uplinks = self._named_uplinks()
        self._beyond = {direction: self._named_beyond(direction) for direction in Direction}
        self._judged = {direction: self.of_family.judged(self.targets, direction) for direction in Direction}

    def _networks(self) -> Iterator[Network]:
        """Give the networks that the kernel's rules name, and those that the proof asks for by itself."""
        size = 4 if self.family is Family.V4 else 16
        for rules in self.chains.values():
            for rule in rules:
                if "-s " in rule or "-d " in rule:
                    for condition in lines.line(rule).conditions:
                        if condition.option in ("-s", "-d"):
                            # One that cannot be read is told of where packets come to its rule.
                            with contextlib.suppress(UnreadError):
                                yield network(condition.value)
        yield from self.unnamed
        others = (*self.given.node_networks, *self.given.closing)
        yield from (net for net in others if net.family is self.family)
        first, _ = EVERY[self.family]
        for target in self.targets:
            yield Network((target.number - first).to_bytes(size, "big"), self.family.bits)

    def _unknown(self) -> int:
        """Return the addresses that are closed since no pod here is known to have them."""
        found = 0
        for one in self.given.closing:
            found |= self.atoms.of_network.get(one, 0)
        for target in self.targets:
            if target.pod is not None:
                found &= ~(1 << self.atoms.at(target.number))
        return found

    # --- Ways -------------------------------------------------------------------------------------------

    def ways(self, target: Target) -> Iterator[tuple[str, Way]]:
        """Give the ways by which packets of an address may come: the hook, and the rest."""
        inwards = target.direction is Direction.INGRESS
        beyond, ports_beyond = self._beyond[target.direction]
        link, (near, port) = self._links.get(target.number), self.near(target)
        come, port_in, go, port_out = ("", "", near, port) if inwards else (near, port, "", "")
        bridged = (False, True) if self._bridges and (link is None or link.bridge) else (False,)
        unknown = target.number in self.expected.unknown
        if inwards:
            beyond = beyond - self._uplinks if unknown else beyond | self._uplinks
        far = ("", *sorted(beyond))
        for over, name in itertools.product(bridged, far):
            from_, to = (name, go) if inwards else (come, name)
            for mark in self.marks.first + (() if over else self.marks.single):
                yield "FORWARD", Way(from_, to, over, port_in, port_out, mark=mark)
        for name, other in itertools.product(far, sorted(ports_beyond)) if True in bridged else ():
            from_, to = (name, go) if inwards else (come, name)
            ends = (other, port_out) if inwards else (port_in, other)
            yield "FORWARD", Way(from_, to, True, *ends)
        for state in self.states:
            yield "FORWARD", Way(come, go, bridged[-1], port_in, port_out, state)
        # By which interface packets came in is not known there any more: an unknown address may be others'.
        for mark, name in () if unknown else itertools.product(self.marks.first, ("",) if inwards else far):
            yield "OUTPUT", Way(go=go if inwards else name, mark=mark)

    def near(self, target: Target) -> tuple[str, str]:
        """Return the interface of an address's pod, and the port of it where that is a bridge."""
        link = self._links.get(target.number)
        if link is None:
            return "", ""
        return link.bridge or link.name, link.name if link.bridge else ""

    def _named_beyond(self, direction: Direction) -> tuple[set[str], set[str]]:
        """Return the interfaces, and ports of bridges, at the other end that rules ask for.

        The agent's own rules ask there for uplinks alone.
        """
        asked = ("-i", "--physdev-in") if direction is Direction.INGRESS else ("-o", "--physdev-out")
        walker = self.walkers[direction]
        names_, ports_ = (
            set[str]().union(*(walker.named(start, (option,)) for start in _STARTS.values()))
            for option in asked
        )
        return names_, ports_

    def _named_uplinks(self) -> set[str]:
        """Return the interfaces by which nodes are let in: as the agent says, and as the rules say."""
        found = set(self.given.uplinks) if self.of_family.nodes else set()
        for rule in self.chains.get(names.judge(Direction.INGRESS), ()):
            asked = lines.line(rule).conditions
            found |= {c.value for c in asked if c.option == "-i" and not c.negated}
        return found

    # --- What has to be as it is ------------------------------------------------------------------------

    def differences(self, pod: Key | None, others: Iterable[Difference] = ()) -> Iterator[Difference]:
        """Give what differs; ``others``: what else does, of which one of a kind is told of each pod, too."""
        anybody = any(map(self.expected.isolating, self.targets))
        if anybody:
            yield from self._hooks()
        yield from self._accepting()
        seen: set[tuple[str, str, str]] = set()
        judged = (target for target in (*self.targets, *self._strangers()) if pod in (None, target.pod))
        each = itertools.chain.from_iterable(map(self._of, judged))
        for one in itertools.chain(each, others):
            which = (one.kind, one.direction, one.pod)
            if which not in seen:
                seen.add(which)
                yield one
        yield from self._established()
        yield from self._cached()

    def _hooks(self) -> Iterator[Difference]:
        for chain, why in hooks.misplaced(self.table).items():
            if chain in _STARTS or (chain in hooks.HOOKS and self.family in self.given.tunnels):
                yield Difference(Kind.HOOK, self.family, f"IPv{int(self.family)}: {chain}: {why}", rule=chain)
        for why in self.reading.unseeing.get(self.family, ()):
            yield Difference(Kind.HOOK, self.family, why)

    def _accepting(self) -> Iterator[Difference]:
        """Give the rules that accept packets before their other direction has been judged."""
        for direction in Direction:
            for start in (names.judge(direction), names.links_chain(direction)):
                for chain in sorted(self.walkers[direction].led_to(start)):
                    for number, rule in enumerate(self.tables.lines(chain), start=1):
                        if rule.target in ("ACCEPT", "QUEUE", "NFQUEUE") or names.is_cache(rule.adds):
                            yield Difference(
                                Kind.OPEN,
                                self.family,
                                f"IPv{int(self.family)}: rule {number} of {chain} accepts packets whose "
                                f"{direction} alone has been judged: {rule.text}",
                                str(direction),
                                rule=f"{chain} {number}",
                            )

    def _strangers(self) -> Iterator[Target]:
        """Give the addresses that the kernel judges, though they are none of this node's."""
        for direction in Direction:
            known = {target.number for target in self.targets if target.direction is direction}
            for name in (isolated := names.isolated_set(direction, self.family), names.alternate(isolated)):
                content = self.tables.sets.get(name)
                for member in () if content is None else content.members:
                    if isinstance(member, bytes) and number_of(member) not in known:
                        yield Target(number_of(member), None, direction)

    def _of(self, target: Target) -> Iterator[Difference]:
        allowed = self.of_family.area(target)
        for hook, way in self.ways(target):
            passed, unread, cached = self._passing(hook, target, way)
            wanted = allowed
            if self._lets_nodes_in(target, hook, way):
                wanted = area.merged(allowed, area.whole(self.of_family.nodes))
            if cached and area.without(cached, wanted):
                yield self.say.caching(target, _STARTS[hook])
            if passed == wanted:
                continue
            if unread:
                yield self.say.unread(target, way, _STARTS[hook], unread)
            if opened := area.without(passed, wanted):
                yield self.say.opened(target, way, _STARTS[hook], opened)
            shut = area.without(area.without(wanted, passed), unread)
            if shut and (shut := self._needed(shut, target, hook, way)):
                yield self.say.shut(target, way, _STARTS[hook], shut)

    def _passing(self, hook: str, target: Target, way: Way) -> tuple[Area, Area, Area]:
        """Return what passes of an address's packets, what comes to rules not read, and what is cached."""
        start = _STARTS[hook]
        if start not in self.chains:
            return area.whole(self.atoms.every), area.NOTHING, area.NOTHING
        outcomes = self.walkers[target.direction].walk(start, target.number, way)
        return *passing(outcomes), area.union(part for (what, _), part in outcomes.items() if what == CACHED)

    def _lets_nodes_in(self, target: Target, hook: str, way: Way) -> bool:
        inwards = target.direction is Direction.INGRESS and hook == "FORWARD"
        return inwards and way.come in self.given.uplinks

    def _needed(self, shut: Area, target: Target, hook: str, way: Way) -> Area:
        """Return what of denied packets no rule but a policy's may deny."""
        if hook == "OUTPUT" and self.chains.get(names.TRANSIT):
            # Packets of others in OUTPUT that would have to be judged are dropped until the first is met.
            if self.expected.isolating(target):
                return area.NOTHING
            shut = area.without(shut, area.whole(self._judged[_OTHER[target.direction]]))
        if hook == "OUTPUT" and way.mark and way.mark == self.marks.used and names.CUT_ASK in self.chains:
            # With these marks the agent alone sends, to the ends of connections that it has cut.
            return area.NOTHING
        shut = area.without(area.without(shut, self.to_tunnels), area.whole(self._closing))
        if way.bridged:
            nobodys = 0
            for one in self.unnamed:
                nobodys |= self.atoms.of_network[one]
            if nobodys >> self.atoms.at(target.number) & 1:
                return area.NOTHING
            shut = area.without(shut, area.whole(nobodys))
        return shut

    def _established(self) -> Iterator[Difference]:
        """Give where packets of connections that have been allowed do not pass."""
        for direction in Direction:
            target = next((t for t in self.targets if t.direction is direction), None)
            for state in ("ESTABLISHED", "RELATED") if target is not None else ():
                assert target is not None  # noqa: S101
                way = Way(state=state)
                for hook, start in _STARTS.items():
                    passed, _, _ = self._passing(hook, target, way)
                    shut = area.without(area.whole(self.atoms.every), passed)
                    if shut := area.without(shut, self.to_tunnels):
                        yield self.say.replies(target, way, start, state, shut)

    # --- The verdict cache ------------------------------------------------------------------------------

    def _cached(self) -> Iterator[Difference]:
        """Give the connections that are cached as allowed, and are not."""
        for lookup in sorted(self.tables.lookups):
            listed = self.reading.lists.get(lookup)
            if listed is None:
                yield self.say.cache(f"the set {lookup} is no list of sets, or is not there", lookup)
                continue
            for name in sorted(listed):
                flows = self.reading.flows.get(name)
                if flows is None or not names.changes_by_itself(name):
                    yield self.say.cache(
                        f"the set {lookup} names {name}, which is no set of the cache", lookup
                    )
                    continue
                yield from self._cached_in(name, flows)

    def _cached_in(self, name: str, flows: Iterable[tuple[bytes, int, int, bytes]]) -> Iterator[Difference]:
        by_place: Mapping[tuple[int, Direction], Target] = {(t.number, t.direction): t for t in self.targets}
        areas: dict[Target, Area] = {}
        for source, protocol, port, destination in flows:
            for direction, own, peer in (
                (Direction.INGRESS, destination, source),
                (Direction.EGRESS, source, destination),
            ):
                target = by_place.get((number_of(own), direction))
                if target is None or not self.expected.isolating(target):
                    continue
                if target not in areas:
                    areas[target] = self.of_family.area(target)
                atom = self.atoms.at(number_of(peer))
                if not any(m >> atom & 1 and p.has(protocol, port) for p, m in areas[target].items()):
                    yield self.say.flow(name, target, peer, protocol, port)
                    return


def passing(outcomes: Outcomes) -> tuple[Area, Area]:
    """Return what passes, accepted or left to the node's own rules, and what came to a rule not read."""
    passed = area.union(part for (what, _), part in outcomes.items() if what in (PASSED, BACK))
    return passed, area.union(part for (what, _), part in outcomes.items() if what == UNREAD)


def _links_of(links: Iterable[PodLink]) -> dict[int, PodLink]:
    return {number_of(address): link for link in links if link.pod is not None for address in link.addresses}
