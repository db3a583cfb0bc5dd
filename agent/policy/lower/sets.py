"""The program's sets: which are needed, who is in them, and what one step changed."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from itertools import chain
from typing import NamedTuple

from agent.net import AddressPort, Family, Member, family_of, member_address
from agent.policy.addresses.ownership import Ownership
from agent.policy.graph import ActiveSelector, Identity, PodRecord
from agent.policy.lower.blocks import in_ranges
from agent.policy.lower.live import Definition, LiveSet, Networks, PeerPods
from agent.policy.lower.lowered import Membership, SetId
from agent.policy.lower.named import NamedPorts
from agent.policy.peers.active_selectors import ActiveSelectors, Link

MANY = 1_000
"""A set with more members is forgotten when there is time for it."""


class Hidden(NamedTuple):
    """A set of pods that is in no program any more, as it was before the step.

    ``members`` are those of now, not copied: there may be thousands. ``before``: whether those that the step
    has touched were in. ``ports``: whether they are ports of addresses.
    """

    members: AbstractSet[Member]
    before: Mapping[Member, bool]
    ports: bool

    def had(self, addresses: Collection[bytes]) -> set[bytes]:
        """Return of which addresses there were members."""
        if not self.ports:
            return {address for address in addresses if self.before.get(address, address in self.members)}
        were = chain(self.members - self.before.keys(), (m for m, was in self.before.items() if was))
        return {found for m in were if (found := member_address(m)) is not None and found in addresses}


@dataclass
class _Filling:
    """What a set has not been given yet: terms to be matched, groups that these match, or addresses."""

    unmatched: list[ActiveSelector] = field(default_factory=list)
    groups: list[tuple[ActiveSelector, list[Identity]]] = field(default_factory=list)
    addresses: list[bytes] = field(default_factory=list)


class Sets:
    """Keeps the members of every set in use true, and remembers what they were before the step.

    Handles: an address entering or leaving the hands of a pod, a group entering or leaving a term, a set
    gaining its first and losing its last user. Sets come and go only between changes of members, once in a
    step, so that the members of a set that stays are compared with what the last step left.
    """

    def __init__(
        self, program_sets: dict[SetId, set[Member]], terms: ActiveSelectors, ownership: Ownership
    ) -> None:
        self._program_sets = program_sets
        self._selectors = terms
        self._ownership = ownership
        self._live: dict[SetId, LiveSet] = {}
        self.named = NamedPorts()
        """Sets of all pods that have a named port; those of a term hang on the term."""
        self._fed: dict[ActiveSelector, tuple[list[LiveSet], list[LiveSet]]] = {}
        """The sets that ask for pods of a term, by family: of IPv4 and of IPv6."""
        self._filling: dict[LiveSet, _Filling] = {}
        """The sets that are being filled some members at a time."""
        self._changed: dict[LiveSet, dict[Member, bool]] = {}
        """Members touched in this step, and whether they were in before it."""
        self._leaving: dict[SetId, None] = {}
        """Sets with many members that no policy asks for any more, which take long to forget."""
        self.touched = 0
        """How many sets addresses were held against, over all."""

    def replace_ports(self, old: PodRecord | None, new: PodRecord | None) -> None:
        """Take one version of a live pod for another as a pod that has its named ports."""
        if old is not None:
            self.named.remove_pod(old)
        if new is not None:
            self.named.add_pod(new)

    def enter(self, record: PodRecord, address: bytes) -> None:
        """Put an address that a pod now owns into every set that the pod belongs in."""
        for live in self._sets_of(record, address):
            for member in _members(live, record, address):
                if member not in live.members:
                    self._note(live, member, False)
                    live.members.add(member)

    def leave(self, record: PodRecord, address: bytes) -> None:
        """Take an address that a pod no longer owns out of every set that the pod belonged in."""
        for live in self._sets_of(record, address):
            for member in _members(live, record, address):
                if member in live.members:
                    self._note(live, member, True)
                    live.members.remove(member)

    def relink(self, links: Iterable[Link]) -> None:
        """Move the pods of groups that changed sides of terms.

        A set may have thousands of terms that changed sides together: it is held against a group once.
        """
        settled: set[tuple[LiveSet, Identity]] = set()
        pods: dict[Identity, list[tuple[PodRecord, bytes]]] = {}
        for term, group, matched in links:
            owned = pods.get(group)
            if owned is None:
                owned = pods[group] = list(self._owned_in(group))
            for live in chain.from_iterable(self._fed[term]):
                if (live, group) in settled:
                    continue
                settled.add((live, group))
                # Where one no longer means these pods, another of the peers that share the set still may.
                wanted = matched or live.wants(group)
                self._move(live, owned, wanted=wanted)

    def _move(self, live: LiveSet, owned: Iterable[tuple[PodRecord, bytes]], *, wanted: bool) -> None:
        """Have the members that addresses make be in a set, or not."""
        family = live.id.family
        for record, address in owned:
            if family_of(address) is not family:
                continue
            self.touched += 1
            for member in _members(live, record, address):
                if (member in live.members) is wanted:
                    continue
                self._note(live, member, not wanted)
                if wanted:
                    live.members.add(member)
                else:
                    live.members.remove(member)

    def acquire(self, set_id: SetId, definition: Definition) -> None:
        """Count one more policy that asks for a set, and have it filled."""
        self.begin(set_id, definition)
        self.fill(set_id, None)

    def begin(self, set_id: SetId, definition: Definition) -> None:
        """Count one more policy that asks for a set; one of pods that is new has still to be filled."""
        live = self._live.get(set_id)
        if live is not None:
            if not live.references:
                del self._leaving[set_id]
            live.references += 1
            return
        predicates = definition.predicates if isinstance(definition, PeerPods) else ()
        live = LiveSet(set_id, definition, [self._selectors.begin(predicate) for predicate in predicates])
        self._live[set_id] = live
        live.references = 1
        if isinstance(definition, Networks):
            live.members.update(definition.members)
            return
        # From now on it is told of all that comes and goes.
        for term in live.terms:
            self._fed.setdefault(term, ([], []))[_place(set_id.family)].append(live)
        if live.terms:
            self._filling[live] = _Filling(list(live.terms))
        elif live.ports is not None:
            self.named.add_set(live)
            self._filling[live] = _Filling(addresses=self._holding(live))

    def fill(self, set_id: SetId, most: int | None) -> int:
        """Fill a set some more: hold about so many groups against its terms, or put so many members in.

        ``most``: None: all. Return how many these were; 0: the set is whole.
        """
        live = self._live[set_id]
        filling = self._filling.get(live)
        if filling is None:
            return 0
        done = 0
        while most is None or done < most:
            left = None if most is None else most - done
            if filling.unmatched:
                matched = self._selectors.go_on(filling.unmatched[-1], left)
                if not matched:
                    term = filling.unmatched.pop()
                    filling.groups.append((term, list(term.groups)))
                done += matched
            elif filling.groups:
                term, groups = filling.groups[-1]
                some = _taken(groups, left)
                done += self._put(live, (r for group in some if group in term.groups for r in group.pods))
                if not groups:
                    filling.groups.pop()
            elif filling.addresses:
                taken = filling.addresses[-left:] if left is not None else filling.addresses
                filling.addresses = filling.addresses[: -len(taken)]
                owners = self._ownership.owners
                self._put(live, (record for a in taken if (record := owners.get(a)) is not None))
                done += len(taken)
            else:
                del self._filling[live]
                break
        return done

    def _put(self, live: LiveSet, records: Iterable[PodRecord]) -> int:
        """Put what pods' addresses make into a set; return how many pods these were."""
        owners, size = self._ownership.owners, live.id.family.bits // 8
        pods = list(records)
        owned = (
            (record, address)
            for record in pods
            for address in record.pod.addresses
            if len(address) == size and owners.get(address) is record
        )
        if live.ports is None:
            live.members.update(address for _, address in owned)
        else:
            live.members.update(m for r, a in owned for m in _members(live, r, a))
        return len(pods)

    def _holding(self, live: LiveSet) -> list[bytes]:
        """Return the addresses of the pods that have ports of a set; of records there may be newer ones."""
        size = live.id.family.bits // 8
        found = (a for record in self.named.holders(live) for a in record.pod.addresses if len(a) == size)
        return list(dict.fromkeys(found))

    def release(self, set_id: SetId) -> None:
        """Count one policy less that asks for a set, in whose program it is no more.

        One with many members, of which it was the last, is there until :meth:`forget` has come to it.
        """
        live = self._live[set_id]
        live.references -= 1
        if live.references:
            return
        if len(live.members) > MANY:
            self._leaving[set_id] = None
        else:
            self._remove(live)

    def forget(self, most: int | None) -> None:
        """Forget sets that no policy asks for, of about so many members; None: all."""
        forgotten = 0
        while self._leaving and (most is None or forgotten < most):
            set_id, _ = self._leaving.popitem()
            live = self._live[set_id]
            forgotten += len(live.members)
            self._remove(live)

    @property
    def unforgotten(self) -> int:
        """How many sets there are still though no policy asks for them."""
        return len(self._leaving)

    def _remove(self, live: LiveSet) -> None:
        set_id = live.id
        del self._live[set_id]
        self._changed.pop(live, None)
        self._filling.pop(live, None)
        at = _place(set_id.family)
        for term in live.terms:
            fed = self._fed[term]
            fed[at].remove(live)
            if not fed[0] and not fed[1]:
                del self._fed[term]
                self._selectors.deactivate(term)
        if live.ports is not None and not live.terms:
            self.named.remove_set(live)

    def show(self, set_id: SetId) -> bool:
        """Count one more program that a set is in; return whether it is the first."""
        live = self._live[set_id]
        live.shown += 1
        if live.shown > 1:
            return False
        self._program_sets[set_id] = live.members
        # What it had before nobody was told.
        self._changed.pop(live, None)
        return True

    def hide(self, set_id: SetId) -> Hidden | None:
        """Count one program less; of the last, return the set as it was before the step."""
        live = self._live[set_id]
        live.shown -= 1
        if live.shown:
            return None
        del self._program_sets[set_id]
        return Hidden(live.members, self._changed.pop(live, {}), live.ports is not None)

    def has_nobody(self, set_id: SetId) -> bool:
        """Whether a set has no members and is in no program."""
        live = self._live[set_id]
        return not live.shown and not live.members

    def gaining(self) -> list[SetId]:
        """Return the sets that changed since the last step and have members now."""
        return [live.id for live in self._changed if live.members]

    def take_changes(self) -> dict[SetId, Membership]:
        """Return how the members of sets changed since the last call."""
        changes: dict[SetId, Membership] = {}
        if not self._changed:
            return changes
        for live, touched in self._changed.items():
            if not live.shown:
                continue
            added = {m for m, was in touched.items() if not was and m in live.members}
            removed = {m for m, was in touched.items() if was and m not in live.members}
            if added or removed:
                changes[live.id] = Membership(added, removed)
        self._changed = {}
        return changes

    def concerns(self, record: PodRecord, address: bytes) -> bool:
        """Whether an address in the hands of a pod makes a member of any set."""
        return any(_members(live, record, address) for live in self._sets_of(record, address))

    def _sets_of(self, record: PodRecord, address: bytes) -> Iterable[LiveSet]:
        """Return every set that asks for pods like this one, or a port that it has; some more than once."""
        at = 0 if len(address) == 4 else 1
        found: list[LiveSet] = []
        if record.group is not None:
            fed = self._fed
            for term in record.group.terms:
                found += fed[term][at]
        found += self.named.askers(record, address)
        self.touched += len(found)
        return found

    def _owned_in(self, group: Identity) -> Iterable[tuple[PodRecord, bytes]]:
        owners = self._ownership.owners
        return (
            (record, address)
            for record in group.pods
            for address in record.pod.addresses
            if owners.get(address) is record
        )

    def _note(self, live: LiveSet, member: Member, was: bool) -> None:
        touched = self._changed.get(live)
        if touched is None:
            touched = self._changed[live] = {}
        touched.setdefault(member, was)

    def sizes(self) -> dict[str, int]:
        return {
            "live sets": len(self._live),
            "terms that feed sets": len(self._fed),
            "sets that leave": len(self._leaving),
            "sets being filled": len(self._filling),
            **self.named.sizes(),
        }


def _taken(groups: list[Identity], most: int | None) -> list[Identity]:
    """Take from the end groups of about so many pods; None: all."""
    taken: list[Identity] = []
    pods = 0
    while groups and (most is None or pods < most):
        group = groups.pop()
        taken.append(group)
        pods += len(group.pods)
    return taken


def _place(family: Family) -> int:
    return 0 if family is Family.V4 else 1


def _members(live: LiveSet, record: PodRecord, address: bytes) -> Collection[Member]:
    """Return what an address makes in a set that asks for pods like this one."""
    ports = live.ports
    if ports is None:
        return (address,)
    if live.local and not record.local:
        return ()
    if live.area is not None and not in_ranges(address, live.area.ranges):
        return ()
    own = record.pod.ports
    if len(own) == 1:
        name, protocol, number = own[0]
        return (AddressPort(address, protocol, number),) if (name, protocol) in ports else ()
    # Of one name the first counts.
    found = {(name, protocol): number for name, protocol, number in reversed(own)}
    return [AddressPort(address, n[1], number) for n, number in found.items() if n in ports]
