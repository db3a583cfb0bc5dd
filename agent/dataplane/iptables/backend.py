"""The iptables backend: moves the kernel to the program, keeps it there, and says what it holds."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType

from agent.dataplane.backend import Around, Call, CutMarks, KernelCounts, KernelView, Reading, Report
from agent.dataplane.differences import Difference
from agent.dataplane.iptables import cleanup, edges
from agent.dataplane.iptables.access import KERNEL, Access
from agent.dataplane.iptables.audit import Audit
from agent.dataplane.iptables.change.connections import Connections
from agent.dataplane.iptables.change.driver import Driver
from agent.dataplane.iptables.change.executor import Executor
from agent.dataplane.iptables.change.pending import independent, touched
from agent.dataplane.iptables.change.planner import Found, plan_delta, plan_sync
from agent.dataplane.iptables.change.refit import plan_relink
from agent.dataplane.iptables.change.remark import remark
from agent.dataplane.iptables.change.step import Step
from agent.dataplane.iptables.change.tidying import Tidying
from agent.dataplane.iptables.change.writers import Writers
from agent.dataplane.iptables.edges import Uplinks
from agent.dataplane.iptables.held import Held, Revision
from agent.dataplane.iptables.ipset.sets import KernelSets, isolated_in
from agent.dataplane.iptables.ipset.transit import Transit
from agent.dataplane.iptables.ipset.untracked import Untracked
from agent.dataplane.iptables.member_look import MemberLook
from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.other_mode import OtherMode
from agent.dataplane.iptables.own_sets import OwnSets
from agent.dataplane.iptables.placement import Placement
from agent.dataplane.iptables.tables.authors import Authors
from agent.dataplane.iptables.tables.chain_writer import ChainWriter
from agent.dataplane.iptables.tables.foreign_rules import ForeignRules
from agent.dataplane.iptables.tables.generation import Generation
from agent.dataplane.iptables.tables.marks import MarkBits
from agent.dataplane.iptables.tables.readback import TablesReading
from agent.dataplane.iptables.tables.tables import TableError
from agent.dataplane.iptables.trust import Trust
from agent.dataplane.iptables.variant import Mode
from agent.dataplane.iptables.verdict_cache import VerdictCache
from agent.dataplane.iptables.withdrawal import Withdrawal
from agent.dataplane.podlinks import PodLink
from agent.dataplane.turns import Patience, Waits, Work, beside
from agent.fault import Fault
from agent.kernel.ipset_errors import SetError
from agent.kube.model import Key
from agent.net import Direction, Family
from agent.policy.lower.lowered import Delta, LoweredProgram

_NOBODY: Mapping[bytes, Key] = MappingProxyType({})


class IptablesBackend:
    """Holds the program in iptables chains and ipsets. See :class:`agent.dataplane.backend.Backend`.

    Depends on what it read and wrote: a failure leaves that record true, and :meth:`sync` moves on from
    whatever is there. Made and used by one thread, in the node's network namespace.
    """

    def __init__(
        self,
        mode: Mode,
        families: Iterable[Family],
        options: Options,
        now: Callable[[], float] = time.monotonic,
        *,
        beside_kube_router: bool = False,
        ahead: bool = False,
        patience: float = math.inf,
        access: Access = KERNEL,
    ) -> None:
        """``beside_kube_router``: write, in front of it, though what kube-router's firewall left is there.

        ``ahead``: have commands wait to be needed. ``patience``: seconds for which a call waits for a
        command; what takes longer goes on with :meth:`resume`. ``access``: by what the kernel is reached.
        """
        self.mode, self.families = mode, tuple(families)
        self._access = access
        self._cache = VerdictCache(mode, self.families, options.cache, access.flusher)
        self._transit = Transit(mode, self.families)
        self._untracked = Untracked(mode, self.families)
        self._edge_faults: list[Fault] = []
        self._held = held = Held.nothing(mode, self.families, options)
        self._chains = held.chains
        self._netlink = access.netlink()
        tables = access.tables(mode, ahead=ahead)
        watch = Generation(mode, self.families, self._netlink)
        self._rules = ChainWriter(self._chains, tables, watch, Patience(patience))
        self.authors = Authors(watch, access.writes if mode == "nft" else None, tables, self.families)
        self._driver: Driver[Report] = Driver(patient=patience == math.inf)
        self._ipsets = access.ipsets()
        self._sets = KernelSets(self._ipsets, held.sets)
        self.withdraw = Withdrawal(held, self._cache, access)
        self._connections = Connections(access.forget, held.tracked)
        self._executor = Executor(Writers(held, self._rules, self._sets, self._cache, self._connections))
        closed = self._executor.closed
        self._own = OwnSets(held, self._sets, self._cache, self._transit, closed, self._untracked)
        self._trust = Trust(self._executor, Uplinks(access.uplinks, self.families))
        self._placement = Placement(self._rules, self._netlink, now, self.authors, access.lift)
        self._foreign = ForeignRules(self._chains, self._netlink, beside_kube_router=beside_kube_router)
        self._other_mode = OtherMode(mode, self.families, access, now)
        self._marks = MarkBits(options, access.uses(), self._chains)
        self._audit = Audit(
            access,
            self._other_mode,
            self._rules,
            self._placement,
            self._foreign,
            self._marks,
            held,
            self._trust.uplinks,
            self._sets,
            self._ipsets,
            self._transit,
            self._untracked,
        )
        self.members = MemberLook(held, access, self._ipsets.members, lambda: not self._failed)
        self._tidying = Tidying(held, self._executor, self._rules, self._sets)
        self._refused = self._outdated = self._failed = False
        """Whether something failed since the last sync that went through had read the kernel."""
        self._compared = False
        """Whether the kernel has been compared with a whole program: a delta is of what that made."""

    def adopt(self) -> Mapping[Direction, set[bytes]]:
        return isolated_in(self._sets.load(), self.families)

    def sync(
        self, program: LoweredProgram, owners: Mapping[bytes, Key] = _NOBODY, reading: Reading | None = None
    ) -> Report:
        return self._begin(self._syncing(program, owners, reading), lambda: False)

    def _syncing(
        self, program: LoweredProgram, owners: Mapping[bytes, Key], reading: Reading | None
    ) -> Work[Report]:
        with self._cache.closed() as lookups:
            return (yield from self._synced(program, owners, reading, lookups))

    def _synced(
        self, program: LoweredProgram, owners: Mapping[bytes, Key], found: Reading | None, lookups: list[str]
    ) -> Work[Report]:
        started, writes = time.perf_counter(), self._writes()
        self._outdated = self._executor.synced = False
        told: tuple[Difference, ...] = ()
        try:
            reading = self._audit.take(found) or (yield from self._read())
            told = self._audit.found(reading) if self._compared and not self._failed else ()
            self._chains.take(reading.tables(), reading.errors)
            self._rules.watch.mark_made()
            tables = self._chains.tables()
            for error in (*self._chains.unread.values(), *reading.elsewhere_errors.values()):
                if self._refused:
                    # kube-router's firewall may still be there.
                    raise error
            refusal = self._foreign.refusal([*tables.values(), *reading.elsewhere.values()])
            self._refused = refusal is not None
            if refusal is not None:
                self._executor.drop_pending()
                return Report(time.perf_counter() - started, 0, True, (refusal,), refused=True, of=Call.SYNC)
            self._foreign.take(tables)
            faults = self._rules.unread_faults() + self._sets.change({}, lookups)
            content = self._sets.load()
            # What fails from now on, of another call, too, is nothing that this one has seen.
            certain, self._failed = not self._failed, False
            self._own.make(content)
            self._held.lagging = frozenset()
            faults += self._connections.forget(frozenset())
            chosen, ours = self._marks.choose(reading.marks or [])
            node, unseen = edges.look_around(replace(self._held.node, options=ours), self._access.look)
            faults += unseen
            node = self._trust.follow(node, program, hooked=False)
            elsewhere = self._other_mode.referred(reading, content)
            elsewhere |= cleanup.sets_of_unclear(tables, self._chains.unread, content)
            withheld = frozenset(self._held.tracked.unforgotten)
            faults += self._own.make_known(content, program, node, elsewhere)
            found_now = Found(content, withheld, elsewhere, owners, node, *self._own.known.moving)
            step = plan_sync(self._held, program, found_now)
            self._compared = True
            faults += self._trust.uplinks.faults()
            # What was put off is part of it, but for the connections that are to be forgotten.
            if (put_off := self._executor.take_pending()) is not None:
                step.released |= put_off.released
                step.vacant = step.vacant - put_off.released | put_off.vacant
            faults += yield from self._executor.carry_out(step, certain=certain, lenient=True)
            faults += yield from remark(program, chosen, self._executor, self._marks, certain=certain)
            faults += yield from self._placement.put_back()
            faults += self._foreign.unseeing()
            if not faults and self._trust.ready:
                faults += yield from self._trust.settle(certain=certain)
            self._rules.prime()
            if not faults:
                self._other_mode.remove()
            self._tell_edges(program)
        except TableError as error:
            faults = [Fault(str(error), error.remedy or "the agent tries again by itself", reason="rules")]
        except SetError as error:
            faults = [error.fault()]
        faults += self._executor.close_unwritten()
        report = self._report(started, writes, [*dict.fromkeys(faults)])
        return report._replace(pending=report.pending or self._failed, of=Call.SYNC, found=told)

    def _read(self) -> Work[TablesReading]:
        """Read the rules: on a thread of its own, since it may take long, unless all is waited for."""
        reading = self._audit.begin(afresh=True)
        yield from beside("reading", reading.run, self._rules.patience)
        return reading

    def apply(
        self, program: LoweredProgram, delta: Delta, interrupted: Callable[[], bool] = lambda: False
    ) -> Report:
        started, writes = time.perf_counter(), self._writes()
        if not self._compared:
            # The first sync makes it with all else; only connections are nothing that it could see.
            self._held.tracked.unforgotten |= delta.released
            return self._before_sync(started)
        node = None
        if delta.node_networks:
            node = self._trust.follow(self._held.node, program, hooked=True)
        self._outdated = self._outdated or self._own.outdated(program, delta)
        step = plan_delta(self._held, program, delta, node)
        if self.busy and not self._can_go_first(step):
            return self._waiting(started, writes, self._executor.put_off(step))
        return self._begin(self._applying(program, step), interrupted)

    def _applying(self, program: LoweredProgram, step: Step, *, put_off: bool = False) -> Work[Report]:
        started, writes = time.perf_counter(), self._writes()
        try:
            faults = yield from self._executor.carry_out(step, certain=not self._failed)
            if not faults:
                faults = yield from self._settle(program)
        except SetError as error:
            faults = [error.fault()]
        if put_off:
            self._sets.measure(touched(step))
        if not step.waits_for_nothing or self._executor.idle:
            faults += self._executor.close_unwritten()
        return self._report(started, writes, faults)

    def _settle(self, program: LoweredProgram) -> Work[list[Fault]]:
        """Let other nodes in by tunnels, where that is due and nothing else is being made."""
        if not self._trust.ready:
            return []
        faults = yield from self._trust.settle(certain=not self._failed)
        self._tell_edges(program)
        return faults

    def expect(self, links: tuple[PodLink, ...]) -> None:
        self._held.take_over(Revision(node=replace(self._held.node, links=links)))

    def relink(self, program: LoweredProgram, links: tuple[PodLink, ...]) -> Report:
        if not self._compared:
            self.expect(links)
            return self._before_sync(time.perf_counter())
        step = plan_relink(self._held, program, links)
        return self._begin(self._applying(program, step), lambda: False)

    def _before_sync(self, started: float) -> Report:
        """Report that nothing was written, since what is there could not be compared with the program yet."""
        report = self._report(started, self._writes(), [])
        return report._replace(waiting=True) if self.busy else report._replace(pending=True)

    def _can_go_first(self, step: Step) -> bool:
        """Whether a step need not wait for those that are being made."""
        carrying = self._executor.carrying
        can_begin = (self._driver.paused or step.waits_for_nothing) and self._executor.pending is None
        return can_begin and bool(carrying) and all(independent(step, each) for each in carrying)

    @property
    def busy(self) -> bool:
        return self._driver.busy or self._executor.pending is not None

    def enforces(self, program: LoweredProgram, pod: Key, addresses: Iterable[bytes]) -> bool:
        return not self._refused and self._executor.enforces(program, pod, addresses)

    def heed(self, news: tuple[int, ...]) -> None:
        self._rules.patience = self._rules.patience._replace(news=news)

    def waits(self) -> Waits:
        return self._driver.waits

    def resume(self, program: LoweredProgram, interrupted: Callable[[], bool] = lambda: False) -> Report:
        if self._driver.busy:
            return self._driven(lambda: self._driver.resume(interrupted))
        step = self._executor.take_pending()
        if step is None:
            return self._report(time.perf_counter(), self._writes(), [])
        return self._begin(self._applying(program, step, put_off=True), interrupted)

    def _begin(self, work: Work[Report], interrupted: Callable[[], bool]) -> Report:
        return self._driven(lambda: self._driver.start(work, interrupted))

    def _driven(self, drive: Callable[[], Report | None]) -> Report:
        """Return the report of work that has ended, or else of what could not wait for it."""
        started, writes = time.perf_counter(), self._writes()
        report = drive()
        if report is None:
            faults = [] if self._driver.soon else self._executor.hold(late=self._driver.late)
            report = self._waiting(started, writes, faults)
        return report

    def _waiting(self, started: float, writes: int, faults: list[Fault]) -> Report:
        """Report that work goes on, and what went wrong in what could not wait for it."""
        return self._report(started, writes, faults)._replace(waiting=True)

    def _tell_edges(self, program: LoweredProgram) -> None:
        untracked = self._untracked.faults(program.pods, self._held.untracked)
        self._edge_faults = [*untracked, *self._trust.faults(program)]

    def moved(self) -> bool:
        return edges.moved(self._held.node, self._access.look)

    def untidy(self) -> bool:
        return self._tidying.due()

    def tidy(self, program: LoweredProgram, interrupted: Callable[[], bool] = lambda: False) -> Report:
        return self._begin(self._tidied(program, interrupted), interrupted)

    def _tidied(self, program: LoweredProgram, interrupted: Callable[[], bool]) -> Work[Report]:
        started, writes = time.perf_counter(), self._writes()
        faults, left = list[Fault](), list[Fault]()
        for part in self._tidying.parts(program, faults, left, certain=not self._failed):
            yield from part()
            if not faults:
                # A change of nodes that went first, while this was paused, leaves it to do.
                faults += yield from self._settle(program)
            # A command may have taken so long that pods were closed meanwhile.
            faults += self._executor.close_unwritten()
            if faults:
                break
            if self._writes() > writes and interrupted():
                return self._report(started, writes, [], left)._replace(unfinished=True, of=Call.TIDY)
        return self._report(started, writes, faults, left)._replace(of=Call.TIDY)

    def judge_transit(self) -> bool:
        return self._transit.judge()

    def cut_marks(self) -> CutMarks | None:
        return self._held.node.options.cut_marks

    def upkeep(self) -> None:
        self._cache.resume()
        if self._executor.idle:
            self.withdraw.settle(self._executor.close_unwritten)

    def disturbed(self) -> bool:
        return self._audit.disturbed()

    def read(self) -> TablesReading:
        return self._audit.begin()

    def overtaken(self, reading: Reading) -> bool:
        return self._audit.overtaken(reading)

    def audit(self, program: LoweredProgram, reading: Reading | None = None) -> list[Difference]:
        if not isinstance(reading, TablesReading):
            reading = self.read()
            reading.run()
        return self._audit.compare(program, reading, certain=not self._failed)

    def around(self) -> Around:
        return edges.around(self._held, self._writes())

    def view(self) -> KernelView:
        return self._held.view(KernelCounts(self._writes(), self._connections.forgotten, self._cache.flushes))

    def close(self) -> None:
        """Let go of the kernel; what it holds stays. A command that still runs is killed."""
        self._driver.close()
        self._cache.close()
        self.authors.close()
        self._rules.tables.close()
        self._ipsets.close()
        self._netlink.close()

    def _writes(self) -> int:
        return self._rules.writes + self._sets.writes + self.withdraw.writes

    def _report(
        self, started: float, writes: int, faults: list[Fault], harmless: Iterable[Fault] = ()
    ) -> Report:
        """Report what a call did; harmless faults are told, but no reason to try again."""
        self._failed = self._failed or bool(faults)
        shown = (
            *faults,
            *harmless,
            *self._foreign.unclear,
            *self._marks.faults,
            *self._other_mode.faults,
            *self._cache.faults,
            *self._placement.faults,
            *self._edge_faults,
        )
        standing = tuple(self._executor.closed.faults(self._chains.why))
        seconds, writes = time.perf_counter() - started, self._writes() - writes
        due = bool(faults) or self._outdated
        return Report(seconds, writes, due, shown, self._refused, standing=standing)
