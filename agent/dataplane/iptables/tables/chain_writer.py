"""The writing of chains: whole or not at all for each family, and what cannot be written found and told."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Set

from agent.dataplane.iptables.rules import names, script, top
from agent.dataplane.iptables.rules.rule import Chains, Changes, Rules, described, sets_in
from agent.dataplane.iptables.tables import foreign
from agent.dataplane.iptables.tables.chain_table import ChainTable
from agent.dataplane.iptables.tables.generation import Generation
from agent.dataplane.iptables.tables.nft import FILTER
from agent.dataplane.iptables.tables.tables import TableError, Tables
from agent.dataplane.turns import FOR_EVER, PAUSE, Patience, Work
from agent.fault import Fault
from agent.kernel.netlink import NetlinkSocket
from agent.kernel.nf_tables import put_jump_first
from agent.net import Family

PART = 1000
"""How many rules of new chains are written at once."""


class ChainWriter:
    """Writes chains, and keeps the record of them true. ``watch`` is told of each write."""

    def __init__(
        self, chains: ChainTable, tables: Tables, watch: Generation, patience: Patience = FOR_EVER
    ) -> None:
        """``patience``: after which work that waits for a command yields."""
        self.chains = chains
        self.tables = tables
        self.watch = watch
        self.writes = 0
        self.patience = patience

    def unread_faults(self) -> list[Fault]:
        """Return a fault for each family that could not be read; the other one goes on."""
        return [_table_fault(family, error) for family, error in self.chains.unread.items()]

    def write(
        self,
        changes: Changes,
        done: Callable[[Family], None] = lambda _: None,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> Work[list[Fault]]:
        """Write chains, atomically for each family; return what could not be written.

        ``done`` is called for each family as soon as its chains are written, or as many of them as the kernel
        takes; the other family may still be at work. ``meanwhile`` is called when there is time to wait.

        A chain given as None becomes garbage. When the kernel refuses a family's chains, they are tried again
        in ever smaller halves, until those that it does not take are found. Of these, an old chain stays as
        it was, and a new chain allows nothing; the others are written. The chains of one policy are always
        written together, or not at all.
        """
        wanted: dict[Family, Chains] = {}
        for family, changed in changes.items():
            if family in self.chains.unread:
                continue
            current = self.chains.held[family]
            wanted[family] = {}
            for chain, rules in changed.items():
                if rules is None:
                    if chain in current:
                        self.chains.garbage[family].add(chain)
                    continue
                self.chains.garbage[family].discard(chain)
                if not self.chains.holds(family, chain, rules):
                    wanted[family][chain] = rules
        yield from self._begin(wanted)
        lines = {f: script.lines(self.chains.known(f), chains) for f, chains in wanted.items()}
        for family, text in lines.items():
            if not text:
                done(family)

        def written(family: Family) -> None:
            self.chains.record(family, wanted[family])
            done(family)

        failed = yield from self._restore(lines, written, meanwhile)
        faults = [
            _table_fault(family, error)
            for family, error in self.chains.unread.items()
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

    def prime(self) -> None:
        """Have commands that wait to write load what they need for it; from when the sample is there."""
        for family in self.chains.families:
            for rule in self.chains.held[family].get(names.SAMPLE, ()):
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
            new = {c: r for c, r in chains.items() if not self.chains.may_hold(family, c)}
            if sum(map(len, new.values())) > PART:
                todo[family] = script.parts(new, PART)
        while todo:
            failed = yield from self._restore({family: parts[0][0] for family, parts in todo.items()})
            for family, parts in list(todo.items()):
                _, whole = parts.pop(0)
                if family not in failed:
                    self.chains.record(family, whole)
                if family in failed or not parts:
                    del todo[family]
            yield PAUSE

    def _write_by_halves(self, family: Family, chains: Mapping[str, Rules]) -> Work[list[Fault]]:
        missing = [chain for chain in chains if not self.chains.may_hold(family, chain)]
        error = yield from self._one(family, [f":{chain} - [0:0]" for chain in missing])
        if error is not None:
            return [_table_fault(family, error)]
        self.chains.held[family].update(dict.fromkeys(missing, ()))
        faults: list[Fault] = []
        pending = [_by_policy(chains, self.chains.held[family])]
        while pending:
            part = pending.pop()
            written = {chain: chains[chain] for group in part for chain in group}
            error = yield from self._one(family, script.lines(self.chains.known(family), written))
            if error is None:
                self.chains.record(family, written)
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
        forward = wanted.get(names.FORWARD, self.chains.held[family].get(names.FORWARD, ()))
        rules = top.stand_in(chain, forward)
        if rules and not self.chains.held[family].get(chain):
            lines = script.lines(self.chains.held[family], {chain: rules})
            if (yield from self._one(family, lines)) is None:
                self.chains.held[family][chain] = rules

    def let_go_of(self, sets: Set[str]) -> Work[list[Fault]]:
        """Empty chains that nothing leads to, where they still refer to one of these sets."""
        emptied: dict[Family, list[str]] = {
            family: [
                chain
                for chain in chains
                if not sets.isdisjoint(sets_in(self.chains.held[family].get(chain, ())))
            ]
            for family, chains in self.chains.garbage.items()
        }
        lines = {f: [f":{c} - [0:0]" for c in chains] for f, chains in emptied.items()}
        failed = yield from self._restore(lines)
        for family in emptied.keys() - failed.keys():
            self.chains.held[family].update(dict.fromkeys(emptied[family], ()))
        return [_table_fault(family, error) for family, error in failed.items()]

    def run(self, lines: Mapping[Family, list[str]]) -> Work[list[Fault]]:
        """Run other restore lines; what they change in the record is the caller's to record."""
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
                        f"{what}: {error.strerror}",
                        f"see '{foreign.where(self.tables.mode, family, chain)}'",
                        reason="rules",
                    )
                )
        return faults

    def sweep(self) -> Work[list[Fault]]:
        """Remove the garbage; what somebody else's rules lead to is emptied and stays for another time."""
        doomed = {
            f: sorted(c for c in chains if c in self.chains.held[f])
            for f, chains in self.chains.garbage.items()
        }
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
                del self.chains.held[family][chain]
            self.chains.garbage[family] = set(kept)
        return faults

    def _sweep_by_halves(self, family: Family, chains: list[str]) -> Work[list[str]]:
        if not chains:
            return chains
        if (yield from self._one(family, [f":{chain} - [0:0]" for chain in chains])) is not None:
            return chains
        self.chains.held[family].update(dict.fromkeys(chains, ()))
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
        ours, garbage = self.chains.held[family], self.chains.garbage[family]
        found: set[str] = set()
        waiting = [chain for chain in ours if chain not in garbage]
        while waiting:
            for rule in ours[waiting.pop()]:
                if rule.target in garbage and rule.target not in found:
                    found.add(rule.target)
                    waiting += [rule.target] if rule.target in ours else []
        return found & set(doomed)

    def _one(self, family: Family, lines: list[str]) -> Work[TableError | None]:
        return (yield from self._restore({family: lines})).get(family)

    def _restore(
        self,
        lines: Mapping[Family, list[str]],
        done: Callable[[Family], None] = lambda _: None,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> Work[dict[Family, TableError]]:
        todo = {f: text for f, text in lines.items() if text and f not in self.chains.unread}
        if not todo:
            return {}
        self.writes += len(todo)
        self.watch.before_write()
        if self.patience.seconds == math.inf:
            failed = self.tables.restore(todo, done, meanwhile)
        else:
            failed = yield from self.tables.restoring(todo, done, meanwhile, self.patience)
        for family in todo:
            self.chains.why.pop(family, None)
        self.chains.why |= {family: str(error) for family, error in failed.items()}
        for family, error in failed.items():
            if error.unknown:
                self.chains.doubt(family, todo[family])
                self.watch.unsure = True
        self.watch.after_write(len(todo) - len(failed))
        return failed


def _by_policy(chains: Mapping[str, Rules | None], held: Mapping[str, Rules]) -> list[list[str]]:
    """Return the chains in groups: a policy's own chain with all of its rules, each other one alone.

    Last those that lead to the trees of pods: where they lead everybody to them now, for want of a set of
    isolated addresses, who is not in a tree yet would pass.
    """
    policy_of: dict[str, str] = {}
    for known in (held, chains):
        pending = [(chain, chain) for chain in known if chain.startswith(names.POLICY_PREFIX)]
        for policy, chain in pending:
            targets = [rule.target for rule in known.get(chain) or ()]
            found = [target for target in targets if target.startswith(names.RULE_PREFIX)]
            policy_of.update(dict.fromkeys(found, policy))
            pending += [(policy, target) for target in found]
    groups: dict[str, list[str]] = {}
    for chain in sorted(chains, key=lambda chain: chain.startswith(names.TOP_PREFIX)):
        groups.setdefault(policy_of.get(chain, chain), []).append(chain)
    return list(groups.values())


def _table_fault(family: Family, error: TableError, chains: Mapping[str, Rules] | None = None) -> Fault:
    # Where a chain's rules say nothing, those that were written with it do.
    written = [*(chains or {}).items()]
    spoken = tuple(rule for _, rules in written for rule in rules)
    concerned = "".join(f" of {chain} ({described((*rules, *spoken))})" for chain, rules in written[:3])
    return Fault(
        f"IPv{int(family)} rules{concerned}: {error}",
        error.remedy
        or "the agent tries again by itself; if it stays, look at what the kernel lacks for this rule "
        "(its modules: xt_set, xt_multiport, xt_conntrack, xt_mark, xt_comment, xt_physdev, xt_addrtype, "
        f"{'ipt_REJECT' if family is Family.V4 else 'xt_hl, ip6t_REJECT'})",
        reason="rules",
    )
