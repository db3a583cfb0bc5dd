"""A made-up cluster of a given size, the same each time, as the JSON that an API server stores.

Each namespace has about 20 policies: one selects all its pods, six a tier each, six the busiest app and seven
another app each, so that a pod is isolated by three policies and one in eight by eight. Each policy has three
peers (pods of its namespace; pods of the namespaces of a team, for every other policy only those of a role;
a block with an except) and three ports (a number, a name, a range); every other policy has egress too. Label
values are shared, so sets are. The first ``size.local`` pods are this node's, spread over the namespaces; the
others live on nodes that exist by name only.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator, Mapping
from typing import Any

import msgspec

from tests.bench.result import Size

NODE = "bench-node"
ROLES = 5

_APPS, _TIERS, _POLICIES_OF_NAMESPACE, _NAMESPACES_OF_TEAM = 8, 6, 20, 10
_PODS_OF_NODE = 100
_MADE = "2026-01-01T00:00:00Z"
_NAMESPACE_OF_UIDS = uuid.UUID("6f1d7a52-6a2f-4d53-9a3b-5f6f0f3f7c11")

Json = dict[str, Any]

encode = msgspec.json.Encoder().encode


def namespace_count(size: Size) -> int:
    """Return how many namespaces a cluster of a size has, those of the measurements' own pods aside."""
    return max(1, size.policies // _POLICIES_OF_NAMESPACE)


def objects(size: Size) -> Iterator[tuple[str, bytes]]:
    """Yield everything that exists: its key in etcd, and its JSON."""
    for number in range(namespace_count(size)):
        yield f"/registry/namespaces/ns-{number}", encode(namespace(number, size))
    for number in range(size.policies):
        made = policy(number, size)
        yield policy_key(made), encode(made)
    for number in range(size.pods):
        made = pod(number, size)
        yield pod_key(made), encode(made)


def pod_key(made: Json) -> str:
    """Return where etcd has a pod."""
    return f"/registry/pods/{made['metadata']['namespace']}/{made['metadata']['name']}"


def policy_key(made: Json) -> str:
    """Return where etcd has a policy."""
    return f"/registry/networkpolicies/{made['metadata']['namespace']}/{made['metadata']['name']}"


def namespace(number: int, size: Size) -> Json:
    """Return a namespace; ten share a team."""
    name = f"ns-{number}"
    labels = {"kubernetes.io/metadata.name": name, "team": f"team-{number % _teams(size)}"}
    return {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": _meta(name, None, labels),
        "spec": {"finalizers": ["kubernetes"]},
        "status": {"phase": "Active"},
    }


def pod(number: int, size: Size, **changed: str) -> Json:
    """Return a pod with its labels, some of them changed: about 2.4 kB, as real ones are."""
    spaces = namespace_count(size)
    space, place = number % spaces, number // spaces
    labels = {
        "app": f"app-{(7 * space + place) % _APPS}",
        "tier": f"tier-{(space + place) % _TIERS}",
        "role": f"role-{place % ROLES}",
        "revision": "1",
        "pod-template-hash": f"{number % 7919:010x}",
    }
    node = NODE if number < size.local else f"node-{(number - size.local) // _PODS_OF_NODE}"
    address = f"10.{64 + (number >> 16)}.{number >> 8 & 255}.{number & 255}"
    return running_pod(f"ns-{space}", f"pod-{number}", node, [address], {**labels, **changed})


def running_pod(
    namespace: str, name: str, node: str, addresses: list[str], labels: Mapping[str, str]
) -> Json:
    """Return a pod that runs, with all that kubelet and controllers write into one."""
    owner = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": f"{name.rsplit('-', 1)[0]}-5d9f7c6b8",
        "uid": _uid(f"owner of {namespace}/{name}"),
        "controller": True,
        "blockOwnerDeletion": True,
    }
    meta = {**_meta(name, namespace, labels), "ownerReferences": [owner], "generation": 1}
    meta["managedFields"] = [*_MANAGED]
    container_id = "containerd://" + uuid.uuid5(_NAMESPACE_OF_UIDS, name).hex * 2
    status = {
        "phase": "Running",
        "conditions": _CONDITIONS,
        "hostIP": "172.16.0.10",
        "podIP": addresses[0],
        "podIPs": [{"ip": address} for address in addresses],
        "startTime": _MADE,
        "containerStatuses": [
            {
                "name": "main",
                "state": {"running": {"startedAt": _MADE}},
                "lastState": {},
                "ready": True,
                "restartCount": 0,
                "image": _IMAGE,
                "imageID": f"{_IMAGE}@sha256:{'ab' * 32}",
                "containerID": container_id,
                "started": True,
            }
        ],
        "qosClass": "Burstable",
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": meta,
        "spec": {**_SPEC, "nodeName": node},
        "status": status,
    }


def policy(number: int, size: Size) -> Json:
    """Return a policy; see the module's description."""
    spaces = namespace_count(size)
    space, place = number % spaces, number // spaces
    kind = place % _POLICIES_OF_NAMESPACE
    if kind == 0:
        selector: Json = {}
    elif kind <= _TIERS:
        selector = {"matchLabels": {"tier": f"tier-{kind % _TIERS}"}}
    else:
        # The busiest app has what is left when each other has its own.
        selector = {"matchLabels": {"app": f"app-{max(0, kind - (_POLICIES_OF_NAMESPACE - _APPS))}"}}
    of_team: Json = {
        "namespaceSelector": {"matchLabels": {"team": f"team-{(number + place) % _teams(size)}"}}
    }
    if place % 2:
        of_team["podSelector"] = {"matchLabels": {"role": f"role-{place % ROLES}"}}
    peers = [
        {"podSelector": {"matchLabels": {"app": f"app-{(place + 1) % _APPS}"}}},
        of_team,
        block(f"100.{64 + number // 256 % 64}.{number % 256}", 24, 26),
    ]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {**_meta(f"policy-{number}", f"ns-{space}", {}), "generation": 1},
        "spec": policy_spec(selector, peers, egress=place % 2 == 1),
    }


def policy_spec(selector: Json, peers: list[Json], *, egress: bool) -> Json:
    """Return a policy's spec of these peers and the three ports, in one or both directions."""
    ports = [
        {"protocol": "TCP", "port": 80},
        {"protocol": "TCP", "port": "http"},
        {"protocol": "TCP", "port": 30000, "endPort": 30100},
    ]
    spec: Json = {
        "podSelector": selector,
        "policyTypes": ["Ingress"],
        "ingress": [{"from": peers, "ports": ports}],
    }
    if egress:
        spec["policyTypes"] = ["Ingress", "Egress"]
        spec["egress"] = [{"to": peers, "ports": ports}]
    return spec


def block(start: str, length: int, excepted: int) -> Json:
    """Return a peer of the addresses ``start``.0/``length``, but not of those of ``start``.0/``excepted``."""
    return {"ipBlock": {"cidr": f"{start}.0/{length}", "except": [f"{start}.0/{excepted}"]}}


def _teams(size: Size) -> int:
    return max(2, namespace_count(size) // _NAMESPACES_OF_TEAM)


def _uid(name: str) -> str:
    return str(uuid.uuid5(_NAMESPACE_OF_UIDS, name))


def _meta(name: str, namespace: str | None, labels: Mapping[str, str]) -> Json:
    meta: Json = {"name": name, "uid": _uid(f"{namespace}/{name}"), "creationTimestamp": _MADE}
    if namespace is not None:
        meta["namespace"] = namespace
    if labels:
        meta["labels"] = dict(labels)
    return meta


_IMAGE = "registry.example/team/service:1.0.0"
_CONDITIONS = [
    {"type": kind, "status": "True", "lastProbeTime": None, "lastTransitionTime": _MADE}
    for kind in ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
]
_SPEC: Json = {
    "containers": [
        {
            "name": "main",
            "image": _IMAGE,
            "ports": [{"name": "http", "containerPort": 8080, "protocol": "TCP"}],
            "env": [{"name": "MODE", "value": "production"}],
            "resources": {
                "limits": {"memory": "256Mi"},
                "requests": {"cpu": "100m", "memory": "128Mi"},
            },
            "terminationMessagePath": "/dev/termination-log",
            "terminationMessagePolicy": "File",
            "imagePullPolicy": "IfNotPresent",
        }
    ],
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "dnsPolicy": "ClusterFirst",
    "serviceAccountName": "default",
    "serviceAccount": "default",
    "securityContext": {},
    "schedulerName": "default-scheduler",
    "enableServiceLinks": True,
}
_MANAGED: list[Json] = [
    {
        "manager": "kube-controller-manager",
        "operation": "Update",
        "apiVersion": "v1",
        "time": _MADE,
        "fieldsType": "FieldsV1",
        "fieldsV1": {
            "f:metadata": {"f:labels": {".": {}, "f:app": {}, "f:tier": {}, "f:role": {}}},
            "f:spec": {"f:containers": {'k:{"name":"main"}': {".": {}, "f:image": {}, "f:ports": {}}}},
        },
    },
    {
        "manager": "kubelet",
        "operation": "Update",
        "apiVersion": "v1",
        "time": _MADE,
        "fieldsType": "FieldsV1",
        "fieldsV1": {
            "f:status": {"f:conditions": {}, "f:containerStatuses": {}, "f:phase": {}, "f:podIPs": {}}
        },
        "subresource": "status",
    },
]
