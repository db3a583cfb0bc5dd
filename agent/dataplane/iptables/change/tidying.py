"""Removing what nothing needs any more, in the order in which that can be done."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from agent.dataplane.iptables.change.executor import Executor
from agent.dataplane.iptables.change.planner import plan_switch_back
from agent.dataplane.iptables.change.refit import plan_prune
from agent.dataplane.iptables.held import Held
from agent.dataplane.iptables.ipset.sets import KernelSets
from agent.dataplane.iptables.tables.chain_writer import ChainWriter
from agent.dataplane.turns import Work
from agent.fault import Fault
from agent.kernel.ipset_errors import SetError
from agent.policy.lower.lowered import LoweredProgram


class Tidying:
    """What steps leave behind: switched sets, trees with room for nobody, garbage, vacant addresses."""

    def __init__(self, held: Held, executor: Executor, rules: ChainWriter, sets: KernelSets) -> None:
        self._held = held
        self._executor = executor
        self._rules = rules
        self._sets = sets

    def due(self) -> bool:
        """Whether there is anything to do."""
        return bool(
            self._held.names.any_switched
            or self._held.drawn.prunable
            or any(self._held.chains.garbage.values())
            or self._held.sets.garbage
            or self._held.tracked.vacant
        )

    def parts(
        self, program: LoweredProgram, faults: list[Fault], left: list[Fault], *, certain: bool
    ) -> Iterator[Callable[[], Work[None]]]:
        """Yield what there is to do, in the order in which it can be done.

        What cannot be removed does no harm: it is told in ``left``, and left for the next time. ``certain``:
        nothing failed since the last sync.
        """
        faults.extend(self._executor.connections.forget_vacant())
        if certain:
            # A sync does both of these: while one is due, what they would change is not known to be there.
            if self._held.names.any_switched:
                yield lambda: self._switch_back(program, faults)
            yield lambda: self._prune(faults)
        yield lambda: _into(left, self._rules.sweep())
        left.extend(self._sets.sweep())

    def _prune(self, faults: list[Fault]) -> Work[None]:
        # A step that was put off meanwhile goes by the trees as they are, and its chains are not there yet.
        if self._executor.pending is None:
            step = plan_prune(self._held)
            faults += yield from self._executor.carry_out(step, certain=True)

    def _switch_back(self, program: LoweredProgram, faults: list[Fault]) -> Work[None]:
        try:
            step = plan_switch_back(self._held, program)
            faults += yield from self._executor.carry_out(step, certain=True)
        except SetError as error:
            faults.append(error.fault())


def _into(faults: list[Fault], work: Work[list[Fault]]) -> Work[None]:
    faults += yield from work
