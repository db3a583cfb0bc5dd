"""From a delta, or from a look at the kernel, to one step: what to change in chains and sets, by name.

Each function looks at the record of what the kernel holds and changes nothing in it: what a step changes
there is part of the step.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import NamedTuple

from agent.dataplane.iptables.change.atomicity import hazardous
from agent.dataplane.iptables.change.step import Gains, Step
from agent.dataplane.iptables.held import Held, Revision
from agent.dataplane.iptables.ipset.known import Moving
from agent.dataplane.iptables.ipset.set_table import alike
from agent.dataplane.iptables.ipset.sets import addresses_shape, network_members, networks_shape, shape_of
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.draft import Draft
from agent.dataplane.iptables.rules.node import NodeFacts
from agent.dataplane.iptables.rules.rule import merged, sets_in
from agent.dataplane.iptables.rules.set_names import SetNames
from agent.dataplane.iptables.rules.trees import Tree, changed_hands
from agent.kernel.ipset_shapes import SetContent, SetShape
from agent.kube.model import Key
from agent.net import AddressPort, Direction, Family, Member, family_of, member_address
from agent.policy.lower.lowered import Delta, LoweredProgram, SetId, SetKind

_NO_NODES: frozenset[Member] = frozenset()


class Found(NamedTuple):
    """What a look at the kernel found besides our chains, and what else a comparison with it depends on.

    ``content``: our sets. ``withheld`` addresses get into no set of peers yet: connections of a former owner
    are still tracked. ``elsewhere``: sets that rules of ours in the other iptables mode look at; these rules
    are judged by packets until they are removed, so that their sets may not change under them.
    ``owners``: the pods of this node's addresses. ``node``: what is known of the node, if that is news.
    ``known`` and ``networks``: the changes, by set, of known addresses and of pods' networks.
    """

    content: Mapping[str, SetContent]
    withheld: frozenset[bytes]
    elsewhere: frozenset[str]
    owners: Mapping[bytes, Key]
    node: NodeFacts | None = None
    known: Mapping[str, Moving] = MappingProxyType({})
    networks: Mapping[str, Moving] = MappingProxyType({})


def plan_delta(held: Held, program: LoweredProgram, delta: Delta, node: NodeFacts | None = None) -> Step:
    """Say what a delta means for the kernel, from where the last step leaves it.

    ``node``: what is known of the node, if that is news.
    """
    draft = held.draft(node)
    families = draft.families
    before = {pod: draft.addresses(pod) for pod in delta.pods}
    at_once = hazardous(
        delta,
        {pod: addresses for pod, addresses in before.items() if addresses},
        {pod: program.pods[pod].addresses for pod in delta.pods if pod in program.pods},
        [p for p in delta.policies if p in program.policies and draft.has_policy(p)],
    )
    step = Step({family: {} for family in families}, released=delta.released, vacant=delta.vacant)
    step.revision.node = node
    set_names = held.names
    _come_and_go(families, program, delta, step)
    set_names = set_names.forgetting(delta.sets_removed)
    if delta.node_networks:
        _change_nodes(held, families, program, step)
    if delta.admitted or delta.expelled:
        _change_known(set_names, delta, step)
    moving = {
        s: Gains(set(m.added), set(m.removed)) for s, m in delta.members.items() if s.family in families
    }
    if at_once:
        trees: dict[Tree, Gains] = {}
        for direction in Direction:
            for address in delta.isolated[direction]:
                trees.setdefault((direction, family_of(address)), Gains()).added.add(address)
            for address in delta.opened[direction]:
                trees.setdefault((direction, family_of(address)), Gains()).removed.add(address)
        here = {tree: gains for tree, gains in trees.items() if tree[1] in families}
        set_names = _switch(set_names, draft, program, moving, here, step)
    else:
        _change_members(set_names, program, delta, moving, step)
        _change_isolated(set_names, families, delta, step)
    step.chains = merged(step.chains, draft.update(program, delta, set_names))
    step.revision.names, step.revision.drawn = set_names, draft.redrawn()
    return step


def _change_members(
    set_names: SetNames,
    program: LoweredProgram,
    delta: Delta,
    moving: Mapping[SetId, Gains],
    step: Step,
) -> None:
    for set_id, gains in moving.items():
        name = set_names.peer_set(set_id)
        step.live[name] = gains
        if set_id.kind is SetKind.ADDRESS_PORTS and set_id.direction is Direction.INGRESS and gains.added:
            now = program.isolated(Direction.INGRESS, set_id.family)
            before = now - delta.isolated[Direction.INGRESS] | delta.opened[Direction.INGRESS]
            _set_apart_unseen(name, before, step)


def _set_apart_unseen(name: str, isolated: Collection[bytes], step: Step) -> None:
    """Put named ports of pods not isolated yet in front: their rules must be whole when they are."""
    gains = step.live[name]
    early: set[Member] = {m for m in gains.added if isinstance(m, AddressPort) and m.address not in isolated}
    if early:
        step.unseen[name] = Gains(early)
        gains.added -= early


def _change_isolated(set_names: SetNames, families: Collection[Family], delta: Delta, step: Step) -> None:
    def gains(direction: Direction, address: bytes) -> Gains:
        return step.isolated.setdefault(set_names.isolated_set(direction, family_of(address)), Gains())

    for direction in Direction:
        for address in delta.isolated[direction]:
            if family_of(address) in families:
                gains(direction, address).added.add(address)
        for address in delta.opened[direction]:
            if family_of(address) in families:
                gains(direction, address).removed.add(address)


def _change_known(set_names: SetNames, delta: Delta, step: Step) -> None:
    for family, closing in set_names.closing.items():
        added, removed = (
            {address for address in addresses if family_of(address) is family}
            for addresses in (delta.admitted, delta.expelled)
        )
        if added or removed:
            step.known[closing.known] = Gains(set[Member](added), set[Member](removed))


def _come_and_go(families: Collection[Family], program: LoweredProgram, delta: Delta, step: Step) -> None:
    for set_id in delta.sets_removed:
        if set_id.family in families:
            canonical = names.peer_set(set_id)
            step.dropped |= {canonical, names.alternate(canonical)}
            step.revision.named[set_id] = None
    for set_id in delta.sets_added:
        if set_id.family in families:
            name = names.peer_set(set_id)
            members = program.sets[set_id]
            step.fresh[name] = (shape_of(set_id, len(members)), members)
            step.dropped.discard(name)
            step.revision.named[set_id] = name


def _nodes(families: Collection[Family], program: LoweredProgram) -> dict[Family, frozenset[Member]]:
    return {family: frozenset(network_members(program.node_networks, family)) for family in families}


def _change_nodes(held: Held, families: Collection[Family], program: LoweredProgram, step: Step) -> None:
    step.revision.nodes = _nodes(families, program)
    for family, after in step.revision.nodes.items():
        before = held.nodes.get(family, _NO_NODES)
        name = names.nodes_set(family)
        if not before and after:
            step.fresh[name] = (networks_shape(family, len(after)), set(after))
        elif not after:
            step.dropped.add(name)
            step.otherwise[name] = Gains(removed=set(before))
        else:
            _around(name, Gains(set(after - before), set(before - after)), step)


def _switch(
    before: SetNames,
    draft: Draft,
    program: LoweredProgram,
    sets: Mapping[SetId, Gains],
    trees: Mapping[Tree, Gains],
    step: Step,
) -> SetNames:
    """Have rules look at other sets, filled with the new members, from the one restore on.

    Returns the names after it.
    """
    after = before.switching(sets.keys(), trees.keys())
    for set_id, gains in sets.items():
        old, new = before.peer_set(set_id), after.peer_set(set_id)
        members = program.sets[set_id]
        step.fresh[new] = (shape_of(set_id, len(members)), members)
        step.revision.named[set_id] = new
        step.dropped.discard(new)
        step.dropped.add(old)
        step.otherwise[old] = Gains(removed=gains.removed)
    for (direction, family), gains in trees.items():
        old, new = before.isolated_set(direction, family), after.isolated_set(direction, family)
        addresses: set[Member] = set(program.isolated(direction, family))
        step.fresh[new] = (addresses_shape(family, len(addresses)), addresses)
        step.dropped.discard(new)
        step.dropped.add(old)
        step.otherwise[old] = Gains(gains.added)
    step.chains = merged(step.chains, draft.render_referring(program, sets, after))
    if trees:
        step.chains = merged(step.chains, draft.render_tops(program, after))
    return after


def plan_switch_back(held: Held, program: LoweredProgram) -> Step:
    """Have rules look at sets under their usual names again."""
    draft = held.draft()
    step = Step({family: {} for family in draft.families})
    sets = {set_id: Gains() for set_id in held.names.switched}
    trees = {tree: Gains() for tree in held.names.switched_isolated}
    step.revision.names = _switch(held.names, draft, program, sets, trees, step)
    step.revision.drawn = draft.redrawn()
    return step


def plan_sync(held: Held, program: LoweredProgram, found: Found) -> Step:
    """Say what turns the kernel, as it was read, into the program."""
    draft = held.draft(found.node)
    families, content = draft.families, found.content
    chains = held.chains.held
    set_names = held.names.usual()
    nodes = _nodes(families, program)
    referred = {name for table in chains.values() for rules in table.values() for name in sets_in(rules)}
    referred |= found.elsewhere
    revision = Revision(nodes=nodes, node=found.node, afresh=True)
    step = Step({family: {} for family in families}, revision=revision)
    step.revision.named = {s: names.peer_set(s) for s in program.sets if s.family in families}
    moving = _compare_sets(program, found, referred, step)
    trees = _compare_isolated(families, program, content, referred, step)
    wanted = draft.render_all(program, set_names)
    rechained = any(
        chain in wanted[family] and wanted[family][chain] != rules
        for family, table in chains.items()
        for chain, rules in table.items()
    )
    step.released = _left(moving) | changed_hands(chains, found.owners)
    step.known = {name: Gains(*moved) for name, moved in found.known.items()}
    step.networks = {name: Gains(*moved) for name, moved in found.networks.items()}
    # Whoever had it may be running still, with connections.
    step.released |= {m for gains in step.known.values() for m in gains.removed if isinstance(m, bytes)}
    _hold_alternates(families, program, content, referred, step)
    swapped = any(
        _is_another(name, shape, content, referred)
        for name, shape in (
            *((names.peer_set(s), shape_of(s, 0)) for s in moving),
            *((names.isolated_set(*tree), addresses_shape(tree[1], 0)) for tree in trees),
        )
    )
    if ((rechained or found.elsewhere) and (moving or trees)) or swapped or _both_ways(moving):
        for set_id in moving:
            del step.live[set_names.peer_set(set_id)]
        step.isolated.clear()
        set_names = _switch(set_names, draft, program, moving, trees, step)
        wanted = draft.render_all(program, set_names)
    for family in families:
        step.chains[family] = {
            **dict.fromkeys(chains[family].keys() - wanted[family].keys()),
            **wanted[family],
        }
    kept = {*filter(None, step.revision.named.values()), *step.fresh, *step.isolated}
    kept |= {names.isolated_set(d, f) for d in Direction for f in families} - step.dropped
    kept |= {names.nodes_set(family) for family in families if nodes[family]}
    step.dropped |= content.keys() - kept
    step.revision.names, step.revision.drawn = set_names, draft.redrawn()
    return step


def _hold_alternates(
    families: Collection[Family],
    program: LoweredProgram,
    content: Mapping[str, SetContent],
    referred: set[str],
    step: Step,
) -> None:
    """Say what must hold in sets that rules are to let go of, should these not be written now."""
    for family, nodes in (step.revision.nodes or {}).items():
        name = names.nodes_set(family)
        if not nodes and name in referred and name in content:
            step.otherwise[name] = Gains(removed=set(content[name].members))
    for set_id in step.revision.named:
        name = names.alternate(names.peer_set(set_id))
        if name in referred and name in content:
            step.otherwise[name] = Gains(removed=content[name].members - program.sets[set_id])
    for direction in Direction:
        for family in families:
            name = names.alternate(names.isolated_set(direction, family))
            if name in referred and name in content:
                isolated: set[Member] = set(program.isolated(direction, family))
                step.otherwise[name] = Gains(isolated - content[name].members)


def _compare_sets(
    program: LoweredProgram, found: Found, referred: set[str], step: Step
) -> dict[SetId, Gains]:
    content = found.content
    moving: dict[SetId, Gains] = {}
    for set_id in step.revision.named:
        name = names.peer_set(set_id)
        members = {m for m in program.sets[set_id] if member_address(m) not in found.withheld}
        shape = shape_of(set_id, len(members))
        gains = _compared(name, shape, members, content, referred, step)
        if gains or _is_another(name, shape, content, referred):
            moving[set_id] = gains
            step.live[name] = gains
    for family, nodes in (step.revision.nodes or {}).items():
        if nodes:
            name = names.nodes_set(family)
            shape = networks_shape(family, len(nodes))
            _around(name, _compared(name, shape, set(nodes), content, referred, step), step)
    return moving


def _compare_isolated(
    families: Collection[Family],
    program: LoweredProgram,
    content: Mapping[str, SetContent],
    referred: set[str],
    step: Step,
) -> dict[Tree, Gains]:
    trees: dict[Tree, Gains] = {}
    for direction in Direction:
        for family in families:
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
