"""Pods grouped by workload, each with the smallest selector that means its pods."""

from __future__ import annotations

import itertools
import re
from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from agent.kube.model import Key, Operator, Pod, Requirement, Selector
from agent.spec.workloads import workloads_of

PASSING = frozenset(
    {
        "apps.kubernetes.io/pod-index",
        "batch.kubernetes.io/controller-uid",
        "batch.kubernetes.io/job-completion-index",
        "batch.kubernetes.io/job-name",
        "controller-revision-hash",
        "controller-uid",
        "job-name",
        "pod-template-generation",
        "pod-template-hash",
        "statefulset.kubernetes.io/pod-name",
    }
)
"""Labels by which controllers tell pods of one workload apart: the next pod has another value."""

_FIRST = (
    "app.kubernetes.io/name",
    "app",
    "k8s-app",
    "app.kubernetes.io/component",
    "app.kubernetes.io/instance",
)
_LAST = ("app.kubernetes.io/version", "version", "helm.sh/chart", "chart", "app.kubernetes.io/managed-by")
"""Labels that say which pods these are; and others, which the next version may change."""

_SUFFIX = "[a-z0-9]{5}"
_NAMES = {
    "Deployment": f"-[a-z0-9]{{1,10}}-{_SUFFIX}",
    "CronJob": f"-[0-9]+-{_SUFFIX}",
    "StatefulSet": "-[0-9]+",
}
"""What follows a workload's name in the names of its pods; for all others the suffix alone."""


class Workload(NamedTuple):
    """Pods of one namespace that a selector means. ``kind`` is empty for pods that no controller made."""

    namespace: str
    kind: str
    name: str
    selector: Selector

    @property
    def sort(self) -> tuple[str, str, str, str]:
        return (self.namespace, self.name, self.kind, str(self.selector))


class Workloads:
    """Which workload each pod is of, of those that can be judged."""

    def __init__(self, pods: Iterable[Pod]) -> None:
        self._pods: dict[str, list[Pod]] = defaultdict(list)
        for pod in pods:
            if pod.judged:
                self._pods[pod.namespace].append(pod)
        self._of: dict[Key, Workload] = {}
        self._members: dict[tuple[str, str, str], list[Key]] = defaultdict(list)
        for namespace, some in self._pods.items():
            self._group(namespace, some)

    def of(self, pod: Key) -> Workload:
        """Return the workload of a pod that can be judged."""
        return self._of[pod]

    def selected(self, workload: Workload) -> list[Key]:
        """Return every pod that a workload's selector selects: other workloads' may be among them."""
        return [p.key for p in self._pods[workload.namespace] if workload.selector.matches(p.labels)]

    def standin(self, gone: Key) -> Key | None:
        """Return a pod of the workload that a pod must have been of, by its name; None where none is sure."""
        found = [
            members[0]
            for (namespace, kind, name), members in self._members.items()
            if namespace == gone.namespace
            and kind
            and re.fullmatch(re.escape(name) + _NAMES.get(kind, f"-{_SUFFIX}"), gone.name)
        ]
        return found[0] if len(found) == 1 else None

    def _group(self, namespace: str, pods: list[Pod]) -> None:
        groups: dict[tuple[str, str], list[Pod]] = defaultdict(list)
        for pod in pods:
            groups[_workload(pod)].append(pod)
        for (kind, name), members in sorted(groups.items()):
            selector = _smallest(_common(members), pods)
            shown = name if kind else _shown(members, selector)
            workload = Workload(namespace, kind, shown, selector)
            for pod in members:
                self._of[pod.key] = workload
            self._members[namespace, kind, name] += sorted(pod.key for pod in members)


def _workload(pod: Pod) -> tuple[str, str]:
    """Return kind and name; of a pod that no controller made, its labels stand for the name."""
    found = dict(workloads_of(pod))
    for kind in ("Deployment", "StatefulSet", "CronJob", "Job", "DaemonSet"):
        if kind in found:
            return kind, found[kind]
    return "", repr(sorted(_lasting(pod).items()))


def _lasting(pod: Pod) -> dict[str, str]:
    return {key: value for key, value in pod.labels.items() if key not in PASSING}


def _common(pods: list[Pod]) -> dict[str, str]:
    shared = set.intersection(*(set(_lasting(pod).items()) for pod in pods))
    return dict(shared)


def _shown(members: list[Pod], selector: Selector) -> str:
    """Return what pods without a controller are called: by their first label, or the only one by its name."""
    if selector.requirements and selector.requirements[0].values[0]:
        return selector.requirements[0].values[0]
    return members[0].name if len(members) == 1 else "pods"


def _smallest(labels: Mapping[str, str], pods: list[Pod]) -> Selector:
    """Return the selector of the fewest labels, the telling ones first, that selects what all of them do."""
    wanted = _selects(_selector(labels, labels), pods)
    for size in (1, 2):
        for keys in itertools.combinations(sorted(labels, key=_rank), size):
            selector = _selector(labels, keys)
            if _selects(selector, pods) == wanted:
                return selector
    return _selector(labels, labels)


def _rank(key: str) -> tuple[int, str]:
    if key in _FIRST:
        return _FIRST.index(key), key
    return (len(_FIRST) + (key in _LAST), key)


def _selector(labels: Mapping[str, str], keys: Iterable[str]) -> Selector:
    return Selector(tuple(sorted(Requirement(key, Operator.IN, (labels[key],)) for key in keys)))


def _selects(selector: Selector, pods: list[Pod]) -> set[Key]:
    return {pod.key for pod in pods if selector.matches(pod.labels)}
