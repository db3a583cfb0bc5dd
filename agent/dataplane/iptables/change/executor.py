"""Carries out each change in the order that never shows a packet a wrong verdict."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping, Set

from agent import log
from agent.dataplane.iptables.change.desired import Changes, Naming, merged
from agent.dataplane.iptables.change.pending import both, isolations, losses, yield_to
from agent.dataplane.iptables.change.step import Gains, Step, denies, take_losses
from agent.dataplane.iptables.ipset.closed import Closed
from agent.dataplane.iptables.ipset.sets import KernelSets
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.rule import Rules
from agent.dataplane.iptables.tables.chain_writer import PART, ChainWriter
from agent.dataplane.iptables.tables.tables import FEW_LINES
from agent.dataplane.iptables.verdict_cache import VerdictCache
from agent.dataplane.turns import PAUSE, Work
from agent.fault import Fault
from agent.kernel.conntrack import ConntrackError
from agent.kernel.ipset_shapes import SetContent, SetShape
from agent.net import Direction, Family, Member, member_address

_log = log.get(__name__)

MANY_SETS = 500
"""How many sets are made at once: 10 ms."""


class Executor:
    """Moves chains, sets and connection tracking by one step at a time.

    Keeps what it could not do: ``unforgotten`` are addresses whose connections could not be forgotten, which
    get into no set and are not opened; ``vacant`` those that nobody has, whose connections are forgotten
    together when it is quiet; ``lagging`` the sets that rules still refer to, though they should not, because
    a write failed.
    """

    def __init__(
        self,
        families: tuple[Family, ...],
        rules: ChainWriter,
        sets: KernelSets,
        cache: VerdictCache,
        naming: Naming,
        forget: Callable[[Iterable[bytes]], int],
    ) -> None:
        """``forget`` has connection tracking forget addresses. It may raise ConntrackError."""
        self.families = families
        self._rules = rules
        self._chains = rules.chains
        self._sets = sets
        self._cache = cache
        self._naming = naming
        self._forget = forget
        self.closed = Closed(families)
        self.unforgotten: set[bytes] = set()
        self.vacant: set[bytes] = set()
        self.forgotten = 0
        """How many connections have been forgotten."""
        self.lagging: frozenset[str] = frozenset()
        self.carrying: list[Step] = []
        """The steps that are being made; each began while the one before it let it go first."""
        self.pending: Step | None = None
        """What is to be made after them."""
        self._lenient: Step | None = None

    def carry_out(self, step: Step, *, certain: bool, lenient: bool = False) -> Work[list[Fault]]:
        """Move the kernel by one step; for why in this order see :mod:`.atomicity`.

        ``certain``: nothing failed since the last look at the kernel. ``lenient``: the step makes good what
        happened while nobody looked, so that no pod is closed because a command takes its time. Raises
        SetError when it cannot be told what a new set must hold; nothing has been opened then.
        """
        self.carrying.append(step)
        if lenient:
            self._lenient = step
        else:
            self._ask(step.chains)
        try:
            return (yield from self._carry_out(step, certain=certain))
        finally:
            self.carrying.remove(step)
            if lenient:
                self._lenient = None
                self._chains.ask(step.chains, afresh=True)
                self._ask({})

    def put_off(self, step: Step) -> list[Fault]:
        """Have a step made after those that are being made; what it takes away is taken away at once."""
        self._chains.ask(step.chains)
        for each in (*self.carrying, self.pending):
            if each is not None:
                yield_to(each, step)
        # What is taken away now is no more in the step: those before it have to know of it first.
        faults = self.narrow(step)
        if self.pending is None:
            self.pending = step
        else:
            self.pending = both(self.pending, step, self._chains.stays)
        return faults + self.close_unwritten()

    def drop_pending(self) -> None:
        """Drop what was put off, since the next sync makes it; keep which connections are to be forgotten."""
        if (step := self.take_pending()) is not None:
            self.unforgotten |= step.released

    def take_pending(self) -> Step | None:
        """Return what was put off, which is the caller's to make."""
        step, self.pending = self.pending, None
        return step

    def hold(self, *, late: bool) -> list[Fault]:
        """Take away at once what the steps that are being made take away; ``late``: by whatever means."""
        if late and self._lenient is not None:
            self._ask(self._lenient.chains)
        faults = [fault for step in self.carrying for fault in self.narrow(step)]
        return faults + self.close_unwritten()

    def narrow(self, step: Step) -> list[Fault]:
        """Do the part of a step that takes something away by members of sets."""
        held = self._sets.shapes.keys()
        changes = {n: Gains(removed=set(m)) for n, m in losses(step).items() if m and n in held}
        changes |= {n: Gains(set(m)) for n, m in isolations(step).items() if m and n in held}
        if not changes:
            return []
        faults = self.change(changes)
        self._sets.measure(changes)
        if not faults:
            for name in changes.keys() & step.live.keys():
                step.live[name].removed.clear()
            for name in changes.keys() & step.isolated.keys():
                step.isolated[name].added.clear()
            for name in changes.keys() & step.otherwise.keys():
                step.otherwise[name] = Gains()
        return faults

    def _ask(self, chains: Changes) -> None:
        self._chains.ask(chains)
        if self.pending is not None:
            self._chains.ask(self.pending.chains)

    def _carry_out(self, step: Step, *, certain: bool) -> Work[list[Fault]]:
        faults: list[Fault] = []
        if not certain or _lines(step.chains) > PART:
            # The commands may take long: members that are to leave do not wait for them.
            faults += self.narrow(step)
        # An address that changes hands leaves every set first, then its connections are forgotten.
        early = take_losses(step.live, step.released)
        lagging = {name: names.counterpart(name) for name in early} if self.lagging else {}
        early |= {old: early[name] for name, old in lagging.items() if old in self.lagging}
        faults += self.change(early)
        at_once = step.released - step.vacant
        self.vacant |= step.vacant
        faults += self.forget(at_once)
        held_back = self.unforgotten
        reused: set[str] = set()
        if certain and not self.lagging:
            # Only garbage refers to these: a policy that comes back before that is removed finds its sets.
            reused = {name for name, (shape, _) in step.fresh.items() if self._sets.fits(name, shape)}
        taken = (step.fresh.keys() & self._sets.shapes.keys()) - reused
        if taken:
            faults += yield from self._rules.let_go_of(taken)
        later = self._later(step)
        unmade = yield from self._make_all(step.fresh.keys() - later, step.fresh, reused, faults)
        chains = self._without_sets(step, step.chains, unmade, faults)
        faults += self.change(
            {n: Gains(_without(g.added, held_back), g.removed) for n, g in step.unseen.items()}
        )
        entering = {name: Gains(gains.added) for name, gains in step.isolated.items()}
        unreached, reached = self._staged(chains)
        apart = any(entering.values()) and any(reached.values())
        if later:
            first = self.families[0]
            second = functools.cache(lambda: self._make(later, step.fresh, reused, faults))
            written = unreached if apart else chains
            faults += yield from self._write({first: written[first]}, entering, second)
            chains = self._without_sets(step, chains, second(), faults)
            unreached, reached = self._staged(chains)
            written = unreached if apart else chains
            rest = {f: c for f, c in written.items() if f is not first}
            faults += yield from self._write(rest, entering)
        else:
            faults += yield from self._write(unreached if apart else chains, entering)
        # Where chains could not be written, too: then their pods are closed.
        faults += self.change(entering)
        if apart:
            faults += yield from self._write(reached)
        if at_once and (any(g.added for g in step.isolated.values()) or any(chains.values())):
            # What came in between, while the former owner's rules still held, is forgotten as well.
            faults += self.forget(at_once)
            held_back = self.unforgotten
        faults += self.change(
            {n: Gains(_without(g.added, held_back), g.removed) for n, g in step.live.items()}
        )
        if faults or self.lagging:
            faults += self._hold_lagging(step)
        leaving = {n: Gains(removed=_without(g.removed, held_back)) for n, g in step.isolated.items()}
        faults += self.change(leaving)
        self._sets.garbage |= step.dropped & self._sets.shapes.keys()
        self._chains.discard(step.spent)
        return faults

    def _without_sets(self, step: Step, chains: Changes, unmade: set[str], faults: list[Fault]) -> Changes:
        """Return chains that do without sets that could not be made."""
        if not unmade:
            return chains
        # Sets that rules look at already stand in for some: these must hold nobody who is to go.
        faults += self.change({n: gains for n, gains in step.otherwise.items() if n in self._sets.shapes})
        found = self._chains.without(chains, unmade)
        if step is not self._lenient:
            self._ask(found)
        return found

    def _later(self, step: Step) -> set[str]:
        """Return the new sets that are made while the first family's chains are written, if these are few.

        Those only of which the kernel need not be asked what they hold, so that nothing is raised then.
        """
        if _lines(step.chains) > FEW_LINES:
            return set()
        first, held = self.families[0], self._sets.shapes
        fresh = {name for name, (shape, _) in step.fresh.items() if shape.family is not first}
        return {name for name in fresh if name not in held and not names.is_isolated_set(name)}

    def _make_all(
        self,
        chosen: Iterable[str],
        fresh: Mapping[str, tuple[SetShape, set[Member]]],
        reused: Set[str],
        faults: list[Fault],
    ) -> Work[set[str]]:
        """Make new sets, some at a time; return which failed."""
        failed: set[str] = set()
        todo = list(chosen)
        while todo:
            failed |= self._make(todo[:MANY_SETS], fresh, reused, faults)
            del todo[:MANY_SETS]
            if todo:
                yield PAUSE
        return failed

    def _make(
        self,
        chosen: Iterable[str],
        fresh: Mapping[str, tuple[SetShape, set[Member]]],
        reused: Set[str],
        faults: list[Fault],
    ) -> set[str]:
        """Make some of the new sets, or give those that can be ``reused`` members; return which failed."""
        failed: dict[str, list[Fault]] = {}
        made: dict[str, SetContent] = {}
        for name in chosen:
            shape, members = fresh[name]
            if names.is_isolated_set(name):
                wanted = members | self._still_closed(name)
            else:
                wanted = _without(members, self.unforgotten)
            if name in reused:
                failed[name] = self._sets.reuse(name, wanted)
            else:
                made[name] = SetContent(shape, wanted)
        failed |= self._sets.create_all(made)
        for found in failed.values():
            faults += found
        return {name for name, found in failed.items() if found}

    def _write(
        self,
        chains: Changes,
        entering: dict[str, Gains] | None = None,
        meanwhile: Callable[[], object] = lambda: None,
    ) -> Work[list[Fault]]:
        """Write chains; isolate a family's addresses as soon as its chains are written.

        ``entering``: the addresses to isolate, by set. Those that are done are taken out of it; the caller
        does the rest. ``meanwhile`` is called while there is something to wait for. The verdict cache is
        closed while a chain changes that packets pass.
        """
        entering = {} if entering is None else entering
        faults: list[Fault] = []

        def written(family: Family) -> None:
            sets = {self._naming.isolated_set(direction, family) for direction in Direction}
            now = {name: entering.pop(name) for name in sets & entering.keys()}
            faults.extend(self.change(now))

        if not self._chains.rewrites(chains):
            failed = yield from self._rules.write(chains, written, meanwhile)
            return [*failed, *faults]
        with self._cache.closed() as lookups:
            faults.extend(self._sets.change({}, lookups))
            failed = yield from self._rules.write(chains, written, meanwhile)
            return [*failed, *faults]

    def _hold_lagging(self, step: Step) -> list[Fault]:
        """Take away and isolate in sets that rules refer to for want of a write, too; open nothing there.

        So a chain that cannot be written holds back no revocation.
        """
        referred = self._chains.referred()
        changes = {name: gains for name, gains in step.otherwise.items() if name in referred}
        for name in self.lagging & referred:
            usual = names.counterpart(name)
            if usual in step.live:
                changes[name] = Gains(removed=step.live[usual].removed)
            elif usual in step.isolated:
                changes[name] = Gains(step.isolated[usual].added)
        self.lagging = (self.lagging | step.otherwise.keys()) & referred
        return self.change(changes)

    def close_unwritten(self) -> list[Fault]:
        """Close the addresses whose rules take something away and are unwritten; open the others."""
        if not self.closed and not any(self._chains.wanted.values()):
            return []
        writing: Changes = {}
        if self.pending is not None or len(self.carrying) > 1:
            for step in self.carrying:
                writing = merged({family: writing.get(family, {}) for family in self.families}, step.chains)
        elif not self.carrying:
            self._chains.settle()
        # It is not known whom rules that were never read let pass.
        staying = set(self._chains.unread if self._lenient is None else self.families)
        before = dict(self.closed.members)
        changes = self.closed.changes(self._chains.closed(writing), staying=staying)
        faults = self.change({name: Gains(*moved) for name, moved in changes.items()})
        if faults:
            self.closed.members = before
        return faults

    def _still_closed(self, name: str) -> set[Member]:
        """Return the addresses that a new set of isolated ones may not open yet; its counterpart has them."""
        if not self.unforgotten:
            return set()
        members = self._sets.members(names.counterpart(name))
        return {member for member in members if member in self.unforgotten}

    def change(self, changes: Mapping[str, Gains]) -> list[Fault]:
        """Change sets; where that may deny something, the verdict cache is closed in the same message."""
        moved = {name: (gains.added, gains.removed) for name, gains in changes.items()}
        if not any(denies(name, gains) for name, gains in changes.items()):
            return self._sets.change(moved)
        with self._cache.closed() as lookups:
            return self._sets.change(moved, lookups)

    def forget(self, released: set[bytes]) -> list[Fault]:
        """Forget connections of released addresses, and those that could not be forgotten before."""
        wanted = self.unforgotten | released
        if not wanted:
            return []
        # One walk of the table costs the same for all of them.
        wanted |= self.vacant
        self.vacant = set()
        try:
            count = self._forget(wanted)
        except ConntrackError as error:
            self.unforgotten = wanted
            return [error.fault()]
        self.unforgotten = set()
        self.forgotten += count
        if count:
            _log.info("connections forgotten", addresses=len(wanted), connections=count)
        return []

    def _staged(self, changes: Changes) -> tuple[Changes, Changes]:
        """Divide chains into those that no packet reaches yet, and those that packets pass now.

        The tree counts among the first: where it changes, it leads to a newly isolated address.
        """
        unreached: Changes = {}
        reached: Changes = {}
        for family, chains in changes.items():
            current, garbage = self._chains.held[family], self._chains.garbage[family]
            later: dict[str, Rules | None] = {
                chain: rules
                for chain, rules in chains.items()
                if rules is not None
                and chain in current
                and chain not in garbage
                and not self._chains.holds(family, chain, rules)
                and not chain.startswith((names.TREE_PREFIX, names.TOP_PREFIX))
            }
            reached[family] = later
            unreached[family] = {c: r for c, r in chains.items() if c not in later}
        return unreached, reached


def _lines(changes: Changes) -> int:
    return sum(len(rules or ()) for chains in changes.values() for rules in chains.values())


def _without(members: Iterable[Member], addresses: set[bytes]) -> set[Member]:
    wanted = set(members)
    return {m for m in wanted if member_address(m) not in addresses} if addresses else wanted
