"""Breakages of the steps from one state of the kernel to the next, and of getting on with other programs."""

from __future__ import annotations

from tests.mutation.model import Mutation, Selection

STEPS = (
    # --- Steps ----------------------------------------------------------------------------------------------
    Mutation(
        "hazard switch off",
        "agent.dataplane.iptables.change.atomicity:hazardous",
        "any((_within(side, delta.isolated[d], delta.opened[d]) or _across(side, sides[OTHER[d]], "
        "delta.local) for d, side in sides.items()))",
        "False and any((_within(side, delta.isolated[d], delta.opened[d]) or _across(side, "
        "sides[OTHER[d]], delta.local) for d, side in sides.items()))",
        (Selection.MOVES,),
    ),
    Mutation(
        "no hazard is seen between the two directions",
        "agent.dataplane.iptables.change.atomicity:hazardous",
        "_within(side, delta.isolated[d], delta.opened[d]) or _across(side, sides[OTHER[d]], delta.local)",
        "_within(side, delta.isolated[d], delta.opened[d])",
        (Selection.MOVES,),
    ),
    Mutation(
        "no hazard is seen where chains and sets change together",
        "agent.dataplane.iptables.change.atomicity:_within",
        "any((moved - own or side.named & own for own in side.rechained.values()))",
        "False",
        (Selection.MOVES,),
    ),
    Mutation(
        "removals before additions",
        "agent.dataplane.iptables.change.carrying:Carrying._change_members",
        "self._change({n: Gains(self._without_unforgotten(g.added), g.removed) for n, g in live})",
        "self._change({n: Gains(removed=g.removed) for n, g in live})\n"
        "self._change({n: Gains(self._without_unforgotten(g.added)) for n, g in live})",
        (Selection.MOVES,),
    ),
    Mutation(
        "the verdict cache stays open when a peer is none any more",
        "agent.dataplane.iptables.change.step:denies",
        "bool(gains.removed) or any((isinstance(m, NetworkMember) and m.nomatch for m in gains.added))",
        "False",
        (Selection.CACHE,),
    ),
    Mutation(
        "the verdict cache stays open while rules are written",
        "agent.dataplane.iptables.change.writers:Writers.write",
        "faults.extend(self.sets.change({}, lookups))",
        "",
        (Selection.CACHE,),
    ),
    Mutation(
        "the verdict cache opens before old packets have been judged",
        "agent.dataplane.iptables.verdict_cache:Flusher.open",
        "self._judged()",
        "",
        (Selection.CACHE,),
    ),
    Mutation(
        "the verdict cache opens before it is emptied",
        "agent.dataplane.iptables.verdict_cache:Flusher.open",
        "[cache.entries for cache in caches],",
        "",
        (Selection.CACHE,),
    ),
    Mutation(
        "a connection is cached before both directions have judged it",
        "agent.dataplane.iptables.rules.render:top_chains",
        "common += [done(check) for check in checks.values()]",
        "common[1:1] = [done(check) for check in checks.values()]",
        (Selection.CHAINS,),
    ),
    Mutation(
        "a packet with a mark of ours leaves because its like is cached",
        "agent.dataplane.iptables.rules.render:_cached",
        "f'-p {PROTOCOLS[protocol]} -m mark --mark 0x0/{options.both_marks:#x}'",
        "f'-p {PROTOCOLS[protocol]} -m mark --mark 0x0/0x0'",
        (Selection.CHAINS,),
    ),
    Mutation(
        "an address is isolated before its chain is there",
        "agent.dataplane.iptables.change.carrying:Carrying._write_and_isolate",
        "apart = any(self._entering.values()) and any(reached.values())",
        "self._change(self._entering)\napart = any(self._entering.values()) and any(reached.values())",
        (Selection.STEPS,),
    ),
    Mutation(
        "connections are not forgotten when an address changes hands",
        "agent.dataplane.iptables.change.connections:Connections.forget",
        "self._forget(wanted)",
        "0",
        (Selection.STEPS,),
    ),
    Mutation(
        "named ports come after the pod that has them is isolated",
        "agent.dataplane.iptables.change.planner:_change_members",
        "set_id.kind is SetKind.ADDRESS_PORTS and set_id.direction is Direction.INGRESS and gains.added",
        "False",
        (Selection.MOVES,),
    ),
    Mutation(
        "what left a set while no agent ran stays in it",
        "agent.dataplane.iptables.change.planner:_compared",
        "held.members - members,",
        "",
        (Selection.RESTART,),
    ),
    Mutation(
        "a rule inserted one place too far",
        "agent.dataplane.iptables.rules.script:lines",
        "position > length",
        "position >= length",
        (Selection.MOVES,),
    ),
    Mutation(
        "who loses something is not closed while rules cannot be written",
        "agent.dataplane.iptables.ipset.closed:concerned",
        "leaf.target in losing or address not in later or later[address].target != leaf.target",
        "address not in later or later[address].target != leaf.target",
        (Selection.UNWRITTEN,),
    ),
    Mutation(
        "an address whose rules lead to its former pod is not closed",
        "agent.dataplane.iptables.ipset.closed:concerned",
        "leaves({**table, **changing}, direction, family) if moving else now",
        "now",
        (Selection.UNWRITTEN,),
    ),
    Mutation(
        "closed addresses are not looked for",
        "agent.dataplane.iptables.rules.render:_judging_chains",
        "*shut,",
        "",
        (Selection.UNWRITTEN,),
    ),
    Mutation(
        "without a set for named ports a rule lets in every port",
        "agent.dataplane.iptables.ipset.unmade:_without",
        "match.negated or (match.name in missing and rule.target in _ASKS)",
        "match.name in missing and rule.target in _ASKS",
        (Selection.UNWRITTEN,),
    ),
    Mutation(
        "the last policy of a shared list is forgotten",
        "agent.dataplane.iptables.rules.lists:entries_of",
        "part,",
        "part[:-1],",
        (Selection.STEPS,),
    ),
    # --- Beside other programs ------------------------------------------------------------------------------
    Mutation(
        "a bit that others use is taken",
        "agent.dataplane.iptables.tables.marks:_free",
        "not bit & avoided",
        "bit",
        (Selection.MARKS,),
    ),
    Mutation(
        "of a mark that is set with a mask only the value counts",
        "agent.dataplane.iptables.tables.markuse:changed",
        "value if mask == FULL else value | mask",
        "value",
        (Selection.MARKS,),
    ),
    Mutation(
        "a rule of which it is not known what it does may stay in front",
        "agent.dataplane.iptables.rules.hooks:_can_pass",
        "if foreign.is_unclear(rule):\n    return True",
        "",
        (Selection.FOREIGN,),
    ),
    Mutation(
        "after a chain that cannot be shown no other is read",
        "agent.dataplane.iptables.tables.foreign:_listed",
        "waiting[waiting.index(failed) + 1:] if failed in waiting else []",
        "[]",
        (Selection.FOREIGN,),
    ),
    Mutation(
        "a tunnel takes from whatever interface",
        "agent.dataplane.iptables.rules.guards:_let_in",
        "jump('DROP', about, about=Guard.TUNNEL_IN)",
        "jump('RETURN', about, about=Guard.TUNNEL_IN)",
        (Selection.TUNNELS,),
    ),
    Mutation(
        "a tunnel takes from strangers where nodes are known",
        "agent.dataplane.iptables.rules.guards:tunnel_chains",
        "found.nodes is not None",
        "False",
        (Selection.TUNNELS,),
    ),
    Mutation(
        "other nodes are let in by a tunnel whatever address another of its port is told to talk to",
        "agent.dataplane.iptables.rules.guards:_from_nodes",
        "other.remote is None",
        "True",
        (Selection.TUNNELS,),
    ),
    Mutation(
        "a bridge with a card and pods' ports is taken for the network outside",
        "agent.kernel.surroundings:sort.outside",
        "any(map(leads_outside, ports)) and (not any((port.kind in POD_KINDS for port in ports)))",
        "any(map(leads_outside, ports))",
        (Selection.SURROUNDINGS,),
    ),
)
