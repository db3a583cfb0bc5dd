"""Which members each set of the program should have, and the look whether it has them."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable

from agent.dataplane.backend import Reading, SetsFound
from agent.dataplane.iptables.access import Access
from agent.dataplane.iptables.held import Held
from agent.dataplane.iptables.ipset.known import known_members
from agent.dataplane.iptables.ipset.sets import network_members
from agent.dataplane.iptables.ipset.watch import SetsReading, SetWatch, Wanted
from agent.dataplane.iptables.rules import names
from agent.net import Direction, Family, Member
from agent.policy.lower.lowered import LoweredProgram


class MemberLook:
    """Looks at all sets; see :class:`agent.dataplane.iptables.ipset.watch.SetWatch`.

    ``read`` returns a set's members at once. ``certain`` says whether nothing failed since the last sync:
    else sets may lack what could not be written, and a look says nothing.
    """

    def __init__(
        self, held: Held, access: Access, read: Callable[[str], set[Member]], certain: Callable[[], bool]
    ) -> None:
        self._held = held
        self._watch = SetWatch(held.sets, access.ipsets, read)
        self._certain = certain

    def begin(self, program: LoweredProgram) -> SetsReading:
        """Begin a look at the sets of the program, or go on with one."""
        return self._watch.begin(self._wanted(program))

    def compare(self, program: LoweredProgram, reading: Reading) -> SetsFound:
        """Compare what was read with the program."""
        if not self._certain() or not isinstance(reading, SetsReading):
            return SetsFound([], unfinished=False)
        return self._watch.compare(reading, self._wanted(program))

    def _wanted(self, program: LoweredProgram) -> Wanted:
        """Return what each set should hold that is needed: what others hold says nothing."""
        held, families = self._held, self._held.chains.families
        wanted = isolated(held, program, families)
        for set_id, name in held.of_sets.items():
            if set_id in program.sets:
                wanted[name] = functools.partial(program.sets.__getitem__, set_id)
        for family in families:
            nodes = functools.partial(network_members, program.node_networks, family)
            wanted[names.nodes_set(family)] = nodes
        needed = held.sets.shapes.keys() - held.sets.garbage
        return {name: members for name, members in wanted.items() if name in needed}


def isolated(
    held: Held, program: LoweredProgram, families: Iterable[Family]
) -> dict[str, Callable[[], Iterable[Member]]]:
    """Return what the sets of isolated addresses, and those of known ones, should hold."""
    found: dict[str, Callable[[], Iterable[Member]]] = {
        held.names.isolated_set(direction, family): functools.partial(program.isolated, direction, family)
        for direction in Direction
        for family in families
    }
    for family, closing in held.names.closing.items():
        found[closing.known] = functools.partial(known_members, program, family)
        found[closing.networks] = functools.partial(network_members, held.pod_networks, family)
    return found
