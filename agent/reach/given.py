"""A cluster for the matrix: what was read, with a pod for each workload that has none there."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import msgspec

from agent.kube.facts import Fact
from agent.kube.model import Key, Namespace, Object, Pod
from agent.kube.validate import METADATA_NAME
from agent.kube.workloads import Workload
from agent.reach.ends import Owners, owners_of
from agent.spec.cluster import Cluster, cluster_of
from agent.words import and_more


class Given(NamedTuple):
    """A cluster, which workload each pod is of, and what other objects say.

    ``refused`` has a line for each workload whose template is not valid.
    """

    cluster: Cluster
    owners: Owners
    facts: tuple[Fact, ...]
    notes: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()


def given(
    objects: Iterable[Object], facts: Sequence[Fact], workloads: Iterable[tuple[str, Workload]]
) -> Given:
    """Return the cluster that objects make; ``workloads`` are told with the names of their files.

    The pods of a workload stand for it where they are there. Else one pod without an address does, by the
    name ``KIND/NAME``, which no pod can have. A workload that another one made is not counted beside it.
    """
    objects = list(objects)
    pods = [found for found in objects if isinstance(found, Pod)]
    real = owners_of(pods, facts, {})
    taken = {(pod.namespace, *real.workload(pod)) for pod in pods}
    known: dict[tuple[str, str, str], tuple[str, Workload]] = {}
    for place, one in workloads:
        known.setdefault((one.key.namespace, one.kind, one.key.name), (place, one))
    refused: list[str] = []
    made: dict[Key, tuple[str, str]] = {}
    for (namespace, kind, name), (place, one) in known.items():
        if one.owner is not None and (one.idle or (namespace, *one.owner) in known.keys() | taken):
            continue
        if one.pod is None:
            refused += [
                f"{place} line {one.line}: {kind} {one.key}: {p.field}: {p.message}" for p in one.problems
            ]
        elif (namespace, kind, name) not in taken:
            key = Key(namespace, f"{kind.lower()}/{name}")
            objects.append(msgspec.structs.replace(one.pod, name=key.name))
            made[key] = one.owner or (kind, name)
    there = {found.name for found in objects if isinstance(found, Namespace)}
    for name in sorted({key.namespace for key in made} - there):
        objects.append(Namespace(name, {METADATA_NAME: name}))
    notes = list(_left_out(pods))
    if not made and all(pod.host_network or pod.finished for pod in pods):
        notes.append("there are no pods and no workloads in it: give their files, too, or --kubeconfig FILE")
    owners = Owners({**real.of, **made}, frozenset(made))
    return Given(cluster_of(objects), owners, tuple(facts), tuple(notes), tuple(refused))


_OF_CONTROLLERS = (
    "pod-template-hash",
    "controller-revision-hash",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/job-name",
    "batch.kubernetes.io/controller-uid",
    "job-name",
)
"""Labels that controllers give pods, beside those of the template."""


def rolled_out(
    objects: Iterable[Object], facts: Sequence[Fact], workloads: Iterable[tuple[str, Workload]]
) -> list[Object]:
    """Return objects as they are when changed workloads are applied: their pods are as the templates say.

    What a pod does not have from its template stays: its address, its node, the labels of its controller.
    """
    templates = {
        (one.key.namespace, one.kind, one.key.name): one.pod for _, one in workloads if one.pod is not None
    }
    objects = list(objects)
    owners = owners_of((found for found in objects if isinstance(found, Pod)), facts, {})
    found: list[Object] = []
    for one in objects:
        template = templates.get((one.namespace, *owners.workload(one))) if isinstance(one, Pod) else None
        if isinstance(one, Pod) and template is not None:
            kept = {key: one.labels[key] for key in _OF_CONTROLLERS if key in one.labels}
            labels = {**template.labels, **kept}
            found.append(msgspec.structs.replace(one, labels=labels, ports=template.ports))
        else:
            found.append(one)
    return found


def _left_out(pods: Iterable[Pod]) -> Iterable[str]:
    on_host = sorted(str(pod.key) for pod in pods if pod.host_network and not pod.finished)
    if on_host:
        more = and_more(len(on_host), 3)
        yield (f"on the host's network, so their addresses are no pod's: {', '.join(on_host[:3])}{more}")


def overlaid(before: Iterable[Object], change: Iterable[Object]) -> list[Object]:
    """Return objects as they are when a change is applied: those of the change hold.

    A namespace that the change only uses stays as it is.
    """
    before = list(before)
    known = {found.name for found in before if isinstance(found, Namespace)}
    kept: list[Object] = [
        found
        for found in change
        if not (isinstance(found, Namespace) and found.name in known and _is_implied(found))
    ]
    changed: Mapping[tuple[type, Key], Object] = {(type(found), found.key): found for found in kept}
    return [found for found in before if (type(found), found.key) not in changed] + kept


def _is_implied(namespace: Namespace) -> bool:
    return namespace == Namespace(namespace.name, {METADATA_NAME: namespace.name})
