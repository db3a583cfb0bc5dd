"""The order in which one step is made, which never shows a packet a wrong verdict.

Why in this order: :mod:`.atomicity` says when a change may be made so, one part after the other.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping

from agent.dataplane.iptables.change.step import Gains, Step, denies, excludes, take_losses
from agent.dataplane.iptables.change.writers import Writers
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.rule import Changes, Rules
from agent.dataplane.iptables.tables.tables import FEW_LINES
from agent.dataplane.turns import PAUSE, Work
from agent.fault import Fault
from agent.kernel.ipset_errors import SetError
from agent.kernel.ipset_shapes import SetContent, SetShape
from agent.net import Member, member_address

MANY_SETS = 500
"""How many sets are made at once: 10 ms."""
MANY_MEMBERS = 4_000
"""How many members new sets get at once: 4 ms, and networks 10."""


class Carrying:
    """One step while it is made. ``faults``: what went wrong so far; the rest of the step goes on."""

    def __init__(
        self, writers: Writers, step: Step, *, certain: bool, narrowed: Callable[[Changes], None]
    ) -> None:
        """``certain``: nothing failed since the last look at the kernel.

        ``narrowed`` is told of the chains that are written in place of the step's, where these cannot be.
        """
        self._writers = writers
        self._held = writers.held
        self._step = step
        self._certain = certain
        self._narrowed = narrowed
        self._reused: set[str] = set()
        self._partial: dict[str, list[Member]] = {}
        """What the sets that were just made have still to be given."""
        self._chains: Changes = step.chains
        self._at_once = step.released - step.vacant
        """The addresses whose connections cannot wait to be forgotten."""
        self._entering = {name: Gains(gains.added) for name, gains in step.isolated.items()}
        self.faults: list[Fault] = []

    def run(self) -> Work[list[Fault]]:
        """Make the step, in this order; return what went wrong.

        1. Addresses that change hands leave the sets of peers, and those that no pod has any more the sets of
           known ones; then their connections are forgotten.
        2. Sets that new rules need are made, under names that nothing looks at.
        3. Members are added that cannot change a verdict yet.
        4. Chains are written that no packet passes yet; the tree of pods then leads to them. As soon as a
           family's are, the addresses are isolated whose pods they are.
        5. What could not be written: its addresses are isolated all the same.
        6. Chains are written that packets pass now, in one transaction for each family.
        7. Members of sets that rules look at are added, then others removed. Of the addresses of 1, none is
           added yet.
        8. Sets that rules still look at, for want of a write, lose who is to go.
        9. Connections are forgotten that an address of 1 got since: while its former owner's rules held, or
           from peers that left in 7 or 8. All that comes after this lets in more, never less.
        10. The addresses of 1 are added to sets, and addresses are opened that are isolated no more.
        11. Addresses that pods have from now on become known: the last thing that opens. Then networks of
           pods come and go, in which what is not known is closed.
        12. What nothing needs any more becomes garbage.

        Raises SetError when it cannot be told what a new set must hold; nothing has been opened then.
        """
        self._release()
        yield from self._make_sets()
        self._add_unseen()
        yield from self._write_and_isolate()
        again = self._flows_since()
        entering = self._change_members(apart=again)
        self._hold_lagging()
        if again:
            self.faults += self._writers.connections.forget(self._at_once)
            self._change({n: Gains(self._without_unforgotten(added)) for n, added in entering.items()})
        self._open()
        self._admit()
        self._discard()
        return self.faults

    # 1

    def _release(self) -> None:
        step, lagging = self._step, self._held.lagging
        early = take_losses(step.live, step.released)
        others = {name: names.counterpart(name) for name in early} if lagging else {}
        early |= {old: early[name] for name, old in others.items() if old in lagging}
        early |= {name: Gains(removed=set(gains.removed)) for name, gains in step.known.items()}
        self._change(early)
        if any(gains.removed for gains in step.known.values()):
            # Addresses may have been withdrawn before, so that it is not known how many left now.
            self._writers.sets.measure(step.known)
        self._held.tracked.vacant |= step.vacant
        self.faults += self._writers.connections.forget(self._at_once)

    # 2

    def _make_sets(self) -> Work[None]:
        """Make new sets, some at a time; chains then do without those that could not be made."""
        fresh, table = self._step.fresh, self._held.sets
        if self._certain and not self._held.lagging:
            # Only garbage refers to these: a policy that comes back before that is removed finds its sets.
            self._reused = {name for name, (shape, _) in fresh.items() if table.fits(name, shape)}
        taken = (fresh.keys() & table.shapes.keys()) - self._reused
        if taken:
            self.faults += yield from self._writers.rules.let_go_of(taken)
        failed: set[str] = set()
        todo = list(fresh.keys() - self._later)
        while todo:
            failed |= self._make(_some(todo, fresh))
            for name in self._partial.keys() - failed:
                failed |= yield from self._fill(name)
            self._partial.clear()
            if todo:
                yield PAUSE
        self._do_without(failed)

    @functools.cached_property
    def _later(self) -> frozenset[str]:
        """The new sets that are made while the first family's chains are written, if both are few.

        Those only of which the kernel need not be asked what they hold, so that nothing is raised then. Many
        members take so long that what is more urgent has to go first between them.
        """
        if lines(self._step.chains) > FEW_LINES:
            return frozenset()
        first, held = self._writers.families[0], self._held.sets.shapes
        others = {n: members for n, (shape, members) in self._step.fresh.items() if shape.family is not first}
        fresh = {name for name in others if name not in held and not names.is_isolated_set(name)}
        few = sum(len(others[name]) for name in fresh) <= MANY_MEMBERS
        return frozenset(fresh if few else ())

    def _make(self, chosen: Iterable[str]) -> set[str]:
        """Make some of the new sets, or give those that can be reused members; return which failed."""
        sets, fresh = self._writers.sets, self._step.fresh
        failed: dict[str, list[Fault]] = {}
        made: dict[str, SetContent] = {}
        for name in chosen:
            shape, members = fresh[name]
            if names.is_isolated_set(name):
                wanted = members | self._still_closed(name)
            elif len(members) > MANY_MEMBERS and self._takes_parts(name):
                left = self._partial[name] = _ordered(shape, members)
                wanted = self._without_unforgotten(left[:MANY_MEMBERS])
                del left[:MANY_MEMBERS]
            else:
                wanted = self._without_unforgotten(members)
            if name in self._reused:
                failed[name] = sets.reuse(name, wanted)
                continue
            made[name] = SetContent(shape, wanted)
        failed |= sets.create_all(made)
        for found in failed.values():
            self.faults += found
        return {name for name, found in failed.items() if found}

    def _takes_parts(self, name: str) -> bool:
        """Whether a set may be made with a part of its members.

        Not one that was there: rules may look at it still, for want of a write. Nor one that is made while a
        command runs, though it may have got many members meanwhile: nobody gives it the rest.
        """
        return name not in self._held.sets.shapes and name not in self._later

    def _fill(self, name: str) -> Work[set[str]]:
        """Give a new set the members that it was not made with; return it where they cannot be had.

        What has left it meanwhile is not added; who enters it is added by the step that says so.
        """
        left, members = self._partial[name], self._step.fresh[name][1]
        while left:
            yield PAUSE
            some = self._without_unforgotten(members.intersection(left[:MANY_MEMBERS]))
            del left[:MANY_MEMBERS]
            if faults := self._writers.change({name: Gains(some)}):
                self.faults += faults
                return {name}
        return set()

    def _still_closed(self, name: str) -> set[Member]:
        """Return the addresses that a new set of isolated ones may not open yet; its counterpart has them."""
        unforgotten = self._held.tracked.unforgotten
        if not unforgotten:
            return set()
        return {m for m in self._writers.sets.members(names.counterpart(name)) if m in unforgotten}

    def _do_without(self, unmade: set[str]) -> None:
        """Have chains do without sets that could not be made."""
        if not unmade:
            return
        # Sets that rules look at already stand in for some: these must hold nobody who is to go.
        shapes = self._held.sets.shapes
        self._change({n: gains for n, gains in self._step.otherwise.items() if n in shapes})
        self._chains = self._held.chains.without(self._chains, unmade)
        self._narrowed(self._chains)

    # 3

    def _add_unseen(self) -> None:
        unseen = self._step.unseen.items()
        self._change({n: Gains(self._without_unforgotten(g.added), g.removed) for n, g in unseen})

    # 4, 5 and 6

    def _write_and_isolate(self) -> Work[None]:
        unreached, reached = self._staged()
        # Where nobody is to be isolated, all is one transaction.
        apart = any(self._entering.values()) and any(reached.values())
        if self._later:
            first = self._writers.families[0]
            second = functools.cache(lambda: self._make(self._later))
            written = unreached if apart else self._chains
            yield from self._write({first: written[first]}, second)
            self._do_without(second())
            unreached, reached = self._staged()
            written = unreached if apart else self._chains
            yield from self._write({f: chains for f, chains in written.items() if f is not first})
        else:
            yield from self._write(unreached if apart else self._chains)
        self._change(self._entering)
        if apart:
            self.faults += yield from self._writers.write(reached)

    def _write(self, chains: Changes, meanwhile: Callable[[], object] = lambda: None) -> Work[None]:
        writers, entering = self._writers, self._entering
        self.faults += yield from writers.write(chains, entering, meanwhile, harmless=self._step.reshapes)

    def _staged(self) -> tuple[Changes, Changes]:
        """Divide chains into those that no packet reaches yet, and those that packets pass now.

        The tree counts among the first: where it changes, it leads to a newly isolated address.
        """
        held = self._held.chains
        unreached: Changes = {}
        reached: Changes = {}
        for family, chains in self._chains.items():
            later: dict[str, Rules | None] = {
                chain: rules
                for chain, rules in chains.items()
                if rules is not None
                and held.stays(family, chain)
                and not held.holds(family, chain, rules)
                and not chain.startswith((names.TREE_PREFIX, names.TOP_PREFIX))
            }
            reached[family] = later
            unreached[family] = {c: r for c, r in chains.items() if c not in later}
        return unreached, reached

    # 7 to 12

    def _flows_since(self) -> bool:
        """Whether an address that changed hands may have got a connection since step 1 that is denied now.

        Of a change that only moves an address, no more is left than to add it: nothing to look for again.
        """
        step = self._step
        return bool(self._at_once) and (
            any(gains.added for gains in step.isolated.values())
            or any(self._chains.values())
            or any(denies(name, gains) for name, gains in step.live.items())
        )

    def _change_members(self, *, apart: bool) -> dict[str, set[Member]]:
        """Change sets that rules look at; ``apart``: addresses of step 1 are returned, not added."""
        released = self._at_once if apart else set()
        entering: dict[str, set[Member]] = {}
        now: dict[str, Gains] = {}
        for name, gains in self._step.live.items():
            later = {m for m in gains.added if member_address(m) in released} if released else set()
            if later:
                entering[name] = later
            now[name] = Gains(self._without_unforgotten(gains.added - later), gains.removed)
        self._change(now)
        return entering

    def _hold_lagging(self) -> None:
        """Take away and isolate in sets that rules look at for want of a write, too; open nothing there.

        So a chain that cannot be written holds back no revocation.
        """
        step, held = self._step, self._held
        if not self.faults and not held.lagging:
            return
        referred = held.chains.referred()
        changes = {name: gains for name, gains in step.otherwise.items() if name in referred}
        for name in held.lagging & referred:
            usual = names.counterpart(name)
            if usual in step.live:
                changes[name] = Gains(removed=step.live[usual].removed)
            elif usual in step.isolated:
                changes[name] = Gains(step.isolated[usual].added)
        held.lagging = (held.lagging | step.otherwise.keys()) & referred
        self._change(changes)

    def _open(self) -> None:
        isolated = self._step.isolated.items()
        self._change({n: Gains(removed=self._without_unforgotten(g.removed)) for n, g in isolated})

    def _admit(self) -> None:
        """Have addresses be known, once whoever is to be isolated is: after a failure, ask the kernel."""
        wanted = {m for gains in self._step.known.values() for m in gains.added}
        entering = {n: self._without_unforgotten(g.added) for n, g in self._step.known.items() if g.added}
        closed = {*self._held.withdrawn.now(), *(self._still_open() if entering and self.faults else ())}
        if closed:
            entering = {name: added - closed for name, added in entering.items()}
        self._change({name: Gains(added) for name, added in entering.items()})
        if late := self._held.withdrawn.now():
            # What was withdrawn meanwhile has left these sets, maybe before it entered them.
            self._change({name: Gains(removed=added & late) for name, added in entering.items()})
            self._writers.sets.measure(entering)
            entering = {name: added - late for name, added in entering.items()}
        self._held.unadmitted = (self._held.unadmitted | wanted).difference(*entering.values())
        self._change(self._step.networks)

    def _still_open(self) -> set[Member]:
        """Return the addresses that the step isolates and that the kernel may not hold isolated."""
        sets, found = self._writers.sets, set[Member]()
        for name, gains in self._step.isolated.items():
            try:
                found |= gains.added - sets.members(name) if gains.added else set()
            except SetError:
                found |= gains.added
        for name, (_, members) in self._step.fresh.items():
            # Whoever is isolated by a switch is so by rules, which may not have been written.
            found |= members if names.is_isolated_set(name) else set()
        return found

    def _discard(self) -> None:
        self._held.sets.garbage |= self._step.dropped & self._held.sets.shapes.keys()
        self._held.chains.discard(self._step.spent)

    def _change(self, changes: dict[str, Gains]) -> None:
        self.faults += self._writers.change(changes)

    def _without_unforgotten(self, members: Iterable[Member]) -> set[Member]:
        """Return members without the addresses whose former owners' connections are still tracked."""
        unforgotten, wanted = self._held.tracked.unforgotten, set(members)
        return {m for m in wanted if member_address(m) not in unforgotten} if unforgotten else wanted


def _some(todo: list[str], fresh: Mapping[str, tuple[SetShape, set[Member]]]) -> list[str]:
    """Take from the end of what is to be made as much as is made at once: one set at least."""
    taken: list[str] = []
    members = 0
    while todo and len(taken) < MANY_SETS and (not taken or members < MANY_MEMBERS):
        taken.append(todo.pop())
        members += len(fresh[taken[-1]][1])
    return taken


def _ordered(shape: SetShape, members: Iterable[Member]) -> list[Member]:
    """Return members in an order in which no part of them matches what all of them do not."""
    if shape.type != "hash:net":
        return list(members)
    return sorted(members, key=excludes, reverse=True)


def lines(changes: Changes) -> int:
    """Return how many rules chains have."""
    return sum(len(rules or ()) for chains in changes.values() for rules in chains.values())
