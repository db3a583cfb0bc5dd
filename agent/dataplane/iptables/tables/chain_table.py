"""What is in the kernel, as far as this backend wrote or read it, and the writing of chains."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Mapping, Set

from agent.dataplane.differences import Difference, What
from agent.dataplane.iptables.change.desired import Changes
from agent.dataplane.iptables.ipset.closed import concerned
from agent.dataplane.iptables.ipset.unmade import narrowed
from agent.dataplane.iptables.rules import names, render, script
from agent.dataplane.iptables.tables import foreign
from agent.dataplane.iptables.tables.generation import Generation
from agent.dataplane.iptables.tables.nft import FILTER
from agent.dataplane.iptables.tables.tables import Table, TableError, Tables
from agent.dataplane.turns import PAUSE, Work
from agent.fault import Fault
from agent.kernel.netlink import NetlinkSocket
from agent.kernel.nf_tables import put_jump_first
from agent.net import Direction, Family

Rules = tuple[str, ...]

PART = 1000
"""How many rules of new chains are written at once."""

_COMMENT = re.compile(r'--comment "([^"]*)"')
_JUMP = re.compile(r" ?-[jg] (\S+)$")
_MATCH_SET = re.compile(r"--match-set (\S+) ")


class ChainTable:
    """Our chains in the kernel, both families.

    ``garbage`` are those that nothing needs any more and nothing leads to, to be removed when there is time.
    Every write keeps this true: what failed to be written is not recorded as written. ``watch`` is told of
    each write.
    """

    def __init__(
        self, tables: Tables, families: Iterable[Family], watch: Generation, patience: float = math.inf
    ) -> None:
        """``patience``: seconds after which work that waits for a command yields."""
        self.tables = tables
        self._patience = patience
        self.families = tuple(families)
        self.whole: dict[Family, Table] = {family: {} for family in self.families}
        self.garbage: dict[Family, set[str]] = {family: set() for family in self.families}
        self.wanted: dict[Family, dict[str, Rules]] = {family: {} for family in self.families}
        """Chains that are to be other than they are, as far as they have not been written."""
        self._unsure: dict[Family, dict[str, list[Rules]]] = {family: {} for family in self.families}
        """Chains of which a command that was killed may have made something else, and what."""
        self.why: dict[Family, str] = {}
        """Why a family's last write failed, if so."""
        self.writes = 0
        self.watch = watch
        self.unread: dict[Family, TableError] = {}
        """The families whose rules could not be read: nothing is written to these until they are."""

    def take(self, found: Mapping[Family, Table], errors: Mapping[Family, Exception]) -> None:
        """Take what was read for what is in the kernel; the mark was set before it was read.

        Raises TableError where no family could be read.
        """
        self.whole |= found
        self._unsure |= {family: {} for family in found}
        self.unread = {
            family: error
            if isinstance(error, TableError)
            else TableError("reading", str(error), refused=False)
            for family, error in errors.items()
        }
        self.why |= {family: str(error) for family, error in self.unread.items()}
        if self.unread.keys() == set(self.families):
            raise next(iter(self.unread.values()))
        self.watch.mark_made()

    def take_foreign(self, found: Mapping[Family, Table]) -> None:
        """Take others' chains as they were read; ours are as they were left."""
        for family, table in found.items():
            others = {chain: rules for chain, rules in table.items() if not names.is_ours(chain)}
            self.whole[family] = {**others, **self.ours(family)}

    def unread_faults(self) -> list[Fault]:
        """Return a fault for each family that could not be read; the other one goes on."""
        return [_table_fault(family, error) for family, error in self.unread.items()]

    def ours(self, family: Family) -> dict[str, Rules]:
        """Return our chains of a family with their rules."""
        return {chain: rules for chain, rules in self.whole[family].items() if names.is_ours(chain)}

    def needed(self, family: Family) -> dict[str, Rules]:
        """Return our chains of a family without the garbage."""
        return {c: rules for c, rules in self.ours(family).items() if c not in self.garbage[family]}

    def stays(self, family: Family, chain: str) -> bool:
        """Whether a chain is there and no garbage, which may be swept at any time."""
        return chain in self.whole[family] and chain not in self.garbage[family]

    def changed(self, family: Family, now: Table) -> list[Difference]:
        """Return which chains of ours a table holds otherwise than they were left."""
        held = self.ours(family)
        return [
            Difference(What.CHAIN_CHANGED if chain in now else What.CHAIN_GONE, family, chain)
            for chain in sorted(held.keys() | set(filter(names.is_ours, now)))
            if held.get(chain) != now.get(chain)
        ]

    def ask(self, changes: Changes, *, afresh: bool = False) -> None:
        """Note what chains are to be; ``afresh``: nothing else is to change."""
        for family, chains in changes.items():
            if afresh:
                self.wanted[family] = {}
            for chain, rules in chains.items():
                if rules is None:
                    # Nothing is to lead to it: what it was to be before does not matter any more.
                    self.wanted[family].pop(chain, None)
                else:
                    self.wanted[family][chain] = rules

    def _record(self, family: Family, written: Mapping[str, Rules]) -> None:
        """Note that chains have been written; one that is to change once more stays wanted."""
        self.whole[family].update(written)
        wanted = self.wanted[family]
        for chain, rules in written.items():
            self._unsure[family].pop(chain, None)
            if wanted.get(chain) == rules:
                del wanted[chain]

    def settle(self) -> None:
        """Forget wanted chains that the kernel holds; for when nothing is being written."""
        for family, wanted in self.wanted.items():
            self.wanted[family] = {
                c: rules for c, rules in wanted.items() if not self.holds(family, c, rules)
            }

    @property
    def sure(self) -> bool:
        """Whether it is known of every chain what is in it."""
        return not any(self._unsure.values())

    def holds(self, family: Family, chain: str, rules: Rules) -> bool:
        """Whether a chain is known to have these rules."""
        return self.whole[family].get(chain) == rules and chain not in self._unsure[family]

    def _known(self, family: Family) -> Table:
        """Return a table without the chains of which it is not known what is in them: they are made anew."""
        unsure = self._unsure[family]
        return (
            {c: r for c, r in self.whole[family].items() if c not in unsure} if unsure else self.whole[family]
        )

    def _possible(self, family: Family) -> list[Table]:
        """Return the tables of which the kernel may hold any: as left, and as killed commands made it."""
        unsure = self._unsure[family]
        number = max(map(len, unsure.values()), default=0)
        # Each chain in turn as each command may have left it: of several, chains may be of any mixture.
        others = [
            {c: some[min(n, len(some) - 1)] for c, some in unsure.items() if some} for n in range(number)
        ]
        return [self.whole[family], *({**self.whole[family], **other} for other in others)]

    def closed(self, writing: Changes) -> dict[tuple[Direction, Family], dict[bytes, str]]:
        """Return who is to be closed, each with its pod, since rules that deny something are unwritten.

        ``writing``: chains that are being written, so that the kernel may hold them at any time.
        """
        found: dict[tuple[Direction, Family], dict[bytes, str]] = {}
        for family in self.families:
            soon = {c: rules for c, rules in writing.get(family, {}).items() if rules is not None}
            if self.wanted[family]:
                possible = self._possible(family)
                possible += [{**table, **soon} for table in possible] if soon else []
                pods = concerned(family, possible, self.wanted[family])
                found |= {(direction, family): pods[direction] for direction in Direction}
        return found

    def write(
        self,
        changes: Changes,
        done: Callable[[Family], None] = lambda _: None,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> Work[list[Fault]]:
        """Write chains, atomically for each family; return what could not be written.

        ``done`` is called with a family as soon as its chains are written, or as many as can be, which the
        other's may not be yet; ``meanwhile`` when there is something to wait for.

        Chains given as None become garbage. When a family is refused, what the kernel does not take is found
        by halves and left as it was, or where it is new made so that it allows nothing; the rest is written.
        The chains of one policy are of one version always.
        """
        wanted: dict[Family, dict[str, Rules]] = {}
        for family, changed in changes.items():
            if family in self.unread:
                continue
            current = self.whole[family]
            wanted[family] = {}
            for chain, rules in changed.items():
                if rules is None:
                    if chain in current:
                        self.garbage[family].add(chain)
                    continue
                self.garbage[family].discard(chain)
                if not self.holds(family, chain, rules):
                    wanted[family][chain] = rules
        yield from self._begin(wanted)
        lines = {f: script.lines(self._known(f), chains) for f, chains in wanted.items()}
        for family, text in lines.items():
            if not text:
                done(family)

        def written(family: Family) -> None:
            self._record(family, wanted[family])
            done(family)

        failed = yield from self._restore(lines, written, meanwhile)
        faults = [
            _table_fault(family, error)
            for family, error in self.unread.items()
            if any(rules is not None for rules in changes.get(family, {}).values())
        ]
        for family, chains in wanted.items():
            if family not in failed:
                continue
            if failed[family].refused:
                faults += yield from self._write_by_halves(family, chains)
                done(family)
            else:
                faults.append(_table_fault(family, failed[family]))
        return faults

    def rewrites(self, changes: Changes) -> bool:
        """Whether chains that are there already are to change, which packets may pass."""
        return any(
            rules is not None and chain in self.whole[family] and not self.holds(family, chain, rules)
            for family, chains in changes.items()
            for chain, rules in chains.items()
        )

    def discard(self, spent: Set[str]) -> None:
        """Make chains garbage."""
        for family in self.families:
            self.garbage[family] |= spent & self.whole[family].keys()

    def prime(self) -> None:
        """Have commands that wait to write load what they need for it; from when the sample is there."""
        for family in self.families:
            for rule in self.whole[family].get(names.SAMPLE, ()):
                self.tables.prime(family, names.SAMPLE, rule)

    def _begin(self, wanted: Mapping[Family, Mapping[str, Rules]]) -> Work[None]:
        """Make new chains of a large write before the rest, in parts; what failed is left to the rest.

        The command takes more than twice the time for twice the rules. Nothing leads to new chains until a
        chain that is there already is written. In legacy mode every part would write the whole table anew.
        """
        if self.tables.mode == "legacy":
            return
        todo = {}
        for family, chains in wanted.items():
            new = {c: r for c, r in chains.items() if c not in self.whole[family]}
            if sum(map(len, new.values())) > PART:
                todo[family] = script.parts(new, PART)
        while todo:
            failed = yield from self._restore({family: parts[0][0] for family, parts in todo.items()})
            for family, parts in list(todo.items()):
                _, whole = parts.pop(0)
                if family not in failed:
                    self._record(family, whole)
                if family in failed or not parts:
                    del todo[family]
            yield PAUSE

    def _write_by_halves(self, family: Family, chains: Mapping[str, Rules]) -> Work[list[Fault]]:
        missing = [chain for chain in chains if chain not in self.whole[family]]
        error = yield from self._one(family, [f":{chain} - [0:0]" for chain in missing])
        if error is not None:
            return [_table_fault(family, error)]
        self.whole[family].update(dict.fromkeys(missing, ()))
        faults: list[Fault] = []
        pending = [_by_policy(chains, self.whole[family])]
        while pending:
            part = pending.pop()
            written = {chain: chains[chain] for group in part for chain in group}
            error = yield from self._one(family, script.lines(self._known(family), written))
            if error is None:
                self._record(family, written)
            elif not error.refused:
                return [*faults, _table_fault(family, error)]
            elif len(part) == 1:
                faults.append(_table_fault(family, error, written))
                for chain in written:
                    yield from self._stand_in(family, chain, chains)
            else:
                middle = len(part) // 2
                pending += [part[middle:], part[:middle]]
        return faults

    def _stand_in(self, family: Family, chain: str, wanted: Mapping[str, Rules]) -> Work[None]:
        """Close a chain that would let packets through when it is empty."""
        forward = wanted.get(names.FORWARD, self.whole[family].get(names.FORWARD, ()))
        rules = render.stand_in(chain, forward)
        if rules and not self.whole[family][chain]:
            lines = script.lines(self.whole[family], {chain: rules})
            if (yield from self._one(family, lines)) is None:
                self.whole[family][chain] = rules

    def without(self, changes: Changes, unmade: Set[str]) -> Changes:
        """Return changes that refer to none of these sets, under whose names somebody else's may be.

        Rules that would are left out: see :mod:`agent.dataplane.iptables.ipset.unmade`.
        """
        return {f: narrowed(f, chains, self.whole[f], unmade) for f, chains in changes.items()}

    def let_go_of(self, sets: Set[str]) -> Work[list[Fault]]:
        """Empty chains that nothing leads to, where they still refer to one of these sets."""
        emptied: dict[Family, list[str]] = {
            family: [
                chain
                for chain in chains
                if any(name in sets for rule in self.whole[family].get(chain, ()) for name in sets_in(rule))
            ]
            for family, chains in self.garbage.items()
        }
        lines = {f: [f":{c} - [0:0]" for c in chains] for f, chains in emptied.items()}
        failed = yield from self._restore(lines)
        for family in emptied.keys() - failed.keys():
            self.whole[family].update(dict.fromkeys(emptied[family], ()))
        return [_table_fault(family, error) for family, error in failed.items()]

    def referred(self) -> set[str]:
        """Return the sets that our rules refer to, those of garbage aside."""
        return {
            name
            for family in self.families
            for chain, rules in self.ours(family).items()
            if chain not in self.garbage[family]
            for rule in rules
            for name in sets_in(rule)
        }

    def run(self, lines: Mapping[Family, list[str]]) -> Work[list[Fault]]:
        """Run other restore lines; what they change in :attr:`whole` is the caller's to record."""
        failed = yield from self._restore(lines)
        return [_table_fault(family, error) for family, error in failed.items()]

    def put_in_front(self, family: Family, hooks: Mapping[str, tuple[str, list[int]]]) -> list[Fault]:
        """Put jumps in front in built-in chains of which netlink told, and nothing else can write there.

        ``hooks``: for each chain where it leads to, and the handles of its rules that go.
        """
        faults = []
        for chain, (target, doomed) in hooks.items():
            self.writes += 1
            self.watch.before_write()
            try:
                with NetlinkSocket() as netlink:
                    put_jump_first(netlink, family, FILTER, chain, target, doomed)
                self.watch.after_write(1)
            except OSError as error:
                what = f"IPv{int(family)}: the rule of {chain} that leads to {target} could not be written"
                faults.append(
                    Fault(
                        f"{what}: {error.strerror}", f"see '{foreign.where(self.tables.mode, family, chain)}'"
                    )
                )
        return faults

    def sweep(self) -> Work[list[Fault]]:
        """Remove the garbage; what somebody else's rules lead to is emptied and stays for another time."""
        doomed = {f: sorted(c for c in chains if c in self.whole[f]) for f, chains in self.garbage.items()}
        failed = yield from self._restore({f: script.deletions(chains) for f, chains in doomed.items()})
        faults = []
        for family, chains in doomed.items():
            kept: list[str] = []
            if family in failed:
                needed = self._needed(family, chains)
                left = [chain for chain in chains if chain not in needed]
                if failed[family].refused:
                    left = yield from self._sweep_by_halves(family, left)
                if left:
                    what = (
                        f"IPv{int(family)} chains could not be removed: {', '.join(left)}: {failed[family]}"
                    )
                    faults.append(Fault(what, "see whose rules lead to them", blocking=False))
                kept = [*needed, *left]
            for chain in set(chains) - set(kept):
                del self.whole[family][chain]
            self.garbage[family] = set(kept)
        return faults

    def _sweep_by_halves(self, family: Family, chains: list[str]) -> Work[list[str]]:
        if not chains:
            return chains
        if (yield from self._one(family, [f":{chain} - [0:0]" for chain in chains])) is not None:
            return chains
        self.whole[family].update(dict.fromkeys(chains, ()))
        kept: list[str] = []
        pending = [chains]
        while pending:
            part = pending.pop()
            if (yield from self._one(family, [f"-X {chain}" for chain in part])) is None:
                continue
            if len(part) == 1:
                kept += part
            else:
                middle = len(part) // 2
                pending += [part[middle:], part[:middle]]
        return kept

    def _needed(self, family: Family, doomed: Iterable[str]) -> set[str]:
        """Return the doomed chains that chains of ours still lead to, since a write of those failed."""
        ours = self.ours(family)
        found: set[str] = set()
        waiting = [chain for chain in ours if chain not in self.garbage[family]]
        while waiting:
            for rule in ours[waiting.pop()]:
                target = _JUMP.search(rule)
                if target and target[1] in self.garbage[family] and target[1] not in found:
                    found.add(target[1])
                    waiting += [target[1]] if target[1] in ours else []
        return found & set(doomed)

    def _one(self, family: Family, lines: list[str]) -> Work[TableError | None]:
        return (yield from self._restore({family: lines})).get(family)

    def _restore(
        self,
        lines: Mapping[Family, list[str]],
        done: Callable[[Family], None] = lambda _: None,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> Work[dict[Family, TableError]]:
        todo = {f: text for f, text in lines.items() if text and f not in self.unread}
        if not todo:
            return {}
        self.writes += len(todo)
        self.watch.before_write()
        if self._patience == math.inf:
            failed = self.tables.restore(todo, done, meanwhile)
        else:
            failed = yield from self.tables.restoring(todo, done, meanwhile, self._patience)
        for family in todo:
            self.why.pop(family, None)
        self.why |= {family: str(error) for family, error in failed.items()}
        for family, error in failed.items():
            if error.unknown:
                self._doubt(family, todo[family])
        self.watch.after_write(len(todo) - len(failed))
        return failed

    def _doubt(self, family: Family, lines: list[str]) -> None:
        """Note what a command that was killed may have made of chains."""
        held = dict(self._known(family))
        for chain, rules in script.outcome(held, lines).items():
            if names.is_ours(chain):
                found = self._unsure[family].setdefault(chain, [])
                if rules is not None:
                    found.append(rules)


def _by_policy(chains: Mapping[str, Rules | None], held: Table) -> list[list[str]]:
    """Return the chains in groups: a policy's own chain with all of its rules, each other one alone."""
    policy_of: dict[str, str] = {}
    for known in (held, chains):
        pending = [(chain, chain) for chain in known if chain.startswith(names.POLICY_PREFIX)]
        for policy, chain in pending:
            targets = (_JUMP.search(rule) for rule in known.get(chain) or ())
            found = [t[1] for t in targets if t and t[1].startswith(names.RULE_PREFIX)]
            policy_of.update(dict.fromkeys(found, policy))
            pending += [(policy, target) for target in found]
    groups: dict[str, list[str]] = {}
    for chain in chains:
        groups.setdefault(policy_of.get(chain, chain), []).append(chain)
    return list(groups.values())


def sets_in(rule: str) -> list[str]:
    """Return the names of the sets that a rule refers to."""
    return _MATCH_SET.findall(rule)


def _about(rules: Rules) -> str:
    """Return what the comments of a chain's rules say first."""
    return next(
        (found[1] for found in map(_COMMENT.search, rules) if found), "no pod or policy in particular"
    )


def _table_fault(family: Family, error: TableError, chains: Mapping[str, Rules] | None = None) -> Fault:
    # Where a chain's rules say nothing, those that were written with it do.
    written = [*(chains or {}).items()]
    spoken = tuple(rule for _, rules in written for rule in rules)
    concerned = "".join(f" of {chain} ({_about((*rules, *spoken))})" for chain, rules in written[:3])
    return Fault(
        f"IPv{int(family)} rules{concerned}: {error}",
        error.remedy
        or "the agent tries again by itself; if it stays, look at what the kernel lacks for this rule "
        "(its modules: xt_set, xt_multiport, xt_conntrack, xt_mark, xt_comment, xt_physdev, xt_addrtype, "
        f"{'ipt_REJECT' if family is Family.V4 else 'xt_hl, ip6t_REJECT'})",
    )
