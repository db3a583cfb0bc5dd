"""What the node itself and its pods send each other: no policy says anything of it.

It passes, but for what a pod sends to the node's tunnels, which would bring it to other pods as a node's::

    pod  -> node: INPUT leads to KUBE-NETPOL-INPUT, where there are tunnels: to these dropped, all else passes
    node -> pod:  OUTPUT leads to KUBE-NETPOL-OUTPUT: all of it passes, as a probe of kubelet has to
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from agent.dataplane.iptables.rules import names
from agent.kube.model import Key
from agent.net import Direction
from agent.proof import area
from agent.proof.area import Area
from agent.proof.difference import Difference, Kind
from agent.proof.expected import Target
from agent.proof.family import Proof, passing
from agent.proof.walk import Walker
from agent.proof.ways import Way


def differences(proof: Proof, pod: Key | None) -> Iterator[Difference]:
    """Give what differs of what this node's pods, or one of them, and the node send each other."""
    yield from _missing(proof)
    walkers, every = proof.walkers, area.whole(proof.atoms.every)
    marks = tuple(mark for mark in proof.marks.first if mark != proof.marks.used)
    for target in proof.targets:
        if target.pod is None or pod not in (None, target.pod):
            continue
        near, port = proof.near(target)
        if target.direction is Direction.INGRESS:
            ways = [Way(go=near, mark=mark, local=True) for mark in marks]
            yield from _shut(proof, walkers, target, ways, names.OUTPUT, every)
            continue
        wanted = area.without(every, proof.to_tunnels)
        ways = [Way(near, port_in=port, mark=mark) for mark in marks]
        ways += [Way(near, port_in=port, state=state) for state in proof.states]
        yield from _shut(proof, walkers, target, ways, names.INPUT, wanted)
        # Whatever address it has, and whatever address it writes.
        yield from _opened(proof, walkers, target, ways)


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


def _opened(
    proof: Proof, walkers: Mapping[Direction, Walker], target: Target, ways: list[Way]
) -> Iterator[Difference]:
    if not proof.to_tunnels or names.INPUT not in proof.chains:
        return
    for direction in Direction:
        for way in ways:
            passed, _ = passing(walkers[direction].walk(names.INPUT, target.number, way))
            if opened := area.common(passed, proof.to_tunnels):
                yield proof.say.to_tunnel(target, direction, way, opened)


def _missing(proof: Proof) -> Iterator[Difference]:
    """Say that what pods send to tunnels is not asked for, where the node has some."""
    if proof.family in proof.given.tunnels and names.INPUT not in proof.chains:
        said = f"IPv{int(proof.family)}: the node has tunnels, and there is no chain {names.INPUT}"
        yield Difference(Kind.HOOK, proof.family, said, rule=names.INPUT)
