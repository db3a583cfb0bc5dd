"""Rules that close an address of this node's pods until a pod is known to have it.

Of a packet that begins a connection, before policies are asked::

    its source in the pods' networks, and not known      -> KUBE-NETPOL-UNKNOWN-EGRESS
    its destination in the pods' networks, and not known -> KUBE-NETPOL-UNKNOWN-INGRESS

Where other nodes' pods have addresses in the same networks, these chains let go what comes in from the
network outside, or leaves for it: that is no pod's of this node. The rest is denied.
"""

from __future__ import annotations

from typing import NamedTuple

from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.logging import logging_unknown
from agent.dataplane.iptables.rules.rule import Chains, Guard, Rule, goto, in_set, jump
from agent.kernel.surroundings import Surroundings, is_printable
from agent.net import Direction, Family

SIDES = {Direction.EGRESS: "src", Direction.INGRESS: "dst"}
"""On which side of a packet its local address is."""


class Closing(NamedTuple):
    """The sets of a family: of known addresses, and of networks in which all others are closed.

    ``exclusive``: no other node's pods have addresses in these networks.
    """

    known: str
    networks: str
    exclusive: bool


class Outside(NamedTuple):
    """Where the network outside is.

    ``names`` of interfaces; ``ports`` of bridges; ``mixed``: bridges with such ports and pods' as well.
    """

    names: frozenset[str] = frozenset()
    ports: frozenset[str] = frozenset()
    mixed: frozenset[str] = frozenset()


NOWHERE = Outside()


def outside(closing: Closing | None, around: Surroundings) -> Outside:
    """Return what the rules need of the network outside: nothing, where no other node's pods count."""
    if closing is None or closing.exclusive:
        return NOWHERE
    carried = frozenset(filter(is_printable, around.carried))
    return Outside(around.underlay | carried, around.ports, around.mixed)


def forward_rules(closing: Closing | None) -> list[Rule]:
    """Return the rules that lead to the chains, to stand where only new packets come."""
    if closing is None:
        return []
    return [_leads(closing, direction) for direction in Direction]


def output_rules(closing: Closing | None, remote: str) -> list[Rule]:
    """Return the rules of OUTPUT's chain for what the node sends for others, as IPVS does.

    ``remote``: the match on these. By which interface a packet came in is not known there any more.
    """
    if closing is None:
        return []
    directions = list(Direction) if closing.exclusive else [Direction.INGRESS]
    return [_leads(closing, direction, remote) for direction in directions]


def _leads(closing: Closing, direction: Direction, *more: str) -> Rule:
    side = SIDES[direction]
    unknown = in_set(closing.networks, side) + in_set(closing.known, side, negated=True)
    way = goto if closing.exclusive else jump
    return way(names.unknown(direction), unknown, *more, about=Guard.UNKNOWN)


def unknown_chains(closing: Closing | None, where: Outside, family: Family, options: Options) -> Chains:
    """Return the chains of packets whose address is not known; none where nothing is closed."""
    if closing is None:
        return {}
    return {
        names.unknown(direction): (
            *(jump("RETURN", match) for match in _passing(direction, where)),
            *logging_unknown(direction, family, options),
            goto(
                names.DENY,
                names.comment("an address of pods here that no pod is known to have"),
                about=Guard.UNKNOWN,
            ),
        )
        for direction in Direction
    }


def _passing(direction: Direction, where: Outside) -> list[str]:
    """Return the matches of which one holds for what is between the network outside and others."""
    if direction is Direction.EGRESS:
        ports = [f"-m physdev --physdev-in {port}" for port in sorted(where.ports)]
        return [f"-i {name}" for name in sorted(where.names)] + ports
    ports = [f"-m physdev --physdev-out {port} --physdev-is-bridged" for port in sorted(where.ports)]
    # By which port it leaves is not known yet.
    routed = [f"-o {bridge} -m physdev ! --physdev-is-bridged" for bridge in sorted(where.mixed)]
    return [f"-o {name}" for name in sorted(where.names)] + ports + routed
