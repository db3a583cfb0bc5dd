"""Carries out each step: at once, or after those that are being made already.

The order in which one step is made stands in :meth:`.carrying.Carrying.run`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import filterfalse

from agent.dataplane.iptables.change.carrying import Carrying, lines
from agent.dataplane.iptables.change.enforced import enforces
from agent.dataplane.iptables.change.pending import both, isolations, losses, touched, yield_to
from agent.dataplane.iptables.change.step import Gains, Step, taken_over
from agent.dataplane.iptables.change.writers import Writers
from agent.dataplane.iptables.ipset.closed import Closed
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.rules.rule import Changes, merged
from agent.dataplane.iptables.tables.chain_writer import PART
from agent.dataplane.turns import Work
from agent.fault import Fault
from agent.kernel.ipset_errors import SetError
from agent.kube.model import Key
from agent.policy.lower.lowered import LoweredProgram


class Executor:
    """Moves chains, sets and connection tracking by one step at a time, and keeps the record of them true.

    A step that comes while others are being made waits, and what it takes away is taken away at once.
    """

    def __init__(self, writers: Writers) -> None:
        self._writers = writers
        self.held = writers.held
        self._chains = writers.held.chains
        self.connections = writers.connections
        self.closed = Closed(writers.families)
        self.carrying: list[Step] = []
        """The steps that are being made; each began while the one before it let it go first."""
        self.pending: Step | None = None
        """What is to be made after them."""
        self._lenient: Step | None = None
        self.synced = False
        """Whether the last sync has made all that it found to be made, as far as it could."""

    def carry_out(self, step: Step, *, certain: bool, lenient: bool = False) -> Work[list[Fault]]:
        """Move the kernel by one step.

        ``certain``: nothing failed since the last look at the kernel. ``lenient``: the step makes good what
        happened while nobody looked, so that no pod is closed because a command takes its time. Raises
        SetError when it cannot be told what a new set must hold; nothing has been opened then.
        """
        self.held.take_over(step.revision)
        self.carrying.append(step)
        if lenient:
            self._lenient = step
        elif not step.reshapes:
            self._ask(step.chains)
        try:
            carrying = Carrying(self._writers, step, certain=certain, narrowed=self._ask_of(step))
            if not certain or lines(step.chains) > PART:
                # The commands may take long: members that are to leave do not wait for them.
                carrying.faults += self.narrow(step)
            faults = yield from carrying.run()
            self.synced = self.synced or lenient
            return faults
        except BaseException as error:
            # It is not known how far it came.
            self.held.sets.doubtful |= {*touched(step), *step.fresh}
            if isinstance(error, SetError):
                # What it takes away depends on nothing that could not be read.
                self.narrow(step)
            raise
        finally:
            self.carrying.remove(step)
            if lenient:
                self._lenient = None
                self._chains.ask(step.chains, afresh=True)
                self._ask({})

    def put_off(self, step: Step) -> list[Fault]:
        """Have a step made after those that are being made; what it takes away is taken away at once."""
        self.held.take_over(step.revision)
        self._chains.ask(step.chains)
        for each in (*self.carrying, self.pending):
            if each is not None:
                yield_to(each, step)
        # What is taken away now is no more in the step: those before it have to know of it first.
        faults = self.narrow(step) + self._empty(step)
        if self.pending is None:
            self.pending = taken_over(step)
        else:
            self.pending = both(self.pending, step, self._chains.stays)
        # Members are changed by now: who is closed for want of rules stays the same.
        return faults if step.waits_for_nothing else faults + self.close_unwritten()

    def drop_pending(self) -> None:
        """Drop what was put off, since the next sync makes it; keep which connections are to be forgotten."""
        if (step := self.take_pending()) is not None:
            self.held.tracked.unforgotten |= step.released

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
        held = self.held.sets.shapes.keys()
        changes = {n: Gains(removed=set(m)) for n, m in losses(step).items() if m and n in held}
        changes |= {n: Gains(set(m)) for n, m in isolations(step).items() if m and n in held}
        if not changes:
            return []
        faults = self._writers.change(changes)
        self._writers.sets.measure(changes)
        if not faults:
            for name in changes.keys() & step.live.keys():
                step.live[name].removed.clear()
            for name in changes.keys() & step.known.keys():
                step.known[name].removed.clear()
            for name in changes.keys() & step.isolated.keys():
                step.isolated[name].added.clear()
            for name in changes.keys() & step.otherwise.keys():
                step.otherwise[name] = Gains()
        return faults

    def _empty(self, step: Step) -> list[Fault]:
        """Take all out of sets that come again: whoever had left them meanwhile was not taken out.

        Rules that look at them may be there still, and may be the same as those that come. What a set of
        networks holds its name says; and one that is switched to loses who is to go by :meth:`narrow`.
        """
        shapes = self.held.sets.shapes
        again = [
            name
            for name in filterfalse(names.is_isolated_set, step.fresh.keys() & shapes.keys())
            if shapes[name].type != "hash:net" and names.counterpart(name) not in step.otherwise
        ]
        if not again:
            return []
        with self._writers.cache.closed() as lookups:
            faults = self._writers.sets.change({}, [*lookups, *again])
        self._writers.sets.measure(again)
        return faults

    @property
    def idle(self) -> bool:
        """Whether nothing is being made, or waits to be."""
        return self.pending is None and not self.carrying

    def enforces(self, program: LoweredProgram, pod: Key, addresses: Iterable[bytes]) -> bool:
        """Whether the kernel enforces what the program says of a pod: see :func:`.enforced.enforces`."""
        steps = [*self.carrying, *([self.pending] if self.pending is not None else [])]
        return self.synced and enforces(self.held, steps, program, pod, addresses)

    def _ask(self, chains: Changes) -> None:
        self._chains.ask(chains)
        if self.pending is not None:
            self._chains.ask(self.pending.chains)

    def _ask_of(self, step: Step) -> Callable[[Changes], None]:
        """Return what takes note that other chains are written in place of a step's."""
        return (lambda _: None) if step is self._lenient else self._ask

    def close_unwritten(self) -> list[Fault]:
        """Close the addresses whose rules take something away and are unwritten; open the others.

        Also those that were withdrawn ahead of the program, as long as it has not followed.
        """
        shut = self.held.withdrawn.shut
        if not any((*self.held.closed.values(), *self._chains.wanted.values(), shut)):
            return []
        writing: Changes = {}
        families = self._writers.families
        if self.pending is not None or len(self.carrying) > 1:
            for step in self.carrying:
                writing = merged({family: writing.get(family, {}) for family in families}, step.chains)
        elif not self.carrying:
            self._chains.settle()
        # It is not known whom rules that were never read let pass.
        staying = set(self._chains.unread if self._lenient is None else families)
        withdrawn = self.held.withdrawn.now()
        still = shut & withdrawn
        before, unwritten = self.closed.joined(self.held.closed, shut), self._chains.closed(writing)
        self.held.closed, changes = self.closed.changes(before, unwritten, staying=staying, still=still)
        faults = self._writers.change({name: Gains(*moved) for name, moved in changes.items()})
        if late := self.held.withdrawn.now() - withdrawn:
            # What was withdrawn once more meanwhile has entered these sets, maybe before it left them.
            again = {name: Gains(opened & late) for name, (_, opened) in changes.items()}
            faults += self._writers.change(again)
        if faults:
            self.held.closed = before
        elif shut:
            self.held.withdrawn.opened(shut - still)
        if shut:
            # It is not known how many others had put there.
            self._writers.sets.measure(self.closed.usable.values())
        return faults
