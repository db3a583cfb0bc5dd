"""From a delta, or from a look at the kernel, to one step: what to change in chains and sets, by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.dataplane.ipset import SetContent, SetShape
from agent.dataplane.iptables import names
from agent.dataplane.iptables.desired import Changes, Desired, Naming, Tree, merged
from agent.dataplane.iptables.hazards import hazardous
from agent.dataplane.iptables.kernel import sets_in
from agent.dataplane.iptables.sets import addresses_shape, network_members, networks_shape, shape_of
from agent.dataplane.uplinks import uplinks
from agent.kube.model import Direction, Family, family_of
from agent.policy.program import AddressPort, Delta, Member, Program, SetId, SetKind

Rules = tuple[str, ...]


@dataclass
class Gains:
    """Members that a set is to gain and to lose."""

    added: set[Member] = field(default_factory=set)
    removed: set[Member] = field(default_factory=set)

    def __bool__(self) -> bool:
        return bool(self.added or self.removed)


@dataclass
class Step:
    """One change of the kernel; everything by kernel name.

    ``fresh``: sets to make, which no rule that stays refers to; ``unseen``: changes of sets that cannot
    change a verdict now; ``live``: those that do; ``isolated``: addresses that enter and leave the sets of
    isolated addresses. ``dropped``: sets that nothing needs when the step is done.
    """

    chains: Changes
    fresh: dict[str, tuple[SetShape, set[Member]]] = field(default_factory=dict)
    unseen: dict[str, Gains] = field(default_factory=dict)
    live: dict[str, Gains] = field(default_factory=dict)
    isolated: dict[str, Gains] = field(default_factory=dict)
    released: set[bytes] = field(default_factory=set)
    dropped: set[str] = field(default_factory=set)


class Planner:
    """Makes steps, and remembers under which names sets are and who is isolated after the last step."""

    def __init__(self, families: Iterable[Family], desired: Desired, naming: Naming) -> None:
        self.families = tuple(families)
        self.desired = desired
        self.naming = naming
        self.set_names: dict[SetId, str] = {}
        self._isolated: set[bytes] = set()
        self._nodes: dict[Family, set[Member]] = {family: set() for family in self.families}

    def _here(self, set_id: SetId) -> bool:
        return set_id.family in self.families

    def step(self, program: Program, delta: Delta) -> Step:
        """Say what a delta means for the kernel, from where the last step left it."""
        before = {pod: self.desired.addresses(pod) for pod in delta.pods}
        at_once = hazardous(
            delta,
            {pod: addresses for pod, addresses in before.items() if addresses},
            {pod: program.pods[pod].addresses for pod in delta.pods if pod in program.pods},
            [p for p in delta.policies if p in program.policies and self.desired.has_policy(p)],
        )
        step = Step({family: {} for family in self.families}, released=delta.released)
        self._come_and_go(program, delta, step)
        if delta.bypass:
            self._change_nodes(program, step)
        moving = {s: Gains(set(m.added), set(m.removed)) for s, m in delta.members.items() if self._here(s)}
        if at_once:
            trees = {(d, family_of(a)) for d in Direction for a in delta.isolated[d] | delta.opened[d]}
            self._switch(program, moving, {t for t in trees if t[1] in self.families}, step)
        else:
            for set_id, gains in moving.items():
                step.live[self.naming.peer_set(set_id)] = gains
                if set_id.kind is SetKind.ADDRESS_PORTS and set_id.direction is Direction.INGRESS:
                    self._set_apart_unseen(self.naming.peer_set(set_id), step)
            for direction in Direction:
                for address in delta.isolated[direction]:
                    self._isolation(step, direction, address).added.add(address)
                for address in delta.opened[direction]:
                    self._isolation(step, direction, address).removed.add(address)
            step.isolated.pop("", None)
        step.chains = merged(step.chains, self.desired.update(program, delta))
        self._isolated -= delta.opened[Direction.INGRESS]
        self._isolated |= delta.isolated[Direction.INGRESS]
        return step

    def _isolation(self, step: Step, direction: Direction, address: bytes) -> Gains:
        family = family_of(address)
        here = family in self.families
        name = self.naming.isolated_set(direction, family) if here else ""
        return step.isolated.setdefault(name, Gains())

    def _set_apart_unseen(self, name: str, step: Step) -> None:
        """Put named ports of pods not isolated yet in front: their rules must be whole when they are."""
        gains = step.live[name]
        early: set[Member] = {
            m for m in gains.added if isinstance(m, AddressPort) and m.address not in self._isolated
        }
        if early:
            step.unseen[name] = Gains(early)
            gains.added -= early

    def _come_and_go(self, program: Program, delta: Delta, step: Step) -> None:
        for set_id in filter(self._here, delta.sets_removed):
            canonical = names.peer_set(set_id)
            step.dropped |= {canonical, names.alternate(canonical)}
            self.naming.switched.discard(set_id)
            self.set_names.pop(set_id, None)
        for set_id in filter(self._here, delta.sets_added):
            name = names.peer_set(set_id)
            members = program.sets[set_id]
            step.fresh[name] = (shape_of(set_id, len(members)), members)
            step.dropped.discard(name)
            self.set_names[set_id] = name

    def _change_nodes(self, program: Program, step: Step) -> None:
        self.desired.uplinks = uplinks(program.bypass)
        for family in self.families:
            before, after = self._nodes[family], network_members(program.bypass, family)
            name = names.nodes_set(family)
            if not before and after:
                step.fresh[name] = (networks_shape(family, len(after)), after)
            elif not after:
                step.dropped.add(name)
            else:
                _around(name, Gains(after - before, before - after), step)
            self._nodes[family] = after

    def _switch(self, program: Program, sets: Iterable[SetId], trees: Iterable[Tree], step: Step) -> None:
        """Have rules look at other sets, filled with the new members, from the one restore on."""
        moved = set(sets)
        for set_id in moved:
            old = self.naming.peer_set(set_id)
            self.naming.switched ^= {set_id}
            new = self.naming.peer_set(set_id)
            members = program.sets[set_id]
            step.fresh[new] = (shape_of(set_id, len(members)), members)
            self.set_names[set_id] = new
            step.dropped.discard(new)
            step.dropped.add(old)
        changed = set(trees)
        for direction, family in changed:
            old = self.naming.isolated_set(direction, family)
            self.naming.switched_isolated ^= {(direction, family)}
            addresses: set[Member] = set(program.isolated(direction, family))
            new = self.naming.isolated_set(direction, family)
            step.fresh[new] = (addresses_shape(family, len(addresses)), addresses)
            step.dropped.discard(new)
            step.dropped.add(old)
        step.chains = merged(step.chains, self.desired.referring(program, moved))
        if changed:
            step.chains = merged(step.chains, self.desired.tops(program))

    @property
    def switched(self) -> bool:
        """Whether rules look at sets under other names than the usual."""
        return bool(self.naming.switched or self.naming.switched_isolated)

    def switch_back(self, program: Program) -> Step:
        """Have rules look at sets under their usual names again."""
        step = Step({family: {} for family in self.families})
        self._switch(program, set(self.naming.switched), set(self.naming.switched_isolated), step)
        return step

    def difference(
        self,
        program: Program,
        chains: Mapping[Family, Mapping[str, Rules]],
        content: Mapping[str, SetContent],
        withheld: frozenset[bytes],
    ) -> Step:
        """Say what turns the kernel, as it was read, into the program.

        ``withheld`` addresses get into no set of peers yet: connections of a former owner are still tracked.
        """
        self.naming.switched.clear()
        self.naming.switched_isolated.clear()
        self.desired.uplinks = uplinks(program.bypass)
        self._nodes = {family: network_members(program.bypass, family) for family in self.families}
        self._isolated = set().union(*(program.isolated(Direction.INGRESS, f) for f in self.families))
        self.set_names = {s: names.peer_set(s) for s in program.sets if self._here(s)}
        referred = {
            name
            for table in chains.values()
            for rules in table.values()
            for rule in rules
            for name in sets_in(rule)
        }
        step = Step({family: {} for family in self.families})
        moving = self._compare_sets(program, content, referred, withheld, step)
        trees = self._compare_isolated(program, content, referred, step)
        wanted = self.desired.full(program)
        rechained = any(
            chain in wanted[family] and wanted[family][chain] != rules
            for family, table in chains.items()
            for chain, rules in table.items()
        )
        if (rechained and (moving or trees)) or _both_ways(moving):
            for set_id in moving:
                del step.live[self.naming.peer_set(set_id)]
            step.isolated.clear()
            self._switch(program, moving, trees, step)
            wanted = self.desired.full(program)
        for family in self.families:
            step.chains[family] = {
                **dict.fromkeys(chains[family].keys() - wanted[family].keys()),
                **wanted[family],
            }
        kept = {*self.set_names.values(), *step.fresh, *step.isolated}
        kept |= {names.isolated_set(d, f) for d in Direction for f in self.families} - step.dropped
        kept |= {names.nodes_set(f) for f in self.families if self._nodes[f]}
        step.dropped |= content.keys() - kept
        return step

    def _compare_sets(
        self,
        program: Program,
        content: Mapping[str, SetContent],
        referred: set[str],
        withheld: frozenset[bytes],
        step: Step,
    ) -> dict[SetId, Gains]:
        moving: dict[SetId, Gains] = {}
        for set_id, name in self.set_names.items():
            members = {m for m in program.sets[set_id] if _address(m) not in withheld}
            shape = shape_of(set_id, len(members))
            gains = _compared(name, shape, members, content, referred, step)
            if gains:
                moving[set_id] = gains
                step.live[name] = gains
        for family, nodes in self._nodes.items():
            if nodes:
                name = names.nodes_set(family)
                gains = _compared(name, networks_shape(family, len(nodes)), nodes, content, referred, step)
                _around(name, gains, step)
        return moving

    def _compare_isolated(
        self, program: Program, content: Mapping[str, SetContent], referred: set[str], step: Step
    ) -> set[Tree]:
        trees = set()
        for direction in Direction:
            for family in self.families:
                name = names.isolated_set(direction, family)
                addresses: set[Member] = set(program.isolated(direction, family))
                shape = addresses_shape(family, len(addresses))
                gains = _compared(name, shape, addresses, content, referred, step)
                if gains:
                    trees.add((direction, family))
                    step.isolated[name] = gains
        return trees


def _around(name: str, gains: Gains, step: Step) -> None:
    """Change a set of nodes around all else: a node is no pod here, so one direction alone judges it."""
    if gains.added:
        step.unseen[name] = Gains(gains.added)
    if gains.removed:
        step.live[name] = Gains(removed=gains.removed)


def _compared(
    name: str,
    shape: SetShape,
    members: set[Member],
    content: Mapping[str, SetContent],
    referred: set[str],
    step: Step,
) -> Gains:
    """Put what a set needs into the step, unless rules look at it: then return it."""
    held = content.get(name)
    if held is None or (name not in referred and held.shape[:2] != shape[:2]):
        step.fresh[name] = (shape, members)
        return Gains()
    gains = Gains(members - held.members, held.members - members)
    if gains and name not in referred:
        step.unseen[name] = gains
        return Gains()
    return gains


def _address(member: Member) -> bytes | None:
    if isinstance(member, AddressPort):
        return member.address
    return member if isinstance(member, bytes) else None


def _both_ways(moving: Mapping[SetId, Gains]) -> bool:
    """Whether one direction gains while the other loses."""
    gained = {set_id.direction for set_id, gains in moving.items() if gains.added}
    lost = {set_id.direction for set_id, gains in moving.items() if gains.removed}
    return any(a is not b for a in gained for b in lost)
