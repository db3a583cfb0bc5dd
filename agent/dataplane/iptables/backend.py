"""The iptables backend: moves the kernel to the program, keeps it there, and says what it holds."""

from __future__ import annotations

import functools
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from types import MappingProxyType

from agent import log
from agent.dataplane.backend import Call, KernelView, Reading, Report
from agent.dataplane.contention import REMOVING, STOP_REMOVING, Contention
from agent.dataplane.iptables import cleanup
from agent.dataplane.iptables.access import KERNEL, Access
from agent.dataplane.iptables.change.desired import Changes, Desired, Naming
from agent.dataplane.iptables.change.driver import Driver
from agent.dataplane.iptables.change.executor import Executor
from agent.dataplane.iptables.change.inflight import LOOK_AGAIN
from agent.dataplane.iptables.change.pending import independent, touched
from agent.dataplane.iptables.change.planner import Planner, Step
from agent.dataplane.iptables.ipset.members import SpotCheck
from agent.dataplane.iptables.ipset.sets import KernelSets, network_members
from agent.dataplane.iptables.ipset.untracked import Untracked
from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import edges, hooks, names
from agent.dataplane.iptables.tables import builtin, marks
from agent.dataplane.iptables.tables.chain_table import ChainTable
from agent.dataplane.iptables.tables.generation import Generation
from agent.dataplane.iptables.tables.markuse import Use
from agent.dataplane.iptables.tables.readback import TablesReading
from agent.dataplane.iptables.tables.tables import Table, TableError
from agent.dataplane.iptables.transit import Transit
from agent.dataplane.iptables.variant import Mode
from agent.dataplane.iptables.verdict_cache import VerdictCache
from agent.dataplane.kube_router import kube_router_fault
from agent.dataplane.podlinks import PodLink
from agent.dataplane.turns import Waits, Work
from agent.fault import Fault
from agent.kernel.ipset_errors import SetError
from agent.kernel.ipset_shapes import SetContent
from agent.kube.model import Key
from agent.net import Direction, Family, Member
from agent.policy.program import Delta, Program
from agent.words import count

_log = log.get(__name__)

LEFTOVERS_PAUSE = 300.0
"""Seconds until what could not be removed from the other mode is tried again."""


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
        self.mode = mode
        self._access = access
        self._beside_kube_router = beside_kube_router
        self._other_mode: Mode = "legacy" if mode == "nft" else "nft"
        self.families = tuple(families)
        self._cache = VerdictCache(mode, self.families, options.cache, access.flusher)
        self._transit = Transit(mode, self.families)
        self._untracked = Untracked(mode, self.families)
        self._edge_faults: list[Fault] = []
        self._trusting: Program | None = None
        """The program whose other nodes may be let in by tunnels, too, when a step has been carried out."""
        self._naming = naming = Naming()
        self._desired = Desired(self.families, options, naming)
        self._planner = Planner(self.families, self._desired, naming, access.uplinks)
        self._netlink = access.netlink()
        tables = access.tables(mode, ahead=ahead)
        self._chains = ChainTable(
            tables, self.families, Generation(mode, self.families, self._netlink), patience
        )
        self._patience = patience
        self._driver: Driver[Report] = Driver(patient=patience == math.inf)
        self._ipsets = access.ipsets()
        self._sets = KernelSets(self._ipsets)
        self._writer = Executor(self.families, self._chains, self._sets, self._cache, naming, access.forget)
        self._spot_check = SpotCheck(self._ipsets.members)
        self._contention = Contention(now)
        self._removals = Contention(now, REMOVING, STOP_REMOVING)
        self._hooked: set[tuple[Family, str]] = set()
        self._looked_at: dict[Family, Table] | None = None
        """What is in the tables besides our chains, when that was last seen and nothing was wrong."""
        self._now = now
        self._other_mode_left = False
        self._leftovers: list[Fault] = []
        self._leftovers_at = float("-inf")
        self._unclear: list[Fault] = []
        self._options = options
        self._uses = access.uses()
        self._mark_faults: tuple[Fault, ...] = ()
        self._refused = False
        self._failed = False
        """Whether something failed since the last sync that went through."""
        self._compared = False
        """Whether the kernel has been compared with a whole program: a delta is of what that made."""

    def adopt(self) -> Mapping[Direction, set[bytes]]:
        found: dict[Direction, set[bytes]] = {direction: set() for direction in Direction}
        content = self._sets.load()
        for direction in Direction:
            for family in self.families:
                usual = names.isolated_set(direction, family)
                for name in (usual, names.alternate(usual)):
                    if name in content:
                        found[direction].update(m for m in content[name].members if isinstance(m, bytes))
        return found

    def sync(self, program: Program, owners: Mapping[bytes, Key] = MappingProxyType({})) -> Report:
        return self._begin(self._syncing(program, owners), lambda: False)

    def _syncing(self, program: Program, owners: Mapping[bytes, Key]) -> Work[Report]:
        with self._cache.closed() as lookups:
            return (yield from self._synced(program, owners, lookups))

    def _synced(self, program: Program, owners: Mapping[bytes, Key], lookups: list[str]) -> Work[Report]:
        started = time.perf_counter()
        writes = self._writes()
        try:
            self._looked_at = None
            reading = yield from self._read()
            self._chains.take(reading.tables(), reading.errors)
            for error in (*self._chains.unread.values(), *reading.elsewhere_errors.values()):
                if self._refused:
                    # kube-router's firewall may still be there.
                    raise error
            stranger = self._stranger([*self._chains.whole.values(), *reading.elsewhere.values()])
            self._refused = stranger is not None
            if stranger is not None:
                self._writer.drop_pending()
                seconds = time.perf_counter() - started
                return Report(seconds, 0, True, (stranger,), refused=True, of=Call.SYNC)
            self._unclear = self._unclear_in(self._chains.whole)
            faults = self._chains.unread_faults() + self._sets.change({}, lookups)
            content = self._sets.load()
            self._naming.caches = self._cache.make(self._sets, content)
            self._naming.others = self._transit.make(self._sets, content)
            self._naming.closed = self._writer.closed.make(self._sets, content)
            self._naming.untracked = self._untracked.make(self._sets, content)
            faults += self._writer.forget(set())
            faults += self._look()
            self._planner.guarding = edges.guarding(
                self._chains, self._desired.guarded(program), hooked=False
            )
            ours = {family: self._chains.ours(family) for family in self.families}
            chosen = self._choose_marks(reading.marks)
            elsewhere = self._referred_elsewhere(reading, content)
            elsewhere |= self._referred_unread(content)
            step = self._planner.difference(
                program, ours, content, frozenset(self._writer.unforgotten), elsewhere, owners
            )
            self._compared = True
            faults += self._unrouted()
            self._writer.lagging = frozenset()
            # What was put off is part of it, but for the connections that are to be forgotten.
            if (put_off := self._writer.take_pending()) is not None:
                step.released |= put_off.released
                step.vacant = step.vacant - put_off.released | put_off.vacant
            faults += yield from self._writer.carry_out(step, certain=not self._failed, lenient=True)
            faults += yield from self._remark(program, chosen)
            faults += yield from self._place_hooks()
            faults += self._unseeing()
            if not faults:
                faults += yield from self._trust(program)
            self._chains.prime()
            if not faults:
                self._remove_leftovers()
            self._tell_edges(program)
        except TableError as error:
            faults = [Fault(str(error), error.remedy or "the agent tries again by itself")]
        except SetError as error:
            faults = [error.fault()]
        faults += self._writer.close_unwritten()
        self._failed = False
        return self._report(started, writes, [*dict.fromkeys(faults)])._replace(of=Call.SYNC)

    def _read(self) -> Work[TablesReading]:
        """Read the rules: on a thread of its own, since it may take long, unless all is waited for."""
        reading = self._tables_reading(None)
        self._chains.watch.mark()
        if self._patience == math.inf:
            reading.read()
            return reading
        thread = threading.Thread(target=reading.read, name="reading", daemon=True)
        thread.start()
        thread.join(self._patience)
        while thread.is_alive():
            yield Waits((), time.monotonic() + LOOK_AGAIN)
        return reading

    def apply(
        self, program: Program, delta: Delta, interrupted: Callable[[], bool] = lambda: False
    ) -> Report:
        started = time.perf_counter()
        writes = self._writes()
        if not self._compared:
            # The first sync makes it with all else; only connections are nothing that it could see.
            self._writer.unforgotten |= delta.released
            return self._before_sync(started)
        if delta.bypass:
            wanted = self._desired.guarded(program)
            self._planner.guarding = edges.guarding(self._chains, wanted, hooked=True)
            self._trusting = program
        step = self._planner.step(program, delta)
        if self.busy and not self._can_go_first(step):
            return self._waiting(started, writes, self._writer.put_off(step))
        return self._begin(self._applying(step), interrupted)

    def _applying(self, step: Step, *, put_off: bool = False) -> Work[Report]:
        started = time.perf_counter()
        writes = self._writes()
        try:
            faults = yield from self._writer.carry_out(step, certain=not self._failed)
            if self._trusting is not None and not faults:
                program, self._trusting = self._trusting, None
                faults = yield from self._trust(program)
                self._tell_edges(program)
        except SetError as error:
            faults = [error.fault()]
        if put_off:
            self._sets.measure(touched(step))
        faults += self._writer.close_unwritten()
        return self._report(started, writes, faults)

    def expect(self, links: tuple[PodLink, ...]) -> None:
        self._desired.links = links

    def relink(self, program: Program, links: tuple[PodLink, ...]) -> Report:
        if not self._compared:
            self.expect(links)
            return self._before_sync(time.perf_counter())
        step = Step(self._desired.relink(program, links))
        return self._begin(self._applying(step), lambda: False)

    def _before_sync(self, started: float) -> Report:
        """Report that nothing was written, since what is there could not be compared with the program yet."""
        report = self._report(started, self._writes(), [])
        return report._replace(waiting=True) if self.busy else report._replace(pending=True)

    def _can_go_first(self, step: Step) -> bool:
        """Whether a step need not wait for those that are being made."""
        carrying = self._writer.carrying
        idle = self._driver.paused and self._writer.pending is None and bool(carrying)
        return idle and all(independent(step, each) for each in carrying)

    @property
    def busy(self) -> bool:
        return self._driver.busy or self._writer.pending is not None

    def waits(self) -> Waits:
        return self._driver.waits

    def resume(self, program: Program, interrupted: Callable[[], bool] = lambda: False) -> Report:
        del program
        started = time.perf_counter()
        writes = self._writes()
        if not self._driver.busy:
            step = self._writer.take_pending()
            if step is None:
                return self._report(started, writes, [])
            return self._begin(self._applying(step, put_off=True), interrupted)
        report = self._driver.resume(interrupted)
        return self._waiting(started, writes, self._hold()) if report is None else report

    def _begin(self, work: Work[Report], interrupted: Callable[[], bool]) -> Report:
        started = time.perf_counter()
        writes = self._writes()
        report = self._driver.start(work, interrupted)
        return self._waiting(started, writes, self._hold()) if report is None else report

    def _hold(self) -> list[Fault]:
        return self._writer.hold(late=self._driver.late)

    def _waiting(self, started: float, writes: int, faults: list[Fault]) -> Report:
        """Report that work goes on, and what went wrong in what could not wait for it."""
        return self._report(started, writes, faults)._replace(waiting=True)

    def _look(self) -> list[Fault]:
        """Look at the node's interfaces; where that fails, what was seen last holds, and the rest goes on."""
        try:
            self._desired.surroundings = self._access.look()
        except OSError as error:
            what = f"the node's interfaces and tunnels cannot be read: {error.strerror}"
            return [Fault(what, "let the agent use netlink sockets, with CAP_NET_ADMIN")]
        return []

    def _unrouted(self) -> list[Fault]:
        """Tell where routes to other nodes could not be read: what was seen last holds."""
        if (error := self._planner.unrouted) is None:
            return []
        what = f"by which interfaces other nodes are reached cannot be read: {error.strerror or error}"
        return [Fault(what, "let the agent use netlink sockets, with CAP_NET_ADMIN")]

    def _trust(self, program: Program) -> Work[list[Fault]]:
        """Let other nodes in by tunnels, too, once these are known to take from nodes alone."""
        if not edges.guarding(self._chains, self._desired.guarded(program), hooked=True):
            return []
        step = self._planner.trust(program)
        if step is None:
            return []
        return (yield from self._writer.carry_out(step, certain=not self._failed))

    def _tell_edges(self, program: Program) -> None:
        untracked = self._untracked.faults(program.pods)
        self._edge_faults = [*untracked, *edges.faults(self._desired, self._planner.reached_by, program)]

    def moved(self) -> bool:
        try:
            return self._access.look() != self._desired.surroundings
        except OSError:
            return False

    def untidy(self) -> bool:
        return bool(
            self._planner.switched
            or self._desired.prunable
            or any(self._chains.garbage.values())
            or self._sets.garbage
            or self._writer.vacant
        )

    def tidy(self, program: Program, interrupted: Callable[[], bool] = lambda: False) -> Report:
        return self._begin(self._tidying(program, interrupted), interrupted)

    def _tidying(self, program: Program, interrupted: Callable[[], bool]) -> Work[Report]:
        return (yield from self._tidied(program, interrupted))._replace(of=Call.TIDY)

    def _tidied(self, program: Program, interrupted: Callable[[], bool]) -> Work[Report]:
        started = time.perf_counter()
        writes = self._writes()
        faults: list[Fault] = []
        left: list[Fault] = []
        for part in self._untidy_parts(program, faults, left):
            yield from part()
            if faults:
                break
            if self._writes() > writes and interrupted():
                return self._report(started, writes, [], left)._replace(unfinished=True)
        return self._report(started, writes, faults, left)

    def _untidy_parts(
        self, program: Program, faults: list[Fault], left: list[Fault]
    ) -> Iterator[Callable[[], Work[None]]]:
        """Yield what there is to tidy up, in the order in which it can be done.

        What cannot be removed does no harm: it is told in ``left``, and left for the next time.
        """
        faults.extend(self._writer.forget(self._writer.vacant))
        if not self._failed:
            # A sync does both of these: while one is due, what they would change is not known to be there.
            if self._planner.switched:
                yield lambda: self._switch_back(program, faults)
            yield lambda: _into(faults, self._chains.write(self._desired.prune()))
        yield lambda: _into(left, self._chains.sweep())
        left.extend(self._sets.sweep())

    def _switch_back(self, program: Program, faults: list[Fault]) -> Work[None]:
        try:
            step = self._planner.switch_back(program)
            faults += yield from self._writer.carry_out(step, certain=not self._failed)
        except SetError as error:
            faults.append(error.fault())

    def judge_others(self) -> bool:
        return self._transit.judge()

    def disturbed(self) -> bool:
        self._cache.resume()
        met = self._transit.seen(self._ipsets) or self._untracked.changed(self._ipsets)
        return self._chains.watch.changed() or met

    def reading(self) -> TablesReading:
        known = None
        if self._looked_at is not None and self._chains.watch.certain():
            known = {f: {**self._looked_at[f], **self._chains.ours(f)} for f in self.families}
        else:
            # What somebody wrote is seen only when these tables are looked at; until then nothing is known.
            self._looked_at = None
            self._chains.watch.mark()
        return self._tables_reading(known)

    def _tables_reading(self, known: Mapping[Family, Table] | None) -> TablesReading:
        tables, writes = self._chains.tables, self._chains.writes
        elsewhere = functools.partial(self._access.elsewhere, self._other_mode, self.families)
        return TablesReading(tables, self.families, writes, known, self._uses, elsewhere)

    def overtaken(self, reading: Reading) -> bool:
        if not isinstance(reading, TablesReading):
            return True
        return reading.known is None and reading.writes != self._chains.writes

    def drift(self, program: Program, reading: Reading | None = None) -> list[str]:
        if not isinstance(reading, TablesReading):
            reading = self.reading()
            reading.read()
        tables = reading.tables()
        differences: list[str] = []
        if self._stranger([*tables.values(), *reading.elsewhere.values()]) is not None:
            differences.append("kube-router's firewall writes here")
        for family, error in reading.errors.items():
            differences.append(f"IPv{int(family)}: the rules cannot be read: {error}")
        for family, now in tables.items():
            if reading.known is None:
                differences += self._chains.changed(family, now)
            due = self._contention.due()
            for chain, why in hooks.misplaced(now, self._chains.garbage[family]).items():
                # One that is missing leaves everything open: it never waits.
                if due or hooks.missing(now, chain):
                    differences.append(f"IPv{int(family)}: {chain}: {why}")
        differences += [fault.what for fault in self._unseeing()]
        changed = set(self._unclear_in(tables)) ^ set(self._unclear)
        differences += self._marks_changed(reading.marks)
        differences += sorted(f"another program's rules changed: {fault.what}" for fault in changed)
        if differences:
            self._looked_at = None
        elif reading.known is None:
            self._looked_at = {
                f: {c: r for c, r in now.items() if not names.is_ours(c)} for f, now in tables.items()
            }
        if self._transit.seen(self._ipsets):
            differences.append("the node sends packets of others, which are not judged yet")
        if self._untracked.changed(self._ipsets):
            differences.append("whether packets are denied that are not tracked changed")
        in_kernel = self._sets.sizes_in_kernel()
        for name, size in self._sets.sizes.items():
            if name not in in_kernel:
                differences.append(f"set {name} is gone")
            elif in_kernel[name] not in (None, size) and not names.changes_by_itself(name):
                differences.append(f"set {name} has {count(in_kernel[name] or 0, 'member')}, not {size}")
        if not self._failed:
            differences += self._exchanged(program, in_kernel.keys())
        if self.moved() or self._planner.uplinks(program) != self._desired.uplinks:
            differences.append("the node's interfaces, or where they lead, changed")
        return differences

    def _exchanged(self, program: Program, present: Set[str]) -> list[str]:
        """Return the sets that hold other members than the program says, of those looked at this time."""
        isolated: dict[str, Callable[[], Iterable[Member]]] = {
            self._naming.isolated_set(d, f): functools.partial(program.isolated, d, f)
            for d in Direction
            for f in self.families
        }
        others: dict[str, Callable[[], Iterable[Member]]] = {
            name: functools.partial(program.sets.__getitem__, set_id)
            for set_id, name in self._planner.set_names.items()
            if set_id in program.sets
        }
        for family in self.families:
            nodes = names.nodes_set(family)
            others[nodes] = functools.partial(network_members, program.bypass, family)
        # What a set holds that nothing needs any more says nothing.
        needed = present - self._sets.garbage
        return self._spot_check.differences(
            {name: wanted for name, wanted in isolated.items() if name in needed},
            {name: wanted for name, wanted in others.items() if name in needed},
        )

    def view(self) -> KernelView:
        chains = {
            f"{chain}/{int(family)}": len(rules)
            for family in self.families
            for chain, rules in self._chains.whole[family].copy().items()
            if names.is_ours(chain)
        }
        sizes = self._sets.sizes.copy()
        named = self._planner.set_names.copy()
        return KernelView(chains, {s: (name, sizes[name]) for s, name in named.items() if name in sizes})

    def close(self) -> None:
        """Let go of the kernel; what it holds stays. A command that still runs is killed."""
        self._driver.close()
        self._cache.close()
        self._chains.tables.close()
        self._ipsets.close()
        self._netlink.close()

    def _choose_marks(self, uses: list[Use] | None) -> Options:
        """Return the options with bits that nobody else uses; go on with those in the kernel until later."""
        held = marks.held_by(map(self._chains.ours, self.families))
        choice = marks.choose(self._options, uses or [], held)
        self._mark_faults = choice.faults
        chosen = self._options.with_marks(choice.bits)
        whole = len(held) == len(Direction)
        self._desired.options = self._options.with_marks(held) if whole else chosen
        return chosen

    def _remark(self, program: Program, chosen: Options) -> Work[list[Fault]]:
        """Have the rules use other bits of marks, all of a family's from the same moment on."""
        before = self._desired.options
        if before == chosen or self._writer.pending is not None:
            # What was put off has been rendered with the bits before: the next look for drift finds it.
            return []
        _log.warning(
            "other bits of packets' marks",
            before=f"{before.both_marks:#x}",
            now=f"{chosen.both_marks:#x}",
            detail="another program's rules use some of the bits before",
        )
        self._desired.options = chosen
        chains: Changes = {family: {**wanted} for family, wanted in self._desired.full(program).items()}
        faults = yield from self._writer.carry_out(Step(chains), certain=not self._failed, lenient=True)
        held = [options for family in self.families if (options := self._held_marks(family))]
        if faults and chosen not in held and self._writer.pending is None:
            # What changes until the next try has to fit the rules that are there.
            self._desired.options = before
            self._desired.full(program)
        return faults

    def _held_marks(self, family: Family) -> Options | None:
        held = marks.held_by([self._chains.ours(family)])
        return self._options.with_marks(held) if len(held) == len(Direction) else None

    def _marks_changed(self, uses: list[Use] | None) -> list[str]:
        if uses is None:
            return []
        now = self._desired.options
        choice = marks.choose(self._options, uses, {d: now.mark(d) for d in Direction})
        if self._options.with_marks(choice.bits) != now:
            return [f"another program uses bits of the agent's in packets' marks ({now.both_marks:#x})"]
        changed = set(choice.faults) ^ set(self._mark_faults)
        return sorted(f"who uses bits of packets' marks changed: {fault.what}" for fault in changed)

    def _unclear_in(self, tables: Mapping[Family, Table]) -> list[Fault]:
        return [
            fault for family, table in tables.items() for fault in builtin.unclear(self.mode, family, table)
        ]

    def _unseeing(self) -> list[Fault]:
        if self.mode != "nft":
            return []
        needed = {family: hooks.needed(self._chains.needed(family)) for family in self.families}
        return builtin.unseeing(self._netlink, needed)

    def _writes(self) -> int:
        return self._chains.writes + self._sets.writes

    def _report(
        self, started: float, writes: int, faults: list[Fault], harmless: Iterable[Fault] = ()
    ) -> Report:
        """Report what a call did; harmless faults are told, but no reason to try again."""
        self._failed = self._failed or bool(faults)
        fights = [fault for fault in (self._contention.fault(), self._removals.fault()) if fault is not None]
        shown = (
            *faults,
            *harmless,
            *self._unclear,
            *self._mark_faults,
            *self._leftovers,
            *self._cache.faults,
            *fights,
            *self._edge_faults,
        )
        seconds = time.perf_counter() - started
        standing = tuple(self._writer.closed.faults(self._chains.why))
        return Report(seconds, self._writes() - writes, bool(faults), shown, self._refused, standing=standing)

    def _stranger(self, tables: Iterable[Table]) -> Fault | None:
        """Look for kube-router's firewall in these tables."""
        return None if self._beside_kube_router else kube_router_fault(tables)

    def _referred_elsewhere(
        self, reading: TablesReading, content: Mapping[str, SetContent]
    ) -> frozenset[str]:
        """Return the sets that our rules in the other mode may refer to."""
        if self._other_mode_left:
            return frozenset()
        return cleanup.sets_referred_to(reading.elsewhere, reading.elsewhere_errors, content)

    def _referred_unread(self, content: Mapping[str, SetContent]) -> frozenset[str]:
        """Return the sets of the families of which it cannot be told which of them our rules refer to."""
        whole, unread = self._chains.whole, self._chains.unread
        unclear = {f for f in self.families if f in unread or cleanup.is_unclear(whole[f])}
        return frozenset(name for name, held in content.items() if held.shape.family in unclear)

    def _remove_leftovers(self) -> None:
        """Remove what an earlier run left in the other mode; what cannot be is told, and tried rarely."""
        if self._other_mode_left or self._now() < self._leftovers_at:
            return
        self._leftovers = self._access.remove(self._other_mode, self.families)
        self._other_mode_left = not self._leftovers
        self._leftovers_at = self._now() + LEFTOVERS_PAUSE

    def _place_hooks(self) -> Work[list[Fault]]:
        """Put our rules in front in the built-in chains, where they are missing or could be passed by."""
        lines: dict[Family, list[str]] = {}
        by_netlink: dict[Family, dict[str, tuple[str, list[int]]]] = {}
        displaced: list[str] = []
        removed: list[str] = []
        for family in self.families:
            if family in self._chains.unread:
                continue
            table = self._chains.whole[family]
            wanted = {}
            garbage = self._chains.garbage[family]
            for chain, why in hooks.misplaced(table, garbage).items():
                missing = hooks.missing(table, chain)
                if not missing and not self._contention.due():
                    continue
                wanted[chain] = why
                if not missing or (family, chain) in self._hooked:
                    (removed if missing else displaced).append(f"IPv{int(family)} {chain}: {why}")
            unlike = builtin.unlike(self._netlink, family, table, wanted) if self.mode == "nft" else {}
            lines[family] = hooks.place(table, {c: why for c, why in wanted.items() if c not in unlike})
            lines[family] += hooks.unneeded(table, garbage)
            by_netlink[family] = {c: (hooks.HOOKS[c], handles) for c, handles in unlike.items()}
        if displaced:
            self._contention.put_back(displaced)
        if removed:
            self._removals.put_back(removed)
        if displaced or removed:
            _log.warning("hooks put back in front", reasons=displaced + removed)
        faults = yield from self._chains.run(lines)
        for family, placed in by_netlink.items():
            faults += self._chains.put_in_front(family, placed)
        if not faults:
            self._hooked = {(f, c) for f in self.families for c in hooks.needed(self._chains.needed(f))}
        return faults


def _into(faults: list[Fault], work: Work[list[Fault]]) -> Work[None]:
    faults += yield from work
