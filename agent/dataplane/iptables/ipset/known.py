"""The sets by which an address of this node's pods is closed until a pod is known to have it.

One holds the networks of this node's pods, one the addresses that pods here are known to have. Rules drop
what is in the first and not in the second. Both have all their members before a rule looks at them: so a node
that begins to close cuts nothing that runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from agent.dataplane.iptables.ipset.set_table import alike
from agent.dataplane.iptables.ipset.sets import KernelSets, addresses_shape, network_members, networks_shape
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.unknown import Closing
from agent.fault import Fault
from agent.kernel.ipset_shapes import SetContent, SetShape
from agent.kernel.surroundings import Surroundings
from agent.net import Family, Member, Network, NetworkMember, family_of
from agent.policy.lower.lowered import LoweredProgram
from agent.policy.program import NO_NETWORKS, PodNetworks

Moving = tuple[set[Member], set[Member]]
"""Members that a set that rules look at is to gain, and to lose."""


def networks_of(program: LoweredProgram, around: Surroundings, before: Collection[Network]) -> PodNetworks:
    """Return the networks in which unknown addresses are closed; none where new pods are open.

    Those that the program gives, else those of the node's bridges in which a known pod has its address. Such
    a one stays when its last pod is gone, as one of those of ``before``, for as long as the bridge has it.
    """
    if program.known is None:
        return NO_NETWORKS
    if program.pod_networks.networks:
        return program.pod_networks
    known = program.known
    bridges = (n for n in around.bridges if n in before or any(n.holds(address) for address in known))
    return PodNetworks(frozenset(bridges), exclusive=False)


def known_members(program: LoweredProgram, family: Family) -> set[Member]:
    """Return the known addresses of a family."""
    return {address for address in program.known or () if family_of(address) is family}


@dataclass
class KnownSets:
    """The sets of each family that has networks of pods here, and what is wrong with them.

    ``closing`` names them; ``networks`` are those in them, or soon to be. ``known`` and ``changed`` are the
    changes of the sets of addresses, and of networks, that a sync finds to be made.
    """

    families: tuple[Family, ...]
    networks: PodNetworks = NO_NETWORKS
    closing: dict[Family, Closing] = field(default_factory=dict)
    known: dict[str, Moving] = field(default_factory=dict)
    changed: dict[str, Moving] = field(default_factory=dict)
    unmade: list[Fault] = field(default_factory=list)

    def make(
        self,
        sets: KernelSets,
        content: dict[str, SetContent],
        program: LoweredProgram,
        around: Surroundings,
        referred: Collection[str],
        withheld: Collection[bytes],
    ) -> dict[Family, Closing]:
        """Make the sets that are missing, and take those that are needed out of ``content``; name them.

        ``referred``: the sets that rules look at now, whose changes are left to the step; what no rule looks
        at is put right at once. ``withheld`` addresses do not become known yet. Raises SetError.
        """
        before = {*self.networks.networks, *_networks_in(content, self.families)}
        self.networks = networks_of(program, around, before)
        self.closing, self.known, self.changed, self.unmade = {}, {}, {}, []
        for family in self.families:
            networks = network_members(self.networks.networks, family)
            if not networks:
                continue
            addresses = {a for a in known_members(program, family) if a not in withheld}
            known, outer = names.known_set(family), names.pod_networks_set(family)
            faults = [
                *self._make(
                    sets, content, known, addresses_shape(family, len(addresses)), addresses, referred
                ),
                *self._make(sets, content, outer, networks_shape(family, len(networks)), networks, referred),
            ]
            # Rules that look at what is there close at least as much as none.
            if not faults or {known, outer} <= {*referred}:
                self.closing[family] = Closing(known, outer, self.networks.exclusive)
                self.unmade += faults
            else:
                self.unmade += [
                    f._replace(what=f"new pods are open for want of a set: {f.what}") for f in faults
                ]
        return self.closing

    def _make(
        self,
        sets: KernelSets,
        content: dict[str, SetContent],
        name: str,
        shape: SetShape,
        members: set[Member],
        referred: Collection[str],
    ) -> list[Fault]:
        held = content.pop(name, None)
        if held is not None and not alike(held.shape, shape) and name in referred:
            # Somebody else's, by a swap: nothing becomes known by it before its time.
            kept = members if names.is_pod_networks_set(name) else held.members & members
            if faults := sets.replace(name, shape, kept):
                return faults
            held = SetContent(shape, kept)
        if held is None or not alike(held.shape, shape):
            return sets.create(name, shape, members)
        moving = members - held.members, held.members - members
        if name not in referred:
            return sets.change({name: moving})
        if any(moving):
            (self.changed if names.is_pod_networks_set(name) else self.known)[name] = moving
        return []

    @property
    def moving(self) -> tuple[Mapping[str, Moving], Mapping[str, Moving]]:
        """What a sync has to change of known addresses, and of networks."""
        return self.known, self.changed

    def outdated(self, program: LoweredProgram, around: Surroundings) -> bool:
        """Whether the networks are to be others than when the sets were made."""
        return networks_of(program, around, self.networks.networks) != self.networks


def _networks_in(content: Mapping[str, SetContent], families: Iterable[Family]) -> set[Network]:
    held = (content.get(names.pod_networks_set(family)) for family in families)
    members = (member for found in held if found is not None for member in found.members)
    return {member.network for member in members if isinstance(member, NetworkMember)}
