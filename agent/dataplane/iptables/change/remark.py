"""Having all rules use other bits of packets' marks."""

from __future__ import annotations

from agent import log
from agent.dataplane.iptables.change.executor import Executor
from agent.dataplane.iptables.change.refit import plan_remark
from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.tables.marks import MarkBits
from agent.dataplane.turns import Work
from agent.fault import Fault
from agent.policy.lower.lowered import LoweredProgram

_log = log.get(__name__)


def remark(
    program: LoweredProgram, chosen: Options, executor: Executor, marks: MarkBits, *, certain: bool
) -> Work[list[Fault]]:
    """Have the rules use the bits that were chosen, all of a family's from the same moment on."""
    held = executor.held
    before = held.node.options
    if before == chosen or executor.pending is not None:
        # What was put off has been rendered with the bits before: the next look for drift finds it.
        return []
    _log.warning(
        "other bits of packets' marks",
        before=f"{before.both_marks:#x}",
        now=f"{chosen.both_marks:#x}",
        detail="another program's rules use some of the bits before",
    )
    step = plan_remark(held, program, chosen)
    faults = yield from executor.carry_out(step, certain=certain, lenient=True)
    if faults and chosen not in marks.held() and executor.pending is None:
        # What changes until the next try has to fit the rules that are there.
        held.take_over(plan_remark(held, program, before).revision)
    return faults
