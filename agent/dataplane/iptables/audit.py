"""Looking at what the kernel holds, and comparing it with what was left there."""

from __future__ import annotations

from agent.dataplane.backend import Reading
from agent.dataplane.differences import Difference, What
from agent.dataplane.iptables import edges
from agent.dataplane.iptables.access import Access
from agent.dataplane.iptables.edges import Uplinks
from agent.dataplane.iptables.held import Held
from agent.dataplane.iptables.ipset.sets import KernelSets
from agent.dataplane.iptables.ipset.transit import Transit
from agent.dataplane.iptables.ipset.untracked import Untracked
from agent.dataplane.iptables.ipset.watch import all_compared
from agent.dataplane.iptables.member_look import isolated
from agent.dataplane.iptables.other_mode import OtherMode
from agent.dataplane.iptables.placement import Placement
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.tables.chain_writer import ChainWriter
from agent.dataplane.iptables.tables.foreign_rules import ForeignRules
from agent.dataplane.iptables.tables.marks import MarkBits
from agent.dataplane.iptables.tables.markuse import Use
from agent.dataplane.iptables.tables.readback import TablesReading
from agent.kernel.ipset import IpSets
from agent.policy.lower.lowered import LoweredProgram
from agent.words import count


class Audit:
    """Reads the kernel and says what differs from the record of it. Writes nothing there.

    Remembers whether others' chains were seen, and all was well, so that they are not read again as long as
    the kernel says that nobody wrote.
    """

    def __init__(
        self,
        access: Access,
        other_mode: OtherMode,
        rules: ChainWriter,
        placement: Placement,
        foreign: ForeignRules,
        marks: MarkBits,
        held: Held,
        uplinks: Uplinks,
        sets: KernelSets,
        ipsets: IpSets,
        transit: Transit,
        untracked: Untracked,
    ) -> None:
        self._look = access.look
        self._other_mode = other_mode
        self._rules = rules
        self._chains = held.chains
        self._placement = placement
        self._foreign = foreign
        self._marks = marks
        self._held = held
        self._uplinks = uplinks
        self._sets = sets
        self._ipsets = ipsets
        self._transit = transit
        self._untracked = untracked
        self._foreign_seen = False
        """Whether the record of others' chains is what was last seen, and nothing was wrong with them."""

    def disturbed(self) -> bool:
        """Whether somebody else wrote rules since they were last read, or a packet left a trace.

        Also where a rule of ours had to wait before it is put in front again, and has waited.
        """
        met = self._transit.seen(self._ipsets) or self._untracked.changed(self._ipsets, self._held.untracked)
        return self._rules.watch.changed() or met or self._placement.overdue()

    def begin(self, *, afresh: bool = False) -> TablesReading:
        """Begin a look: what others write from now on is new. Return what reads the rules.

        ``afresh``: though the kernel says that nobody wrote.
        """
        rules, chains = self._rules, self._chains
        known = None
        if not afresh and self._foreign_seen and rules.watch.certain():
            known = chains.tables()
        else:
            # What somebody wrote is seen only when these tables are looked at; until then nothing is known.
            self._foreign_seen = False
            rules.watch.mark()
        return TablesReading(
            rules.tables,
            chains.families,
            rules.writes,
            rules.watch.marked,
            known,
            self._marks.uses,
            self._other_mode.read,
        )

    def take(self, reading: Reading | None) -> TablesReading | None:
        """Return a finished reading for a sync to go by, if the kernel surely holds what it has found.

        Where others wrote since it was begun, or that cannot be told, all has to be read again.
        """
        self._foreign_seen = False
        if not isinstance(reading, TablesReading) or not reading.whole:
            return None
        unwritten = reading.writes == self._rules.writes and self._chains.sure
        return reading if unwritten and self._rules.watch.certain_since(reading.marked) else None

    def overtaken(self, reading: Reading) -> bool:
        """Whether this agent wrote rules since a reading was begun, so that it says nothing."""
        if not isinstance(reading, TablesReading):
            return True
        return reading.known is None and reading.writes != self._rules.writes

    def found(self, reading: TablesReading) -> tuple[Difference, ...]:
        """Return which of our rules are not as they were left, for a sync that puts them back.

        To be asked before what was read is taken in, and only where nothing failed since the last sync.
        """
        if not self._chains.sure:
            return ()
        told: list[Difference] = []
        for family, now in reading.tables().items():
            told += self._chains.changed(family, now)
            told += [
                Difference(What.HOOK, family, chain, why) for chain, why in self._placement.due(family, now)
            ]
        return tuple(told)

    def compare(self, program: LoweredProgram, reading: TablesReading, *, certain: bool) -> list[Difference]:
        """Return what differs; raises SetError.

        ``certain``: nothing failed since the last sync.
        """
        differences = self._compare_rules(reading)
        if differences:
            self._foreign_seen = False
        elif reading.known is None and reading.marked == self._rules.watch.marked:
            # Else a sync came in between, and has read what is newer.
            self._chains.take_foreign(reading.tables())
            self._foreign_seen = True
        if self._transit.seen(self._ipsets):
            differences.append(Difference(What.TRANSIT))
        if self._untracked.changed(self._ipsets, self._held.untracked):
            differences.append(Difference(What.UNTRACKED))
        in_kernel = self._sets.sizes_in_kernel()
        differences += self._sizes(in_kernel)
        if certain:
            wanted = isolated(self._held, program, self._chains.families)
            there = wanted.keys() & in_kernel.keys() - self._held.sets.garbage
            differences += all_compared({name: wanted[name] for name in there}, self._ipsets.members)
        if edges.moved(self._held.node, self._look) or self._uplinks.rerouted(self._held.node, program):
            differences.append(Difference(What.INTERFACES))
        return differences

    def _compare_rules(self, reading: TablesReading) -> list[Difference]:
        tables = reading.tables()
        differences: list[Difference] = []
        if self._foreign.refusal([*tables.values(), *reading.elsewhere.values()]) is not None:
            differences.append(Difference(What.REFUSED))
        for family, error in reading.errors.items():
            differences.append(Difference(What.RULES_UNREAD, family, detail=str(error)))
        for family, now in tables.items():
            if reading.known is None:
                differences += self._chains.changed(family, now)
            for chain, why in self._placement.due(family, now):
                differences.append(Difference(What.HOOK, family, chain, why))
        differences += [Difference(What.UNSEEING, detail=fault.what) for fault in self._foreign.unseeing()]
        differences += self._marks_changed(reading.marks)
        changed = sorted(fault.what for fault in self._foreign.changed(tables))
        differences += [Difference(What.OTHERS_RULES, detail=what) for what in changed]
        return differences

    def _marks_changed(self, uses: list[Use] | None) -> list[Difference]:
        if uses is None:
            return []
        now = self._held.node.options
        if self._marks.rechosen(uses, now):
            return [Difference(What.MARKS_USED, detail=f"{now.both_marks:#x}")]
        changed = sorted(fault.what for fault in self._marks.changed(uses, now))
        return [Difference(What.MARK_USERS, detail=what) for what in changed]

    def _sizes(self, in_kernel: dict[str, int | None]) -> list[Difference]:
        """Return the sets that are gone, or have another number of members than was left there.

        How many are in a set is not known where a change of it has failed.
        """
        differences = []
        for name, size in self._held.sets.sizes.items():
            if name in self._held.sets.doubtful:
                continue
            if name not in in_kernel:
                differences.append(Difference(What.SET_GONE, name=name))
            elif in_kernel[name] not in (None, size) and not names.changes_by_itself(name):
                detail = f"{count(in_kernel[name] or 0, 'member')}, not {size}"
                differences.append(Difference(What.SET_SIZE, name=name, detail=detail))
        return differences
