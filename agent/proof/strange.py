"""What comes by, or leaves by, the link of an isolated pod under an address that is not the pod's.

It is dropped, whatever the address is: no other pod's, and nobody's, gets a packet past the pod's policies.
Each link is walked for all of these addresses at once. The other end of the packets is an address that is not
judged.
"""

from __future__ import annotations

import ipaddress
import itertools
from collections.abc import Iterable, Iterator

from agent.dataplane.iptables.rules import names
from agent.dataplane.podlinks import PodLink
from agent.kube.model import Key
from agent.net import Direction, Family, family_of
from agent.proof import area
from agent.proof.difference import Difference
from agent.proof.family import Proof, passing
from agent.proof.walk import Walker
from agent.proof.ways import Way
from agent.reach.addresses import number_of

_NOBODYS = {Family.V4: "198.18.0.1", Family.V6: "2001:db8:ffff::1"}
"""RFC 2544 and RFC 3849."""
_OTHER = {Direction.INGRESS: Direction.EGRESS, Direction.EGRESS: Direction.INGRESS}


def differences(proof: Proof, pod: Key | None) -> Iterator[Difference]:
    """Give what passes by links of isolated pods, or of one pod, though it bears another's address."""
    if names.FORWARD not in proof.chains or not proof.given.linked:
        return
    other = _unjudged(proof)
    isolated = {
        direction: {
            target.pod
            for target in proof.targets
            if target.direction is direction and target.pod is not None and proof.expected.isolating(target)
        }
        for direction in Direction
    }
    for direction in Direction:
        # Of egress the source is any, and of ingress the destination.
        walker = Walker(proof.tables, _OTHER[direction])
        marks = proof.marks.first
        for link in proof.given.links:
            if link.pod is None or link.pod not in isolated[direction] or pod not in (None, link.pod):
                continue
            strange = area.whole(proof.atoms.every & ~_of(proof, link))
            for way in _ways(link, direction, marks):
                passed, unread = passing(walker.walk(names.FORWARD, other, way))
                if found := area.common(area.merged(passed, unread), strange):
                    yield proof.say.strange(link, direction, way, walker, other, found)
                    break
            # What is marked takes the same rules by each link.
            marks = (0,)


def _unjudged(proof: Proof) -> int:
    """Return an address that no pod here has, of networks that are for measuring and for documents."""
    first = number_of(ipaddress.ip_address(_NOBODYS[proof.family]).packed)
    taken = {target.number for target in proof.targets}
    return next(number for number in itertools.count(first) if number not in taken)


def _of(proof: Proof, link: PodLink) -> int:
    """Return the atoms of the addresses behind a link."""
    found = 0
    for address in (*link.addresses, *link.others):
        if family_of(address) is proof.family:
            found |= 1 << proof.atoms.at(number_of(address))
    return found


def _ways(link: PodLink, direction: Direction, marks: Iterable[int]) -> Iterable[Way]:
    near, port, bridged = link.bridge or link.name, link.name if link.bridge else "", bool(link.bridge)
    for mark in marks:
        if direction is Direction.EGRESS:
            yield Way(near, bridged=bridged, port_in=port, mark=mark)
            if bridged:
                yield Way(near, port_in=port, mark=mark)
        else:
            # By which port it leaves is not known of what is routed into a bridge.
            yield Way(go=near, bridged=bridged, port_out=port, mark=mark)
