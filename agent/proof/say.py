"""Differences in words: which packets, which rule decides, and which policy says otherwise."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping

from agent.dataplane.iptables.rules import comments, names
from agent.dataplane.podlinks import PodLink
from agent.net import Direction, Family, Protocol, address_text
from agent.proof.area import Area
from agent.proof.atoms import Atoms, bits
from agent.proof.difference import Difference, Kind
from agent.proof.expected import Expected, Target
from agent.proof.lines import line
from agent.proof.walk import Step, Walker
from agent.proof.ways import Way
from agent.reach import addresses, ports
from agent.reach.addresses import EVERY
from agent.reach.intervals import Intervals
from agent.reach.ports import Ports
from agent.spec.evaluator import judge_direction
from agent.spec.verdict import Packet
from agent.words import and_more

_NETWORKS = 3
_NAME = 120
"""Characters of a pod's name."""
_ICMP = {Family.V4: 1, Family.V6: 58}


_TOPS = (names.FORWARD, names.BRIDGED, names.OUTPUT, *map(names.judge, Direction))


class Sayer:
    """Says what differs in a family."""

    def __init__(
        self, family: Family, atoms: Atoms, expected: Expected, walkers: Mapping[Direction, Walker]
    ) -> None:
        self.family = family
        self._atoms = atoms
        self._expected = expected
        self._walkers = walkers

    def opened(self, target: Target, way: Way, start: str, found: Area) -> Difference:
        """Say what the kernel lets pass that no policy allows."""
        which, mask, size = self._smallest(found)
        steps = self._steps(target, way, start, which, mask)
        step = _allowing_step(steps, target.direction)
        verb, to = ("takes", "from") if target.direction is Direction.INGRESS else ("may send", "to")
        peers = self._peers(mask)
        said = (
            f"{self._whose(target)} {verb} {ports.text(which)} {to} {peers}, which no policy allows"
            f"{_by(way)}: {self._why(target, start, step, steps)}"
        )
        return Difference(
            Kind.OPEN, self.family, said, *self._who(target), peers, ports.text(which), _rule(step), "", size
        )

    def shut(self, target: Target, way: Way, start: str, found: Area) -> Difference:
        """Say what the kernel denies that the policies allow."""
        which, mask, size = self._smallest(found)
        step = _denying_step(self._steps(target, way, start, which, mask))
        verb, to = (
            ("does not take", "from") if target.direction is Direction.INGRESS else ("may not send", "to")
        )
        peers = self._peers(mask)
        policy = self._allowing(target, which, mask)
        because = f"which {policy} allows" if policy else "which no policy denies"
        denied = "nothing lets it pass" if step is None else f"{self._named(step)} denies it"
        said = f"{self._whose(target)} {verb} {ports.text(which)} {to} {peers}, {because}{_by(way)}: {denied}"
        who = self._who(target)
        return Difference(
            Kind.SHUT, self.family, said, *who, peers, ports.text(which), _rule(step), policy, size
        )

    def unread(self, target: Target, way: Way, start: str, found: Area) -> Difference:
        """Say which rule cannot be read."""
        which, mask, _ = self._smallest(found)
        steps = self._steps(target, way, start, which, mask)
        step = steps[-1] if steps else None
        what = "a rule" if step is None else self._named(step)
        said = f"{self._whose(target)}: what {what} does cannot be told: {'' if step is None else step.text}"
        return Difference(Kind.UNREAD, self.family, said, *self._who(target), rule=_rule(step))

    def of_node(self, target: Target, way: Way, start: str, found: Area) -> Difference:
        """Say what the node and a pod do not get of each other."""
        which, mask, size = self._smallest(found)
        step = _denying_step(self._steps(target, way, start, which, mask))
        inwards = target.direction is Direction.INGRESS
        what = "does not take" if inwards else "may not send"
        other = "from the node itself" if inwards else "to the node itself"
        denied = "nothing lets it pass" if step is None else f"{self._named(step)} denies it"
        said = f"{self._whose(target)} {what} {ports.text(which)} {other}{_by(way)}: {denied}"
        return Difference(
            Kind.SHUT, self.family, said, *self._who(target), "", ports.text(which), _rule(step), size=size
        )

    def to_tunnel(self, target: Target, direction: Direction, way: Way, found: Area) -> Difference:
        """Say what a pod may send to a tunnel of the node; ``direction``: which end is any."""
        which, mask, size = self._smallest(found)
        steps = self._steps(target, way, names.INPUT, which, mask, self._walkers[direction])
        leaving = [step for step in steps if step.target in ("ACCEPT", "RETURN")]
        step = leaving[-1] if leaving else None
        why = "no rule denies it" if step is None else f"{self._named(step)} lets it pass"
        said = (
            f"{self._whose(target)} may send {ports.text(which)} to the node itself, which takes other "
            f"nodes' packets out of it{_by(way)}: {why}"
        )
        return Difference(
            Kind.OPEN, self.family, said, *self._who(target), "", ports.text(which), _rule(step), size=size
        )

    def strange(
        self, link: PodLink, direction: Direction, way: Way, walker: Walker, other: int, found: Area
    ) -> Difference:
        """Say what passes by the link of an isolated pod under an address that is not the pod's."""
        which, mask, size = self._smallest(found)
        packet = next(bits(mask)), *self._sample(which)
        steps = walker.way_of(names.FORWARD, other, way, *packet)
        step = next((s for s in reversed(steps) if s.target in ("ACCEPT", "RETURN")), None)
        why = "no rule denies it" if step is None else f"{self._named(step)} lets it pass"
        end = "from" if direction is Direction.EGRESS else "to"
        peers = self._peers(mask)
        pod = str(link.pod)
        said = (
            f"{ports.text(which)} {end} {peers} passes by the interface {link.name} of pod {pod}, which is "
            f"isolated for {direction} and has another address{_by(way)}: {why}"
        )
        return Difference(
            Kind.OPEN,
            self.family,
            said,
            str(direction),
            pod,
            peers,
            ports.text(which),
            _rule(step),
            size=size,
        )

    def caching(self, target: Target, start: str) -> Difference:
        """Say that a rule caches connections of an address as allowed, and they are not."""
        said = f"{self._whose(target)}: a rule that {start} leads to caches connections that no policy allows"
        return Difference(Kind.CACHED, self.family, said, *self._who(target))

    def replies(self, target: Target, way: Way, start: str, state: str, found: Area) -> Difference:
        """Say that packets of allowed connections do not pass."""
        which, mask, size = self._smallest(found)
        step = _denying_step(self._steps(target, way, start, which, mask))
        where = "nothing lets them pass" if step is None else f"{self._named(step)} denies them"
        said = (
            f"IPv{int(self.family)}: packets of allowed connections ({state}) do not pass "
            f"{self._whose(target)}: {where}"
        )
        return Difference(Kind.SHUT, self.family, said, rule=_rule(step), size=size)

    def cache(self, what: str, rule: str) -> Difference:
        """Say that the verdict cache is not what it should be."""
        return Difference(Kind.CACHED, self.family, f"IPv{int(self.family)}: {what}", rule=rule)

    def flow(self, name: str, target: Target, peer: bytes, protocol: int, port: int) -> Difference:
        """Say which connection is cached that no policy allows."""
        some = f"{_protocol(protocol)} {port}"
        verb, to = ("from", "to") if target.direction is Direction.INGRESS else ("to", "from")
        said = (
            f"the set {name} has a connection as allowed that no policy allows: {some} {verb} "
            f"{address_text(peer)} {to} {self._whose(target)}"
        )
        who = self._who(target)
        return Difference(Kind.CACHED, self.family, said, *who, address_text(peer), some, name, size=1)

    # --- Parts of sentences -----------------------------------------------------------------------------

    def _who(self, target: Target) -> tuple[str, str]:
        return str(target.direction), str(target.pod or "")

    def _whose(self, target: Target) -> str:
        address = self._address(target.number)
        if target.pod is None:
            return f"{address}, which no pod here has,"
        return f"pod {names.shortened(target.pod, _NAME)} ({address})"

    def _address(self, number: int) -> str:
        first, _ = EVERY[self.family]
        kind = ipaddress.IPv4Address if self.family is Family.V4 else ipaddress.IPv6Address
        return str(kind(number - first))

    def _smallest(self, found: Area) -> tuple[Ports, int, int]:
        """Return the smallest part of an area: ports, the atoms that have them, and how much that is."""
        sizes = []
        for which, mask in found.items():
            size = addresses.size(self._atoms.places(mask)) * addresses.size(which.intervals)
            sizes.append((size, ports.text(which), which, mask))
        size, _, which, mask = min(sizes, key=lambda one: one[:2])
        return which, mask, size

    def _peers(self, mask: int) -> str:
        if mask == self._atoms.every:
            return "any address"
        return networks_text(self._atoms.places(mask))

    def _steps(
        self, target: Target, way: Way, start: str, which: Ports, mask: int, walker: Walker | None = None
    ) -> list[Step]:
        atom = next(bits(mask))
        protocol, port = self._sample(which)
        walker = walker or self._walkers[target.direction]
        try:
            return walker.way_of(start, target.number, way, atom, protocol, port)
        except KeyError:
            return []

    def _sample(self, which: Ports) -> tuple[int, int]:
        protocol, first, _ = next(iter(which.ranges()))
        return (_ICMP[self.family], 0) if protocol is None else (int(protocol), first)

    def _why(self, target: Target, start: str, step: Step | None, steps: list[Step]) -> str:
        judge = names.judge(target.direction)
        if step is None and not any(one.target == judge for one in steps):
            return f"{start} does not lead it to {judge}"
        if step is None:
            last = next((one for one in reversed(steps) if one.target == names.DENY), None)
            return "no rule denies it" if last is None else f"{names.DENY} does not deny it"
        asked = [c for c in line(step.text).conditions if c.option == "--match-set"]
        looked = f", since it is in the set {asked[0].value}" if asked and not asked[0].negated else ""
        about = comments.read_of_rule(step.text)
        meant = (
            ""
            if about is None
            else f" (rule {about.number} {about.direction} of policy {about.namespace}/{about.name})"
        )
        return f"{self._named(step)}{meant} lets it pass{looked}"

    def _named(self, step: Step) -> str:
        return f"rule {step.number} of {step.chain}"

    def _allowing(self, target: Target, which: Ports, mask: int) -> str:
        """Return the rule of a policy that allows a packet of the kind."""
        first, _ = EVERY[self.family]
        size = self.family.bits // 8
        peer, own = (
            (number - first).to_bytes(size, "big")
            for number in (self._atoms.places(mask & -mask)[0][0], target.number)
        )
        ends = (peer, own) if target.direction is Direction.INGRESS else (own, peer)
        verdict = judge_direction(
            self._expected.cluster, target.direction, Packet(*ends, *self._sample(which))
        )
        for finding in verdict.policies:
            for number in finding.allowing:
                return f"rule {number} {target.direction} of policy {finding.policy}"
        return ""


def networks_text(places: Intervals) -> str:
    """Return addresses as networks: the first few of them, and how many more there are."""
    found = list(addresses.networks(places))
    shown = [one.removesuffix("/128" if ":" in one else "/32") for one in found[:_NETWORKS]]
    more = and_more(len(found), _NETWORKS)
    return ", ".join(shown) + more


def _allowing_step(steps: list[Step], direction: Direction) -> Step | None:
    """Return the rule by which a packet was allowed: that of a policy, or one by which it left early."""
    at = next((n for n, step in enumerate(steps) if step.target == names.judge(direction)), len(steps))
    judged = [step for step in steps[at:] if step.target == names.allow(direction)]
    if judged:
        return judged[-1]
    early = [step for step in steps if step.target == "ACCEPT" or step.chain in _TOPS]
    leaving = [step for step in early if step.target in ("ACCEPT", "RETURN")]
    return leaving[-1] if leaving else None


def _denying_step(steps: list[Step]) -> Step | None:
    """Return the rule by which a packet was denied."""
    denying = [step for step in steps if step.target == names.DENY]
    return (denying or steps)[-1] if steps else None


def _rule(step: Step | None) -> str:
    return "" if step is None else f"{step.chain} {step.number}"


def _by(way: Way) -> str:
    told = []
    if way.come:
        told.append(f"if it comes by {way.come}")
    if way.bridged:
        told.append("if it is bridged")
    if way.mark:
        told.append(f"if it bears the mark {way.mark:#x}")
    if way.protocol > 0:
        told.append(f"if it is of protocol {way.protocol}")
    if way.state != "NEW":
        told.append(f"if connection tracking says {way.state}")
    return f" ({', '.join(told)})" if told else ""


def _protocol(number: int) -> str:
    return next((p.name.lower() for p in Protocol if p == number), f"protocol {number}")
