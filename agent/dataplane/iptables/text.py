"""The program as text: what ``ipset restore`` and ``iptables-restore`` would be given."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from agent.dataplane.iptables.ipset.known import known_members, networks_of
from agent.dataplane.iptables.ipset.sets import addresses_shape, network_members, networks_shape, shape_of
from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import names, script
from agent.dataplane.iptables.rules.draft import Draft
from agent.dataplane.iptables.rules.node import NodeFacts
from agent.dataplane.iptables.rules.set_names import SetNames
from agent.dataplane.iptables.rules.unknown import Closing
from agent.dataplane.iptables.tables import hooks
from agent.dataplane.iptables.variant import Mode
from agent.dataplane.iptables.verdict_cache import BUCKETS, VerdictCache
from agent.kernel.ipset_shapes import LIST, SetShape
from agent.kernel.surroundings import NONE
from agent.net import AddressPort, Direction, Family, Member, NetworkMember, address_text
from agent.policy.lower.lowered import LoweredProgram
from agent.policy.program import PodNetworks

BOTH = (Family.V4, Family.V6)
_MODE: Mode = "nft"
"""In the other mode one kind of set has another name."""


def render_sets(program: LoweredProgram, options: Options, families: Iterable[Family] = BOTH) -> str:
    """Return the sets as ``ipset save`` writes them, sorted; deterministic."""
    verdict_cache = VerdictCache(_MODE, families := tuple(families), options.cache)
    found: dict[str, tuple[SetShape, Iterable[Member]]] = {}
    for family in families:
        for direction in Direction:
            isolated = program.isolated(direction, family)
            found[names.isolated_set(direction, family)] = (addresses_shape(family, len(isolated)), isolated)
            found[names.closed_set(direction, family)] = (addresses_shape(family, 0), ())
        nodes = network_members(program.node_networks, family)
        if nodes:
            found[names.nodes_set(family)] = (networks_shape(family, len(nodes)), nodes)
        if networks := network_members(_closing(program).networks, family):
            known = known_members(program, family)
            found[names.known_set(family)] = (addresses_shape(family, len(known)), known)
            found[names.pod_networks_set(family)] = (networks_shape(family, len(networks)), networks)
        for set_id, members in program.sets.items():
            if set_id.family is family:
                found[names.peer_set(set_id)] = (shape_of(set_id, len(members)), members)
    lines = []
    for family in verdict_cache.wanted:
        found |= {name: (shape, ()) for name, shape in verdict_cache.shapes(family).items()}
    found |= {names.transit_set(family): (addresses_shape(family, 0), ()) for family in families}
    for name, (shape, content) in sorted(found.items()):
        if shape.type == LIST:
            lines.append(f"create {name} {LIST}")
            continue
        family_text = "inet" if shape.family is Family.V4 else "inet6"
        timeout = f" hashsize {BUCKETS} timeout {shape.timeout}" if shape.timeout else ""
        lines.append(f"create {name} {shape.type} family {family_text} maxelem {shape.maxelem}{timeout}")
        lines += [f"add {name} {text}" for text in sorted(map(member_text, content))]
    lines += [f"add {cache.lookup} {cache.entries}" for cache in verdict_cache.wanted.values()]
    return "".join(f"{line}\n" for line in lines)


def member_text(member: Member) -> str:
    """Return a member as ipset(8) writes it."""
    if isinstance(member, AddressPort):
        return f"{address_text(member.address)},{member.protocol.name.lower()}:{member.port}"
    if isinstance(member, NetworkMember):
        return f"{member.network}{' nomatch' if member.nomatch else ''}"
    return address_text(member)


def render_tables(
    program: LoweredProgram, options: Options, families: Iterable[Family] = BOTH
) -> Mapping[Family, str]:
    """Return each family's rules as ``iptables-restore --noflush`` takes them, hooks included."""
    families = tuple(families)
    set_names = SetNames(
        VerdictCache(_MODE, families, options.cache).wanted,
        {f: names.transit_set(f) for f in families},
        closed={(d, f): names.closed_set(d, f) for d in Direction for f in families},
        closing={
            f: Closing(names.known_set(f), names.pod_networks_set(f), _closing(program).exclusive)
            for f in families
            if network_members(_closing(program).networks, f)
        },
    )
    chains = Draft(families, NodeFacts(options)).render_all(program, set_names)
    texts = {}
    for family in families:
        lines = script.lines({}, dict(sorted(chains[family].items())))
        lines += hooks.place({}, dict.fromkeys(hooks.needed(chains[family]), ""))
        texts[family] = "\n".join(["*filter", *lines, "COMMIT", ""])
    return texts


def _closing(program: LoweredProgram) -> PodNetworks:
    """Return the networks in which unknown addresses are closed, as far as no node has to be looked at."""
    return networks_of(program, NONE, ())


def render_text(program: LoweredProgram, options: Options, families: Iterable[Family] = BOTH) -> str:
    """Return sets and tables in one text for people, each part headed by the command that takes it."""
    families = tuple(families)
    parts = [f"# ipset restore\n{render_sets(program, options, families)}"]
    for family, text in render_tables(program, options, families).items():
        command = "iptables-restore" if family is Family.V4 else "ip6tables-restore"
        parts.append(f"# {command} --noflush\n{text}")
    return "\n".join(parts)
