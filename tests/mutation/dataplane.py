"""Breakages of the renderer, of the tree, and of the steps from one state of the kernel to the next."""

from __future__ import annotations

from tests.mutation.model import Mutation, Selection

_RENDER = "agent/dataplane/iptables/render.py"
_TREE = "agent/dataplane/iptables/tree.py"
_HAZARDS = "agent/dataplane/iptables/hazards.py"
_STEPS = "agent/dataplane/iptables/steps.py"
_WRITER = "agent/dataplane/iptables/writer.py"
_CACHE = "agent/dataplane/iptables/verdict_cache.py"
_TREES = "agent/dataplane/iptables/trees.py"
_NAMES = "agent/dataplane/iptables/names.py"

DATAPLANE = (
    # --- Rules ----------------------------------------------------------------------------------------------
    Mutation(
        "a multiport chunk dropped",
        _RENDER,
        "for texts in chunks:",
        "for texts in chunks[:1]:",
        (Selection.CHAINS,),
    ),
    Mutation(
        "a range counted as one port of a multiport match",
        _RENDER,
        "slots = 1 if first == last else 2",
        "slots = 1",
        (Selection.CHAINS,),
    ),
    Mutation(
        "a range written as its first port",
        _RENDER,
        'chunks[-1].append(str(first) if first == last else f"{first}:{last}")',
        "chunks[-1].append(str(first))",
        (Selection.CHAINS,),
    ),
    Mutation(
        "any port written for one protocol as for every protocol",
        _RENDER,
        'matches.append(f"-p {name}")',
        'matches.append("")',
        (Selection.CHAINS,),
    ),
    Mutation(
        "src for dst",
        _RENDER,
        'side, flag = ("src", "-s") if inwards else ("dst", "-d")',
        'side, flag = ("dst", "-d") if inwards else ("src", "-s")',
        (Selection.CHAINS,),
    ),
    Mutation(
        "OR for AND between a rule's peers and its ports",
        _RENDER,
        "chain += [line for way in ways for line in write.peers(rule, way)]",
        "chain += [*(_join(way, write.allow) for way in ways), *peers]",
        (Selection.CHAINS,),
    ),
    Mutation(
        "a network written behind the ports, where iptables-save does not print it",
        _RENDER,
        '_join(f"{flag} {network}", way, about, self.allow) for network in plain',
        '_join(way, f"{flag} {network}", about, self.allow) for network in plain',
        (Selection.CHAINS,),
    ),
    Mutation(
        "peers lost where a rule has a chain of them",
        _RENDER,
        'chain += [_join(way, "-g" if last else "-j", inner) for way in ways]',
        "chain += [_join(way, write.allow) for way in ways]",
        (Selection.CHAINS,),
    ),
    Mutation(
        "whom one rule's peers are not, no later rule lets in",
        _RENDER,
        '"-g" if last else "-j"',
        '"-g"',
        (Selection.RULES,),
    ),
    Mutation(
        "whose ports one rule has not, no later rule lets in",
        _RENDER,
        "(last or not any(map(_returns, once)))",
        "True",
        (Selection.RULES,),
    ),
    Mutation(
        "a rule's peers may use every port of its protocol",
        _RENDER,
        'return [_join(only, numbers, rest, *others, "-j RETURN"), *self.peers(rule, only)]',
        "return self.peers(rule, only)",
        (Selection.RULES,),
    ),
    Mutation(
        "named ports forgotten beside numbers",
        _RENDER,
        'numbers, rest, *others, "-j RETURN")',
        'numbers, rest, "-j RETURN")',
        (Selection.RULES,),
    ),
    Mutation(
        "named ports of another protocol than the numbers",
        _RENDER,
        " or (named and rule.protocol is None)",
        "",
        (Selection.RULES,),
    ),
    Mutation(
        "ports but the first forgotten where one line tells them",
        _RENDER,
        'rest = f"-m multiport ! --dports {\',\'.join(more)}" if more else ""',
        'rest = ""',
        (Selection.RULES,),
    ),
    Mutation(
        "what a block excepts is let in",
        _RENDER,
        'found += [f"{flag} {network} {about} -j RETURN" for network in excepted]',
        "pass",
        (Selection.RULES,),
    ),
    Mutation(
        "a block that is cut lets everybody in",
        _RENDER,
        'found.append(f"! {flag} {plain.pop()} -j RETURN")',
        "plain.pop()",
        (Selection.RULES,),
    ),
    Mutation(
        "blocks of few networks are not rendered",
        _RENDER,
        'found += [_join(f"{flag} {network}", way, about, self.allow) for network in plain]',
        "pass",
        (Selection.CHAINS,),
    ),
    Mutation(
        "named ports of peers are not rendered",
        _RENDER,
        "chain += [_join(named_port, write.about(rule), write.allow) for named_port in folded]",
        "pass",
        (Selection.FOLDED,),
    ),
    Mutation(
        "one rule's chain of peers serves every rule of the policy",
        _NAMES,
        'digest("rule", policy.direction, *policy.policy, str(number))',
        'digest("rule", policy.direction, *policy.policy)',
        (Selection.RULES,),
    ),
    Mutation(
        "a policy's two directions share a chain",
        _NAMES,
        'digest("policy", policy.direction, *policy.policy)',
        'digest("policy", *policy.policy)',
        (Selection.CHAINS,),
    ),
    Mutation(
        "sets of both families share a name",
        _NAMES,
        "KUBE-{side}-{int(set_id.family)}-",
        "KUBE-{side}-4-",
        (Selection.CHAINS,),
    ),
    # --- Marks and verdicts ---------------------------------------------------------------------------------
    Mutation(
        "a policy of one direction is asked for the other's mark",
        "agent/dataplane/iptables/lists.py",
        '    bit = f"{options.mark(direction):#x}"\n    found',
        '    bit = f"{options.mark(Direction.EGRESS):#x}"\n    found',
        (Selection.CHAINS,),
    ),
    Mutation(
        "a pod's own marks count as a policy's",
        _RENDER,
        '            f"{marked} {clear}",\n            *from_nodes,',
        "            *from_nodes,",
        (Selection.CHAINS,),
    ),
    Mutation(
        "marks stay on a packet that was judged",
        _RENDER,
        ' {fell} -g {names.DENY}",\n            clear,',
        ' {fell} -g {names.DENY}",',
        (Selection.CHAINS,),
    ),
    Mutation(
        "strangers' marks are cleared with ours",
        _RENDER,
        'clear = f"-j MARK --set-xmark 0x0/{options.both_marks:#x}"',
        'clear = "-j MARK --set-xmark 0x0/0xffffffff"',
        (Selection.CHAINS,),
    ),
    Mutation(
        "mark not checked: an isolated address that no pod has is open",
        _RENDER,
        '            f"-m mark ! --mark {bit}/{bit} {fell} -g {names.DENY}",\n',
        "",
        (Selection.STEPS,),
    ),
    Mutation(
        "a pod's packets to others pass for those to itself",
        _RENDER,
        'f"-s {own} -d {own}",',
        'f"-s {own}",',
        (Selection.CHAINS,),
    ),
    Mutation(
        "accept before the second direction is judged",
        _RENDER,
        '        *(f"{check} -j {names.judge(d)}" for d, check in checks.items()),\n    ]\n    if done:\n',
        "        f'{checks[Direction.EGRESS]} -j {names.judge(Direction.EGRESS)}',\n    ]\n    if done:\n",
        (Selection.CHAINS,),
    ),
    Mutation(
        "bypass for everyone",
        _RENDER,
        "f\"-i {uplink} {_in_set(names.nodes_set(family), 'src')} \"",
        'f"-i {uplink} "',
        (Selection.STEPS,),
    ),
    # --- The tree -------------------------------------------------------------------------------------------
    Mutation(
        "a tree leaf dropped",
        _TREE,
        "nodes[node] = tuple(Prefix(a, bits) for a in members)",
        "nodes[node] = tuple(Prefix(a, bits) for a in members[:7])",
        (Selection.CROWD,),
    ),
    Mutation(
        "a lonely address of the tree dropped",
        _TREE,
        "                entries.append(Prefix(group[0], bits))",
        "                pass",
        (Selection.CROWD,),
    ),
    Mutation(
        "a node of the tree covers half of its addresses",
        _TREE,
        "child = Prefix(value << (bits - length), length)",
        "child = Prefix(value << (bits - length), min(bits, length + 1))",
        (Selection.CROWD,),
    ),
    Mutation(
        "a pod that goes keeps its place in the tree",
        _TREES,
        "if state is not None and state.addresses.get(number) == pod:",
        "if False:",
        (Selection.CROWD,),
    ),
    # --- Steps ----------------------------------------------------------------------------------------------
    Mutation(
        "hazard switch off",
        _HAZARDS,
        "    return any(\n        _within(side",
        "    return False and any(\n        _within(side",
        (Selection.MOVES,),
    ),
    Mutation(
        "no hazard is seen between the two directions",
        _HAZARDS,
        " or _across(side, sides[OTHER[d]], delta.local)",
        "",
        (Selection.MOVES,),
    ),
    Mutation(
        "no hazard is seen where chains and sets change together",
        _HAZARDS,
        "if any(moved - own or side.named & own for own in side.rechained.values()):",
        "if False:",
        (Selection.MOVES,),
    ),
    Mutation(
        "removals before additions",
        _WRITER,
        "        faults += self.change(\n"
        "            {n: Gains(_without(g.added, held_back), g.removed) for n, g in step.live.items()}\n"
        "        )\n",
        "        faults += self.change({n: Gains(removed=g.removed) for n, g in step.live.items()})\n"
        "        added = {n: Gains(_without(g.added, held_back)) for n, g in step.live.items()}\n"
        "        faults += self.change(added)\n",
        (Selection.MOVES,),
    ),
    Mutation(
        "the verdict cache stays open when a peer is none any more",
        _WRITER,
        "return bool(gains.removed) or any(isinstance(m, NetworkMember) and m.nomatch for m in gains.added)",
        "return False",
        (Selection.CACHE,),
    ),
    Mutation(
        "the verdict cache stays open while rules are written",
        _WRITER,
        "            faults.extend(self._sets.change({}, lookups))\n",
        "",
        (Selection.CACHE,),
    ),
    Mutation(
        "the verdict cache opens before old packets have been judged",
        _CACHE,
        "        self._judged()\n",
        "",
        (Selection.CACHE,),
    ),
    Mutation(
        "the verdict cache opens before it is emptied",
        _CACHE,
        "ipsets.change((), [cache.entries for cache in caches])",
        "ipsets.change(())",
        (Selection.CACHE,),
    ),
    Mutation(
        "a connection is cached before both directions have judged it",
        _RENDER,
        '        common += [f"{check} {done}" for check in checks.values()]\n',
        '        common[1:1] = [f"{check} {done}" for check in checks.values()]\n',
        (Selection.CHAINS,),
    ),
    Mutation(
        "a packet with a mark of ours leaves because its like is cached",
        _RENDER,
        'unmarked = f"-m mark --mark 0x0/{options.both_marks:#x}"',
        'unmarked = "-m mark --mark 0x0/0x0"',
        (Selection.CHAINS,),
    ),
    Mutation(
        "an address is isolated before its chain is there",
        _WRITER,
        "        apart = any(entering.values()) and any(reached.values())\n",
        "        faults += self.change(entering)\n"
        "        apart = any(entering.values()) and any(reached.values())\n",
        (Selection.STEPS,),
    ),
    Mutation(
        "connections are not forgotten when an address changes hands",
        _WRITER,
        "            count = forget(wanted)\n",
        "            count = 0\n",
        (Selection.STEPS,),
    ),
    Mutation(
        "named ports come after the pod that has them is isolated",
        _STEPS,
        "if set_id.kind is SetKind.ADDRESS_PORTS and set_id.direction is Direction.INGRESS:",
        "if False:",
        (Selection.MOVES,),
    ),
    Mutation(
        "what left a set while no agent ran stays in it",
        _STEPS,
        "gains = Gains(members - held.members, held.members - members)",
        "gains = Gains(members - held.members)",
        (Selection.RESTART,),
    ),
    Mutation(
        "a rule inserted one place too far",
        "agent/dataplane/iptables/script.py",
        "if position > length else",
        "if position >= length else",
        (Selection.MOVES,),
    ),
    Mutation(
        "who loses something is not closed while rules cannot be written",
        "agent/dataplane/iptables/closed.py",
        "if leaf.chain in losing or",
        "if",
        (Selection.UNWRITTEN,),
    ),
    Mutation(
        "an address whose rules lead to its former pod is not closed",
        "agent/dataplane/iptables/closed.py",
        "later = leaves({**table, **changing}, direction, family) if moving else now",
        "later = now",
        (Selection.UNWRITTEN,),
    ),
    Mutation(
        "closed addresses are not looked for",
        _RENDER,
        "            *shut,\n",
        "",
        (Selection.UNWRITTEN,),
    ),
    Mutation(
        "without a set for named ports a rule lets in every port",
        "agent/dataplane/iptables/unmade.py",
        "if negated or (name in missing and asks):",
        "if name in missing and asks:",
        (Selection.UNWRITTEN,),
    ),
    Mutation(
        "the last policy of a shared list is forgotten",
        "agent/dataplane/iptables/lists.py",
        "tuple(rules_of(part, direction, options))",
        "tuple(rules_of(part[:-1], direction, options))",
        (Selection.STEPS,),
    ),
)
