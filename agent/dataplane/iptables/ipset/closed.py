"""Pods that are closed by a set, because rules that take something from them are not written yet.

A member of a set goes by netlink, whatever a command does; rules need the command. While it cannot write what
takes something away, or takes long, the addresses concerned are in a set of closed ones, at which each packet
that is judged is looked for before its pod's rules. They leave it when these rules are written.

Which addresses: those that the tree leads to a pod's chain that is to be another one, and those whose rules
are to change by more than additions. Where the set of isolated addresses could not be made, those that are to
be in the tree, too. In doubt an address is closed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set
from dataclasses import dataclass, field

from agent.dataplane.iptables.ipset.sets import KernelSets, addresses_shape
from agent.dataplane.iptables.rules import names, script
from agent.dataplane.iptables.rules.parse import unmarked
from agent.dataplane.iptables.rules.rule import Leaf, Rule, Rules
from agent.fault import Fault
from agent.kernel.ipset_shapes import SetContent
from agent.net import Direction, Family, Member, family_of
from agent.words import and_more

Table = Mapping[str, Rules]
Place = tuple[Direction, Family]
_NOBODY: frozenset[bytes] = frozenset()

SHOWN = 5
"""How many pods a fault names."""

_LEADS = (names.POD_PREFIX, names.LIST_PREFIX, names.POLICY_PREFIX)
"""Chains with rules that lead to chains of policies."""
_TOPS = (names.FORWARD, names.BRIDGED, names.OUTPUT)


def concerned(
    family: Family, possible: Iterable[Table], wanted: Mapping[str, Rules]
) -> dict[Direction, dict[bytes, str]]:
    """Return the addresses that may pass now what they may not when ``wanted`` is written, with their pods.

    ``possible``: the tables of which the kernel may hold any; ``wanted``: the chains that are to change.
    """
    found: dict[Direction, dict[bytes, str]] = {direction: {} for direction in Direction}
    for table in possible:
        changing = {c: rules for c, rules in wanted.items() if c in table and not _alike(table[c], rules)}
        if not changing:
            continue
        losing = _leading_to({c for c, rules in changing.items() if narrows(table[c], rules)}, table)
        moving = any(chain.startswith(names.TREE_PREFIX) for chain in changing)
        for direction in Direction:
            if not losing and not moving:
                break
            now = leaves(table, direction, family)
            later = leaves({**table, **changing}, direction, family) if moving else now
            for address, leaf in now.items():
                if leaf.target in losing or address not in later or later[address].target != leaf.target:
                    found[direction][address] = _pod(leaf)
            if not _asks_set(table, direction):
                found[direction].update((a, _pod(leaf)) for a, leaf in later.items() if a not in now)
    return found


def _asks_set(table: Table, direction: Direction) -> bool:
    """Whether packets are looked for in the set of isolated addresses, so that one that is in it is denied.

    Where the kernel did not make that set, an address that the tree does not have yet is open.
    """
    judge = names.judge(direction)
    return all(rule.in_sets for chain in _TOPS for rule in table.get(chain, ()) if rule.target == judge)


def narrows(old: Rules, new: Rules) -> bool:
    """Whether the new rules may deny a packet that the old ones allow."""
    before, after = _unmarked(old), _unmarked(new)
    if after[: len(before)] == before:
        return False
    inserted = script.insertions(before, after)
    return inserted is None or not all(_only_allows(new[position - 1]) for position, _ in inserted)


def _alike(old: Rules, new: Rules) -> bool:
    """Whether rules differ in no more than which bits of marks they use: a mixture lets nobody pass."""
    return old == new or (len(old) == len(new) and _unmarked(old) == _unmarked(new))


def _unmarked(rules: Rules) -> tuple[str, ...]:
    return tuple(map(unmarked, rules))


def _only_allows(rule: Rule) -> bool:
    """Whether one rule more can only allow more."""
    if rule.goto:
        return rule.target in map(names.allow, Direction)
    # A packet that is marked has been allowed.
    marked = rule.target == "RETURN" and rule.startswith("-m mark --mark")
    return marked or rule.target.startswith(names.JUMPED_TO)


def _leading_to(chains: set[str], table: Table) -> set[str]:
    """Return the chains, and all that lead to one of them."""
    if not any(chain.startswith(names.JUMPED_TO) for chain in chains):
        return chains
    parents: dict[str, list[str]] = {}
    for chain, rules in table.items():
        if chain.startswith(_LEADS):
            for rule in rules:
                if rule.target.startswith(names.JUMPED_TO):
                    parents.setdefault(rule.target, []).append(chain)
    found, pending = set(chains), list(chains)
    while pending:
        more = set(parents.get(pending.pop(), ())) - found
        found |= more
        pending += more
    return found


def leaves(table: Table, direction: Direction, family: Family) -> dict[bytes, Rule]:
    """Return the rule by which a direction's tree leads each address to its pod."""
    found: dict[bytes, Rule] = {}
    pending = [names.tree_chain(direction, family, "")]
    while pending:
        for rule in table.get(pending.pop(), ()):
            if isinstance(rule.about, Leaf):
                found.setdefault(rule.about.address, rule)
            elif rule.target.startswith(names.TREE_PREFIX):
                pending.append(rule.target)
    return found


def _pod(leaf: Rule) -> str:
    return str(leaf.about.pod.pod) if isinstance(leaf.about, Leaf) else ""


@dataclass
class Closed:
    """The sets of closed addresses, one for each direction and family, and why somebody is in them.

    Who is in them stands in the record of the kernel. ``known`` and ``pods`` name them, for people. A set
    that cannot be made closes nobody: ``unmade`` says so.
    """

    families: tuple[Family, ...]
    usable: dict[Place, str] = field(default_factory=dict)
    known: dict[Place, dict[bytes, str]] = field(default_factory=dict)
    pods: dict[Place, tuple[str, ...]] = field(default_factory=dict)
    unmade: list[Fault] = field(default_factory=list)

    def make(
        self, sets: KernelSets, content: dict[str, SetContent]
    ) -> tuple[dict[Place, str], dict[Place, frozenset[bytes]]]:
        """Make the sets that are missing and take all out of ``content``; return those that can be used.

        Also who is in them: each stays there until :meth:`changes` says otherwise, since an earlier run may
        have closed it.
        """
        self.usable, self.unmade = {}, []
        members = {}
        for place in ((d, f) for d in Direction for f in self.families):
            name, shape = names.closed_set(*place), addresses_shape(place[1], 0)
            held = content.pop(name, None)
            faults = []
            if held is None or held.shape[:2] != shape[:2]:
                held = None
                faults = sets.create(name, shape)
            if faults:
                self.unmade += [
                    f._replace(
                        what=f"a pod whose rules cannot be written stays as it is: {f.what}", blocking=False
                    )
                    for f in faults
                ]
                continue
            self.usable[place] = name
            members[place] = frozenset(m for m in held.members if isinstance(m, bytes)) if held else _NOBODY
        return self.usable, members

    def joined(
        self, closed: dict[Place, frozenset[bytes]], more: frozenset[bytes]
    ) -> dict[Place, frozenset[bytes]]:
        """Return who is closed with more addresses, which are so in both directions."""
        if not more:
            return closed
        return {place: closed.get(place, _NOBODY) | _of(place, more) for place in self.usable}

    def changes(
        self,
        closed: Mapping[Place, frozenset[bytes]],
        wanted: Mapping[Place, Mapping[bytes, str]],
        *,
        staying: Set[Family],
        still: frozenset[bytes] = _NOBODY,
    ) -> tuple[dict[Place, frozenset[bytes]], dict[str, tuple[set[Member], set[Member]]]]:
        """Return who is closed then, and by name which addresses each set is to gain and to lose for that.

        ``closed``: who is now; ``still``: who is to be so whatever ``wanted`` says. ``staying``: the families
        in which it is not known of everybody whether they can be opened: nobody is.
        """
        found: dict[str, tuple[set[Member], set[Member]]] = {}
        then = dict(closed)
        for place, name in self.usable.items():
            before = closed.get(place, _NOBODY)
            after = {**dict.fromkeys(_of(place, still), ""), **wanted.get(place, {})}
            if place[1] in staying:
                known = self.known.get(place, {})
                after = {address: known.get(address, "") for address in before} | after
            self.known[place] = after
            self.pods[place] = tuple(sorted(filter(None, set(after.values()))))
            if before != after.keys():
                found[name] = (set(after.keys() - before), set(before - after.keys()))
                then[place] = frozenset(after)
        return then, found

    def faults(self, why: Mapping[Family, str]) -> Iterator[Fault]:
        """Yield which pods are closed; ``why``: what keeps a family's rules from being written, if known."""
        for (direction, family), pods in self.pods.items():
            if pods:
                more = and_more(len(pods), SHOWN)
                yield Fault(
                    f"closed for {direction} in IPv{int(family)} until their rules can be written: "
                    f"{', '.join(pods[:SHOWN])}{more}: {why.get(family, 'a command is still writing')}",
                    "these pods get no new connection, so that nothing that a policy took away stays open; "
                    "they open by themselves when the rules are written: remove what prevents that",
                )
        yield from self.unmade


def _of(place: Place, addresses: frozenset[bytes]) -> frozenset[bytes]:
    return frozenset(address for address in addresses if family_of(address) is place[1])
