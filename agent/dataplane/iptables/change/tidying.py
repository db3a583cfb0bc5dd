"""Removing what nothing needs any more, in the order in which that can be done."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from agent.dataplane.iptables.change.executor import Executor
from agent.dataplane.iptables.change.planner import Planner
from agent.dataplane.iptables.ipset.sets import KernelSets
from agent.dataplane.iptables.tables.chain_writer import ChainWriter
from agent.dataplane.turns import Work
from agent.fault import Fault
from agent.kernel.ipset_errors import SetError
from agent.policy.lower.lowered import LoweredProgram


class Tidying:
    """What steps leave behind: switched sets, trees with room for nobody, garbage, vacant addresses."""

    def __init__(self, planner: Planner, writer: Executor, rules: ChainWriter, sets: KernelSets) -> None:
        self._planner = planner
        self._writer = writer
        self._rules = rules
        self._sets = sets

    def due(self) -> bool:
        """Whether there is anything to do."""
        return bool(
            self._planner.switched
            or self._planner.desired.prunable
            or any(self._rules.chains.garbage.values())
            or self._sets.garbage
            or self._writer.vacant
        )

    def parts(
        self, program: LoweredProgram, faults: list[Fault], left: list[Fault], *, certain: bool
    ) -> Iterator[Callable[[], Work[None]]]:
        """Yield what there is to do, in the order in which it can be done.

        What cannot be removed does no harm: it is told in ``left``, and left for the next time. ``certain``:
        nothing failed since the last sync.
        """
        faults.extend(self._writer.forget(self._writer.vacant))
        if certain:
            # A sync does both of these: while one is due, what they would change is not known to be there.
            if self._planner.switched:
                yield lambda: self._switch_back(program, faults)
            yield lambda: _into(faults, self._rules.write(self._planner.desired.prune()))
        yield lambda: _into(left, self._rules.sweep())
        left.extend(self._sets.sweep())

    def _switch_back(self, program: LoweredProgram, faults: list[Fault]) -> Work[None]:
        try:
            step = self._planner.switch_back(program)
            faults += yield from self._writer.carry_out(step, certain=True)
        except SetError as error:
            faults.append(error.fault())


def _into(faults: list[Fault], work: Work[list[Fault]]) -> Work[None]:
    faults += yield from work
