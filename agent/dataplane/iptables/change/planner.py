"""From a delta, or from a look at the kernel, to one step: what to change in chains and sets, by name."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping

from agent.dataplane.iptables.change.atomicity import hazardous
from agent.dataplane.iptables.change.desired import Desired, Naming, merged
from agent.dataplane.iptables.change.step import Gains, Step
from agent.dataplane.iptables.ipset.sets import (
    addresses_shape,
    alike,
    network_members,
    networks_shape,
    shape_of,
)
from agent.dataplane.iptables.rules import guards, names
from agent.dataplane.iptables.rules.rule import Rules, sets_in
from agent.dataplane.iptables.rules.trees import Tree, changed_hands
from agent.kernel.ipset_shapes import SetContent, SetShape
from agent.kube.model import Key
from agent.net import AddressPort, Direction, Family, Member, Network, family_of, member_address
from agent.policy.lower.lowered import Delta, LoweredProgram, SetId, SetKind


class Planner:
    """Makes steps, and remembers under which names sets are and who is isolated after the last step."""

    def __init__(
        self,
        families: Iterable[Family],
        desired: Desired,
        naming: Naming,
        uplinks: Callable[[Iterable[Network]], frozenset[str]],
    ) -> None:
        """``uplinks`` says by which interfaces networks are reached. It may raise OSError."""
        self.families = tuple(families)
        self.desired = desired
        self.naming = naming
        self._uplinks = uplinks
        self.set_names: dict[SetId, str] = {}
        self._isolated: set[bytes] = set()
        self._nodes: dict[Family, set[Member]] = {family: set() for family in self.families}
        self.guarding = False
        """Whether the kernel holds the rules about tunnels, by which these take from nodes alone."""
        self.unrouted: OSError | None = None
        self.reached_by: frozenset[str] = frozenset()
        """The interfaces by which other nodes were reached when that was last known."""

    def uplinks(self, program: LoweredProgram) -> frozenset[str]:
        """Ask by which interfaces packets come in that other nodes have sent, and nobody else.

        Raises OSError where the kernel does not say.
        """
        return self._let_in_by(self._uplinks(program.node_networks), program)

    def follow_uplinks(self, program: LoweredProgram) -> None:
        """Let other nodes in by these interfaces from now on.

        Where the kernel does not say, those of before hold, and ``unrouted`` tells why.
        """
        try:
            self.reached_by = self._uplinks(program.node_networks)
        except OSError as error:
            self.unrouted = error
            return
        self.unrouted = None
        self.desired.uplinks = self._let_in_by(self.reached_by, program)

    def _let_in_by(self, reached_by: frozenset[str], program: LoweredProgram) -> frozenset[str]:
        return frozenset(name for name in reached_by if self._trusted(name, program))

    def _trusted(self, name: str, program: LoweredProgram) -> bool:
        surroundings = self.desired.surroundings
        if name not in surroundings.carried:
            return True
        return self.guarding and guards.trusted(name, surroundings, program.node_networks, self.families)

    def trust(self, program: LoweredProgram) -> Step | None:
        """Take note that the kernel holds the rules about tunnels; return what that changes, if anything."""
        self.guarding = True
        before = self.desired.uplinks
        self.follow_uplinks(program)
        return None if self.desired.uplinks == before else Step(self.desired.render_tops(program))

    def _here(self, set_id: SetId) -> bool:
        return set_id.family in self.families

    def step(self, program: LoweredProgram, delta: Delta) -> Step:
        """Say what a delta means for the kernel, from where the last step left it."""
        before = {pod: self.desired.addresses(pod) for pod in delta.pods}
        at_once = hazardous(
            delta,
            {pod: addresses for pod, addresses in before.items() if addresses},
            {pod: program.pods[pod].addresses for pod in delta.pods if pod in program.pods},
            [p for p in delta.policies if p in program.policies and self.desired.has_policy(p)],
        )
        step = Step({family: {} for family in self.families}, released=delta.released, vacant=delta.vacant)
        self._come_and_go(program, delta, step)
        if delta.node_networks:
            self._change_nodes(program, step)
        moving = {s: Gains(set(m.added), set(m.removed)) for s, m in delta.members.items() if self._here(s)}
        if at_once:
            trees: dict[Tree, Gains] = {}
            for direction in Direction:
                for address in delta.isolated[direction]:
                    trees.setdefault((direction, family_of(address)), Gains()).added.add(address)
                for address in delta.opened[direction]:
                    trees.setdefault((direction, family_of(address)), Gains()).removed.add(address)
            here = {tree: gains for tree, gains in trees.items() if tree[1] in self.families}
            self._switch(program, moving, here, step)
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

    def _come_and_go(self, program: LoweredProgram, delta: Delta, step: Step) -> None:
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

    def _change_nodes(self, program: LoweredProgram, step: Step) -> None:
        self.follow_uplinks(program)
        for family in self.families:
            before, after = self._nodes[family], network_members(program.node_networks, family)
            name = names.nodes_set(family)
            if not before and after:
                step.fresh[name] = (networks_shape(family, len(after)), after)
            elif not after:
                step.dropped.add(name)
                step.otherwise[name] = Gains(removed=set(before))
            else:
                _around(name, Gains(after - before, before - after), step)
            self._nodes[family] = after

    def _switch(
        self, program: LoweredProgram, sets: Mapping[SetId, Gains], trees: Mapping[Tree, Gains], step: Step
    ) -> None:
        """Have rules look at other sets, filled with the new members, from the one restore on."""
        for set_id, gains in sets.items():
            old = self.naming.peer_set(set_id)
            self.naming.switched ^= {set_id}
            new = self.naming.peer_set(set_id)
            members = program.sets[set_id]
            step.fresh[new] = (shape_of(set_id, len(members)), members)
            self.set_names[set_id] = new
            step.dropped.discard(new)
            step.dropped.add(old)
            step.otherwise[old] = Gains(removed=gains.removed)
        for (direction, family), gains in trees.items():
            old = self.naming.isolated_set(direction, family)
            self.naming.switched_isolated ^= {(direction, family)}
            addresses: set[Member] = set(program.isolated(direction, family))
            new = self.naming.isolated_set(direction, family)
            step.fresh[new] = (addresses_shape(family, len(addresses)), addresses)
            step.dropped.discard(new)
            step.dropped.add(old)
            step.otherwise[old] = Gains(gains.added)
        step.chains = merged(step.chains, self.desired.render_referring(program, sets))
        if trees:
            step.chains = merged(step.chains, self.desired.render_tops(program))

    @property
    def switched(self) -> bool:
        """Whether rules look at sets under other names than the usual."""
        return bool(self.naming.switched or self.naming.switched_isolated)

    def switch_back(self, program: LoweredProgram) -> Step:
        """Have rules look at sets under their usual names again."""
        step = Step({family: {} for family in self.families})
        sets = {set_id: Gains() for set_id in self.naming.switched}
        self._switch(program, sets, {tree: Gains() for tree in self.naming.switched_isolated}, step)
        return step

    def difference(
        self,
        program: LoweredProgram,
        chains: Mapping[Family, Mapping[str, Rules]],
        content: Mapping[str, SetContent],
        withheld: frozenset[bytes],
        elsewhere: frozenset[str],
        owners: Mapping[bytes, Key],
    ) -> Step:
        """Say what turns the kernel, as it was read, into the program.

        ``withheld`` addresses get into no set of peers yet: connections of a former owner are still tracked.
        ``elsewhere``: sets that rules of ours in the other iptables mode refer to; these rules are judged by
        packets until they are removed, so that their sets may not change under them. ``owners``: the pods of
        this node's addresses.
        """
        self.naming.switched.clear()
        self.naming.switched_isolated.clear()
        self.follow_uplinks(program)
        self._nodes = {family: network_members(program.node_networks, family) for family in self.families}
        self._isolated = set().union(*(program.isolated(Direction.INGRESS, f) for f in self.families))
        self.set_names = {s: names.peer_set(s) for s in program.sets if self._here(s)}
        referred = {
            name for table in chains.values() for rules in table.values() for name in sets_in(rules)
        } | elsewhere
        step = Step({family: {} for family in self.families})
        moving = self._compare_sets(program, content, referred, withheld, step)
        trees = self._compare_isolated(program, content, referred, step)
        wanted = self.desired.render_all(program)
        rechained = any(
            chain in wanted[family] and wanted[family][chain] != rules
            for family, table in chains.items()
            for chain, rules in table.items()
        )
        step.released = _left(moving) | changed_hands(chains, owners)
        self._hold_alternates(program, content, referred, step)
        swapped = any(
            _is_another(name, shape, content, referred)
            for name, shape in (
                *((self.set_names[s], shape_of(s, 0)) for s in moving),
                *((names.isolated_set(*tree), addresses_shape(tree[1], 0)) for tree in trees),
            )
        )
        if ((rechained or elsewhere) and (moving or trees)) or swapped or _both_ways(moving):
            for set_id in moving:
                del step.live[self.naming.peer_set(set_id)]
            step.isolated.clear()
            self._switch(program, moving, trees, step)
            wanted = self.desired.render_all(program)
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

    def _hold_alternates(
        self, program: LoweredProgram, content: Mapping[str, SetContent], referred: set[str], step: Step
    ) -> None:
        """Say what must hold in sets that rules are to let go of, should these not be written now."""
        for family, nodes in self._nodes.items():
            name = names.nodes_set(family)
            if not nodes and name in referred and name in content:
                step.otherwise[name] = Gains(removed=set(content[name].members))
        for set_id, usual in self.set_names.items():
            name = names.alternate(usual)
            if name in referred and name in content:
                step.otherwise[name] = Gains(removed=content[name].members - program.sets[set_id])
        for direction in Direction:
            for family in self.families:
                name = names.alternate(names.isolated_set(direction, family))
                if name in referred and name in content:
                    isolated: set[Member] = set(program.isolated(direction, family))
                    step.otherwise[name] = Gains(isolated - content[name].members)

    def _compare_sets(
        self,
        program: LoweredProgram,
        content: Mapping[str, SetContent],
        referred: set[str],
        withheld: frozenset[bytes],
        step: Step,
    ) -> dict[SetId, Gains]:
        moving: dict[SetId, Gains] = {}
        for set_id, name in self.set_names.items():
            members = {m for m in program.sets[set_id] if member_address(m) not in withheld}
            shape = shape_of(set_id, len(members))
            gains = _compared(name, shape, members, content, referred, step)
            if gains or _is_another(name, shape, content, referred):
                moving[set_id] = gains
                step.live[name] = gains
        for family, nodes in self._nodes.items():
            if nodes:
                name = names.nodes_set(family)
                gains = _compared(name, networks_shape(family, len(nodes)), nodes, content, referred, step)
                _around(name, gains, step)
        return moving

    def _compare_isolated(
        self, program: LoweredProgram, content: Mapping[str, SetContent], referred: set[str], step: Step
    ) -> dict[Tree, Gains]:
        trees: dict[Tree, Gains] = {}
        for direction in Direction:
            for family in self.families:
                name = names.isolated_set(direction, family)
                addresses: set[Member] = set(program.isolated(direction, family))
                shape = addresses_shape(family, len(addresses))
                gains = _compared(name, shape, addresses, content, referred, step)
                if gains or _is_another(name, shape, content, referred):
                    trees[direction, family] = gains
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
    if held is None:
        step.fresh[name] = (shape, members)
        return Gains()
    gains = Gains(members - held.members, held.members - members)
    if name not in referred:
        # Made anew where it is wrong: should that fail, no rule may come to look at it.
        if gains or not alike(held.shape, shape):
            step.fresh[name] = (shape, members)
        return Gains()
    return gains


def _is_another(
    name: str, shape: SetShape, content: Mapping[str, SetContent], referred: Collection[str]
) -> bool:
    """Whether rules look at a set that cannot hold what it is to: somebody swapped it for one of theirs."""
    return name in referred and name in content and not alike(content[name].shape, shape)


def _left(moving: Mapping[SetId, Gains]) -> set[bytes]:
    """Return the addresses that leave sets: whose pods they were is not known any more."""
    found = {member_address(member) for gains in moving.values() for member in gains.removed}
    return {address for address in found if address is not None}


def _both_ways(moving: Mapping[SetId, Gains]) -> bool:
    """Whether one direction gains while the other loses."""
    gained = {set_id.direction for set_id, gains in moving.items() if gains.added}
    lost = {set_id.direction for set_id, gains in moving.items() if gains.removed}
    return any(a is not b for a in gained for b in lost)
