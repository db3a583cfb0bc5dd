"""The ends of connections as people speak of them: workloads, namespaces, Services, blocks, the internet."""

from __future__ import annotations

import enum
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from agent.kube.facts import Fact, Owner
from agent.kube.model import IPBlock, Key, Pod
from agent.net import Direction, Family
from agent.reach import addresses, intervals
from agent.reach.admits import Rules
from agent.reach.intervals import Intervals
from agent.reach.known import Part, Standing, bits
from agent.reach.ports import Ports
from agent.spec.workloads import workloads_of
from agent.words import and_more

INTERNET = "internet"
_NETWORKS = 3
"""Networks by which an end is called; the rest are counted."""


class By(enum.StrEnum):
    """What one end stands for."""

    POD = "pod"
    WORKLOAD = "workload"
    NAMESPACE = "namespace"


class End(NamedTuple):
    """An end by its name: the same in two clusters that are compared.

    ``kind`` is a pod's or a workload's (``Deployment``), ``Namespace``, ``Service``, ``Ingress``, or empty
    for addresses that are no pod's: there ``name`` is ``internet`` or names the networks.
    """

    namespace: str
    kind: str
    name: str

    @property
    def outside(self) -> bool:
        return not self.kind


@dataclass(frozen=True)
class Place:
    """What is at an end in one cluster.

    ``pods`` are its pods, by how they stand; ``parts`` are the parts that are no pod's. ``many``: pods that a
    template stands for, of which there may be any number.
    """

    pods: Mapping[Standing, frozenset[Key]]
    parts: tuple[int, ...] = ()
    many: frozenset[Key] = frozenset()

    @property
    def count(self) -> int:
        return sum(map(len, self.pods.values()))


class Owners(NamedTuple):
    """Which workload each pod is of; ``templates`` are pods that stand for any number, see :class:`Place`."""

    of: Mapping[Key, tuple[str, str]]
    templates: frozenset[Key] = frozenset()

    def workload(self, pod: Pod) -> tuple[str, str]:
        """Return the kind and name of the workload that a pod is of; of none, the pod's own."""
        return self.of.get(pod.key, ("Pod", pod.name))


def owners_of(pods: Iterable[Pod], facts: Iterable[Fact], templates: Mapping[Key, tuple[str, str]]) -> Owners:
    """Say which workload pods are of: by what owns them, by their names and labels where that is not told.

    ``templates``: the kind and name of a workload by the key of the pod that stands for its pods.
    """
    # Of a Deployment's pod the ReplicaSet is told first.
    told = {fact.pod: (fact.kind, fact.name) for fact in facts if isinstance(fact, Owner)}
    found: dict[Key, tuple[str, str]] = {}
    for pod in pods:
        seen = tuple(workloads_of(pod))
        if pod.key in told and told[pod.key] not in seen:
            found[pod.key] = told[pod.key]
        elif seen:
            # Named last is what makes the Job, named first what makes the ReplicaSet.
            found[pod.key] = seen[-1] if seen[0][0] == "Job" else seen[0]
    found.update(templates)
    return Owners(found, frozenset(templates))


def pods_at(rules: Rules, owners: Owners, by: By, wanted: Iterable[Key] | None = None) -> dict[End, Place]:
    """Return the ends that are pods; ``wanted``: only these pods, None: all."""
    known = rules.known
    chosen = known.standings if wanted is None else {key for key in wanted if key in known.standings}
    found: dict[End, dict[Standing, set[Key]]] = {}
    for key in sorted(chosen):
        kind, name = owners.workload(known.cluster.pods[key]) if by is By.WORKLOAD else ("Pod", key.name)
        end = End(key.namespace, "Namespace", "") if by is By.NAMESPACE else End(key.namespace, kind, name)
        found.setdefault(end, {}).setdefault(known.standings[key], set()).add(key)
    return {end: place_of(pods, owners) for end, pods in found.items()}


def place_of(pods: Mapping[Standing, Iterable[Key]], owners: Owners) -> Place:
    return Place(
        {standing: frozenset(keys) for standing, keys in pods.items()},
        many=owners.templates.intersection(key for keys in pods.values() for key in keys),
    )


# --- Addresses that are no pod's --------------------------------------------------------------------------


def outside(all_rules: Sequence[Rules], apart: int = 0) -> list[dict[End, Place]]:
    """Return the ends that are no pods, for each of several clusters alike: those that differ to some pod.

    Addresses that are the same to every pod of every cluster are one end. In each family the most such
    addresses are called the internet, others by their networks. The clusters must know the same blocks
    (:func:`agent.reach.known.know`); ``apart`` has a bit for each block that is told from others anyway.
    """
    behaviours = [_behaviours(rules) for rules in all_rules]
    whole = {
        (part.family, part.blocks): stretch
        for rules in all_rules
        for number, stretch in rules.known.whole.items()
        if (part := rules.known.parts[number]).family is not None
    }
    groups: defaultdict[tuple[object, ...], list[tuple[Family, int]]] = defaultdict(list)
    for family, blocks in sorted(whole):
        said = (mine.get((family, blocks)) for mine in behaviours)
        groups[(family, blocks & apart, *said)].append((family, blocks))
    texts = {addresses.of_block(block): block_text(block) for block in all_rules[0].known.blocks}
    names = _names(list(groups.values()), whole, apart, texts)
    found = []
    for rules in all_rules:
        numbers = {part: number for number, part in enumerate(rules.known.parts)}
        ends: defaultdict[End, list[int]] = defaultdict(list)
        for name, places in names:
            for family, blocks in places:
                if (number := numbers.get(Part(family, None, blocks))) is not None:
                    ends[End("", "", name)].append(number)
        found.append({end: Place({}, tuple(parts)) for end, parts in ends.items()})
    return found


def _behaviours(rules: Rules) -> dict[tuple[Family, int], tuple[tuple[int, Ports], ...]]:
    """Say of all addresses that are no pod's what pods may do with them, for those in the same blocks."""
    known = rules.known
    strangers = sum(1 << number for number in known.whole)
    shares = {
        tuple((parts & strangers, allowed) for parts, allowed in rules.share(look, direction))
        for look in range(len(known.looks))
        for direction in Direction
    }
    said: dict[int, list[tuple[int, Ports]]] = {number: [] for number in known.whole}
    for index, share in enumerate(shares):
        for parts, allowed in share:
            for number in bits(parts):
                said[number].append((index, allowed))
    places = ((number, known.parts[number]) for number in known.whole)
    return {(part.family, part.blocks): tuple(said[number]) for number, part in places if part.family}


def _names(
    groups: Sequence[Sequence[tuple[Family, int]]],
    whole: Mapping[tuple[Family, int], Intervals],
    apart: int,
    texts: Mapping[Intervals, str],
) -> list[tuple[str, Sequence[tuple[Family, int]]]]:
    stretches = [intervals.canonical(pair for place in group for pair in whole[place]) for group in groups]
    largest = {}
    for family in Family:
        of_family = [i for i, group in enumerate(groups) if group[0][0] is family and not group[0][1] & apart]
        if of_family:
            largest[max(of_family, key=lambda i: (addresses.size(stretches[i]), -stretches[i][0][0]))] = (
                family
            )
    found = []
    for number, group in enumerate(groups):
        stretch = stretches[number]
        name = INTERNET if number in largest else texts.get(stretch) or networks_text(stretch)
        found.append((name, group))
    return sorted(found)


def block_text(block: IPBlock) -> str:
    """Return a block as ``10.0.0.0/8 except 10.1.0.0/16``; many excepts are counted."""
    if not block.excepts:
        return str(block.cidr)
    few = len(block.excepts) <= _NETWORKS
    return f"{block.cidr} except " + (
        ", ".join(map(str, block.excepts)) if few else f"{len(block.excepts)} networks"
    )


def networks_text(given: Intervals) -> str:
    """Return addresses as networks: the first of them, and how many more there are."""
    found = list(addresses.networks(given))
    more = and_more(len(found), _NETWORKS)
    return ", ".join(found[:_NETWORKS]) + more
