"""What the node is, as far as its rules depend on that: nothing of what the program asks for."""

from __future__ import annotations

from dataclasses import dataclass

from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import linked
from agent.kernel.surroundings import NONE, Surroundings


@dataclass(frozen=True)
class NodeFacts:
    """What is known of the node; whoever learns more has a step made that goes by the new value.

    ``options``: with the bits of marks that its rules use. ``links``: which interface belongs to which pod.
    ``surroundings``: its other interfaces and its tunnels. ``uplinks``: the interfaces by which other nodes
    are let in. ``guarding``: the rules about tunnels hold, by which these take from nodes alone.
    """

    options: Options
    links: linked.Links = ()
    surroundings: Surroundings = NONE
    uplinks: frozenset[str] = frozenset()
    guarding: bool = False
