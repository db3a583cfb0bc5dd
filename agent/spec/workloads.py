"""Which workload a pod is of: its controller, and those above it, as far as name and labels tell.

Of what a controller is itself controlled by, the agent knows nothing. The controllers of Kubernetes give
their pods names and labels by which they are known: "Well-Known Labels, Annotations and Taints" in the
reference of Kubernetes.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.kube.model import Key, Pod


def workloads_of(pod: Pod) -> Iterator[tuple[str, str]]:
    """Give the kind and name of each workload that a pod is of: of a Deployment's pod the ReplicaSet, too."""
    kind, slash, name = pod.workload.partition("/")
    yield from dict.fromkeys((*([(kind, name)] if slash else ()), *_by_labels(pod)))


def _by_labels(pod: Pod) -> Iterator[tuple[str, str]]:
    labels, name = pod.labels, pod.name
    if template := labels.get("pod-template-hash"):
        # NAME-HASH-xxxxx; a ReplicaSet calls itself by its Deployment's name and the hash.
        deployment, found, _ = name.rpartition(f"-{template}-")
        if found:
            yield "Deployment", deployment
            yield "ReplicaSet", f"{deployment}-{template}"
    elif labels.get("statefulset.kubernetes.io/pod-name") == name:
        yield "StatefulSet", name.rpartition("-")[0]
    elif job := labels.get("batch.kubernetes.io/job-name", labels.get("job-name", "")):
        yield "Job", job
        # A CronJob calls its Jobs by its own name and the time, in minutes.
        cron, dash, minutes = job.rpartition("-")
        if dash and minutes.isdecimal():
            yield "CronJob", cron
    elif "controller-revision-hash" in labels:
        yield "DaemonSet", name.rpartition("-")[0]


def pods_of(pods: Iterable[Pod], kind: str, name: str, namespace: str = "") -> list[Key]:
    """Return the pods of a workload, sorted: those that can be judged. Without a namespace: of any."""
    return sorted(
        pod.key
        for pod in pods
        if pod.judged and namespace in ("", pod.namespace) and (kind, name) in workloads_of(pod)
    )
