"""Workloads: what makes pods by a template, and a pod as that template says it.

A file in a repository seldom has pods. It has a Deployment, a CronJob and the like, and what there is to know
of its pods is in the template (``PodTemplateSpec``, core/v1).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import msgspec

from agent.kube.events import Problem
from agent.kube.model import Key, Pod

_IN_SPEC = ("spec", "template")
_IN_JOB = ("spec", "jobTemplate", "spec", "template")
_APPS = ("apps/v1", "apps/v1beta2", "apps/v1beta1", "extensions/v1beta1")

TEMPLATES: dict[tuple[str, str], tuple[str, ...]] = {
    **{(version, "Deployment"): _IN_SPEC for version in _APPS},
    **{(version, "StatefulSet"): _IN_SPEC for version in _APPS[:3]},
    **{
        (version, kind): _IN_SPEC
        for version in (_APPS[0], *_APPS[1::2])
        for kind in ("DaemonSet", "ReplicaSet")
    },
    ("v1", "ReplicationController"): _IN_SPEC,
    ("batch/v1", "Job"): _IN_SPEC,
    ("batch/v1", "CronJob"): _IN_JOB,
    ("batch/v1beta1", "CronJob"): _IN_JOB,
}
"""Where the template is in a workload, by its ``apiVersion`` and ``kind``."""


class Workload(NamedTuple):
    """A workload and its pods as its template says them: all alike, so one stands for all.

    ``pod`` has no address, no node, and the workload's name; None where the template is not valid, as
    ``problems`` say. ``owner`` is the kind and name of the workload that made this one, as a Deployment makes
    ReplicaSets. ``idle``: it asks for no pods (``replicas: 0``). ``line`` is where its document begins.
    """

    kind: str
    key: Key
    line: int
    pod: Pod | None
    problems: tuple[Problem, ...] = ()
    owner: tuple[str, str] | None = None
    idle: bool = False


def is_workload(type_text: str) -> bool:
    """Whether objects of a type, written as ``apps/v1 Deployment``, are read here."""
    version, _, kind = type_text.rpartition(" ")
    return (version, kind) in TEMPLATES


PodReader = Callable[[Mapping[str, Any]], tuple[Pod | None, tuple[Problem, ...]]]
"""Reads a pod's plain data, as of a manifest: the pod, and what a create would refuse."""


def workload_of(
    line: int, version: str, kind: str, data: Mapping[str, Any], read_pod: PodReader
) -> Workload | None:
    """Read a workload's pods; None for an object that is no workload, or does not say its name."""
    path = TEMPLATES.get((version, kind))
    meta = _mapping(data.get("metadata"))
    name, namespace = meta.get("name"), meta.get("namespace") or "default"
    if path is None or not (isinstance(name, str) and name and isinstance(namespace, str)):
        return None
    key = Key(namespace, name)
    template: Mapping[str, Any] = data
    for field in path:
        template = _mapping(template.get(field))
    pod, problems = _pod(key, meta, template, read_pod)
    field = ".".join(path)
    idle = _mapping(data.get("spec")).get("replicas") == 0
    return Workload(
        kind,
        key,
        line,
        pod,
        tuple(Problem(f"{field}.{one.field}" if one.field else field, one.message) for one in problems),
        _owner(meta),
        idle,
    )


def _pod(
    key: Key, meta: Mapping[str, Any], template: Mapping[str, Any], read_pod: PodReader
) -> tuple[Pod | None, tuple[Problem, ...]]:
    if not template:
        return None, (Problem("", "missing; say what its pods are"),)
    inner = _mapping(template.get("metadata"))
    # A server that has stored the workload has not checked it as a create does today.
    stored = {field: meta[field] for field in ("uid", "resourceVersion") if field in meta}
    own = {field: inner[field] for field in ("labels", "annotations") if field in inner}
    spec = {field: value for field, value in _mapping(template.get("spec")).items() if field != "nodeName"}
    found, problems = read_pod(
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {**own, **stored, "name": key.name, "namespace": key.namespace},
            "spec": spec,
        },
    )
    return (msgspec.structs.replace(found, uid="") if found is not None else None), problems


def _owner(meta: Mapping[str, Any]) -> tuple[str, str] | None:
    references = meta.get("ownerReferences")
    for one in map(_mapping, references if isinstance(references, list) else ()):
        if one.get("controller"):
            return str(one.get("kind") or ""), str(one.get("name") or "")
    return None


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}
