"""Why a policy is not enforced as written.

Whoever may write policies writes the compiler's input. So everything that a policy makes here is counted from
its text first, and a policy for which there is no budget is not compiled: it isolates the pods it selects, in
the directions it names, and allows nothing. Of a namespace the oldest policies are kept: one that is added
takes nothing from those before it.
"""

from __future__ import annotations

from typing import NamedTuple

from agent.policy.budget.limits import PolicyBudget
from agent.policy.lower.cost import Cost, What

MEMBERS = "members"


class Excess(NamedTuple):
    """Why a policy is not enforced as written: how much of ``what`` is needed, and how much there may be.

    ``whole``: the namespace's budget is meant, and ``needed`` is what it needs with this policy; else the
    policy's own. Of members no more are counted than tell that they are too many. ``stays``: it is closed
    already, and stays so until less than the limit is needed.
    """

    what: str
    needed: int
    limit: int
    whole: bool
    stays: bool = False

    def __str__(self) -> str:
        what = f"{self.what} of sets or more" if self.what == MEMBERS else self.what
        most = f"of {self.limit:,} {'before it opens again' if self.stays else 'at most'}"
        if self.whole:
            return (
                f"its namespace's policies would need {self.needed:,} {what} on this node with it, "
                f"{most} (--namespace-budget)"
            )
        return f"it needs {self.needed:,} {what}, {most} (--policy-budget)"


def own_excess(cost: Cost[What], budget: PolicyBudget) -> Excess | None:
    """Return what of a policy is more than one policy may have; None when nothing is."""
    for what, needed, limit in (
        ("rules", cost.rules, budget.rules),
        ("sets", len(cost.sets), budget.sets),
        ("networks", cost.networks, budget.networks),
        ("selectors", cost.selectors, budget.selectors),
    ):
        if needed > limit:
            return Excess(what, needed, limit, whole=False)
    return None
