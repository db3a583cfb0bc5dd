"""What people are told of policies that are over budget."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import groupby

from agent.fault import Fault
from agent.kube.model import Key
from agent.policy.budget.excess import Excess

NAMED = 3
"""So many policies of a namespace are told one by one, in faults and in the log; the rest are counted."""


def faults(excess: Mapping[Key, Excess]) -> tuple[Fault, ...]:
    """Return a fault for each policy that is not enforced as written; of each namespace the first few."""
    return tuple(_faults(excess))


def _faults(excess: Mapping[Key, Excess]) -> Iterator[Fault]:
    for namespace, keys in groupby(sorted(excess), key=lambda key: key.namespace):
        first = list(keys)
        for key in first[:NAMED]:
            yield fault(key, excess[key])
        if len(first) > NAMED:
            yield Fault(
                f"{len(first) - NAMED:,} more policies of namespace {namespace} are over budget: "
                "they isolate their pods and allow nothing",
                "netpol-agent status --json names all of them",
                blocking=False,
            )


def fault(key: Key, excess: Excess) -> Fault:
    """Return the fault that tells of one policy."""
    if excess.whole:
        remedy = "delete or merge policies of the namespace (the newest close first), or raise the budget"
    else:
        remedy = f"write it with fewer {_MADE_BY[excess.what]}, or raise the budget"
    what = f"NetworkPolicy {key} is over budget, so it isolates its pods and allows nothing: {excess}"
    return Fault(what, remedy, blocking=False)


_MADE_BY = {
    "rules": "rules, peers and ports",
    "sets": "rules that have peers or named ports of their own",
    "networks": "ipBlocks and excepts",
    "members": "selectors, or ones that match fewer pods",
    "selectors": "peers, labels in their selectors, and named ports",
}
