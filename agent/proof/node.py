"""What the node itself and its pods send each other: no policy says anything of it.

It passes, but for what a pod sends to the node's tunnels, which would bring it to other pods as a node's::

    pod  -> node: INPUT leads to KUBE-NETPOL-INPUT, where there are tunnels: to these dropped, all else passes
    node -> pod:  OUTPUT leads to KUBE-NETPOL-OUTPUT: all of it passes, as a probe of kubelet has to
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping

from agent.dataplane.iptables.rules import names
from agent.kube.model import Key
from agent.net import Direction
from agent.proof import area
from agent.proof.area import Area
from agent.proof.difference import Difference, Kind
from agent.proof.expected import Target
from agent.proof.family import Proof, passing
from agent.proof.matches import PROTOCOLS, protocol_number
from agent.proof.walk import Walker
from agent.proof.ways import UNNAMED, UnreadError, Way
from agent.reach.ports import OTHER


def differences(proof: Proof, pod: Key | None) -> Iterator[Difference]:
    """Give what differs of what this node's pods, or one of them, and the node send each other."""
    yield from _missing(proof)
    walkers, every = proof.walkers, area.whole(proof.atoms.every)
    protocols = _protocols(proof)
    for target in proof.targets:
        if target.pod is None or pod not in (None, target.pod):
            continue
        near, port = proof.near(target)
        if target.direction is Direction.INGRESS:
            ways = [Way(go=near, mark=mark, local=True) for mark in proof.marks.first]
            yield from _shut(proof, walkers, target, ways, names.OUTPUT, every)
            continue
        for protocol in protocols:
            tunnels = proof.to_tunnels
            if protocol in proof.given.tunnel_protocols.get(proof.family, ()):
                tunnels = area.merged(tunnels, {OTHER: proof.atoms.every})
            ways = [Way(near, port_in=port, mark=mark, protocol=protocol) for mark in proof.marks.first]
            ways += [Way(near, port_in=port, state=one, protocol=protocol) for one in proof.states]
            yield from _shut(proof, walkers, target, ways, names.INPUT, area.without(every, tunnels))
            # Whatever address it has, and whatever address it writes.
            yield from _opened(proof, target, ways, tunnels)


def _shut(
    proof: Proof,
    walkers: Mapping[Direction, Walker],
    target: Target,
    ways: list[Way],
    start: str,
    wanted: Area,
) -> Iterator[Difference]:
    if start not in proof.chains:
        return
    for way in ways:
        passed, unread = passing(walkers[target.direction].walk(start, target.number, way))
        if unread:
            yield proof.say.unread(target, way, start, unread)
        if shut := area.without(area.without(wanted, passed), unread):
            yield proof.say.of_node(target, way, start, shut)


def _opened(proof: Proof, target: Target, ways: list[Way], tunnels: Area) -> Iterator[Difference]:
    if not tunnels or names.INPUT not in proof.chains:
        return
    for direction in Direction:
        for way in ways:
            passed, _ = passing(proof.walkers[direction].walk(names.INPUT, target.number, way))
            if opened := area.common(passed, tunnels):
                yield proof.say.to_tunnel(target, direction, way, opened)


def _protocols(proof: Proof) -> tuple[int, ...]:
    """Return the protocols that INPUT tells apart, or the node's tunnels are of, and one for all others."""
    found = set(proof.given.tunnel_protocols.get(proof.family, ()))
    for chain in proof.walkers[Direction.EGRESS].led_to(names.INPUT):
        for rule in proof.tables.lines(chain):
            for condition in rule.conditions:
                if condition.option == "-p" and condition.value not in PROTOCOLS and not rule.special:
                    # One that cannot be read is told of where packets come to its rule.
                    with contextlib.suppress(UnreadError):
                        found.add(protocol_number(condition.value))
    return (UNNAMED, *sorted(found))


def _missing(proof: Proof) -> Iterator[Difference]:
    """Say that what pods send to tunnels is not asked for, where the node has some."""
    if proof.family in proof.given.tunnels and names.INPUT not in proof.chains:
        said = f"IPv{int(proof.family)}: the node has tunnels, and there is no chain {names.INPUT}"
        yield Difference(Kind.HOOK, proof.family, said, rule=names.INPUT)
