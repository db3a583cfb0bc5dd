"""Whether the kernel enforces what the program says of one pod, by the record of what was written.

Other writes may have failed, or may not have been made yet: only what this pod's verdicts depend on counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set

from agent.dataplane.iptables.change.pending import touched
from agent.dataplane.iptables.change.step import Step
from agent.dataplane.iptables.held import Held
from agent.dataplane.iptables.ipset.closed import leaves
from agent.dataplane.iptables.rules import names
from agent.kube.model import Key
from agent.net import Direction, Family, Member, family_of, member_address
from agent.policy.lower.lowered import LoweredProgram
from agent.policy.program import PodId, PodProgram, PolicyId

_SHARED = (names.TOP_PREFIX, names.TREE_PREFIX)
"""Chains that packets of every pod pass, but for those of audited pods, which deny nothing."""
_AUDITS = (names.AUDIT_POD_PREFIX, names.AUDIT_TREE_PREFIX)


def enforces(
    held: Held, steps: Iterable[Step], program: LoweredProgram, pod: Key, addresses: Iterable[bytes]
) -> bool:
    """Whether packets of a pod with these addresses meet what the program says, and nothing else.

    ``steps`` are those that are being made, or wait to be. In doubt it is False: a chain may be about to
    change that every pod's packets pass, such as one of the tree that leads to the pods.
    """
    steps = tuple(steps)
    unsure = held.sets.doubtful | {name for step in steps for name in _sets_of(step)}
    by_family: dict[Family, list[bytes]] = {}
    for address in addresses:
        by_family.setdefault(family_of(address), []).append(address)
    for family in by_family.keys() & set(held.chains.families):
        unwritten = held.chains.unwritten(family) | {c for s in steps for c in s.chains.get(family, ())}
        look = _Look(held, program, family, frozenset(unsure), frozenset(unwritten))
        if not all(look.enforces(PodId(direction, pod), by_family[family]) for direction in Direction):
            return False
    return True


class _Look:
    """A look at one family. ``unsure`` sets and ``unwritten`` chains may not be as they are to be."""

    def __init__(
        self,
        held: Held,
        program: LoweredProgram,
        family: Family,
        unsure: frozenset[str],
        unwritten: frozenset[str],
    ) -> None:
        self._held = held
        self._program = program
        self._family = family
        self._unsure = unsure
        self._unwritten = unwritten

    def enforces(self, pod: PodId, addresses: list[bytes]) -> bool:
        held, family, direction = self._held, self._family, pod.direction
        if family in held.chains.unread or any(map(_is_shared, self._unwritten)):
            return False
        if not held.closed.get((direction, family), frozenset()).isdisjoint(addresses):
            return False
        if not held.tracked.unforgotten.isdisjoint(addresses) or not self._admits(addresses):
            return False
        isolated = held.names.isolated_set(direction, family)
        if isolated in self._unsure and isolated in held.sets.shapes:
            return False
        compiled = self._program.pods.get(pod)
        return compiled is None or self._judges(pod, compiled, set(addresses))

    def _admits(self, addresses: list[bytes]) -> bool:
        """Whether the addresses are known in the kernel, where those that are not are closed."""
        closing, known = self._held.names.closing.get(self._family), self._program.known
        if closing is None or known is None:
            return True
        missing = self._held.unadmitted
        return closing.known not in self._unsure and not any(a in known and a in missing for a in addresses)

    def _judges(self, pod: PodId, compiled: PodProgram, addresses: Set[bytes]) -> bool:
        """Whether the tree leads these addresses to the pod's chain, and all is there that this asks."""
        found = leaves(self._held.chains.held[self._family], pod.direction, self._family)
        chain = names.pod_chain(pod)
        owned = addresses & {*compiled.addresses}
        if any(address not in found or found[address].target != chain for address in owned):
            return False
        return self._is_written(chain) and all(
            self._allows(PolicyId(pod.direction, policy)) for policy in compiled.policies
        )

    def _is_written(self, first: str) -> bool:
        """Whether a pod's chain and all that it leads to are as they are to be."""
        chains = self._held.chains
        seen, waiting = {first}, [first]
        while waiting:
            chain = waiting.pop()
            if chain in self._unwritten or not chains.stays(self._family, chain):
                return False
            for rule in chains.held[self._family][chain]:
                if rule.target.startswith(names.JUMPED_TO) and rule.target not in seen:
                    seen.add(rule.target)
                    waiting.append(rule.target)
        return True

    def _allows(self, policy: PolicyId) -> bool:
        """Whether the sets of a policy have the members that they are to have."""
        compiled = self._program.policies.get(policy)
        if compiled is None:
            return True
        held, unforgotten = self._held, self._held.tracked.unforgotten
        for set_id in {set_id for rule in compiled.rules(self._family) for set_id in rule.sets()}:
            name = held.names.peer_set(set_id)
            if name not in held.sets.shapes or name in self._unsure:
                return False
            if unforgotten and _has_any(self._program.sets.get(set_id, ()), unforgotten):
                return False
        return True


def _is_shared(chain: str) -> bool:
    return chain.startswith(_SHARED) and not chain.startswith(_AUDITS)


def _has_any(members: Iterable[Member], addresses: Set[bytes]) -> bool:
    return any(member_address(member) in addresses for member in members)


def _sets_of(step: Step) -> Iterator[str]:
    yield from touched(step)
    yield from step.fresh
