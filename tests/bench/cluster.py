"""A made-up cluster of a given size, the same each time, as the JSON that an API server stores.

Each namespace has about 20 policies: one selects all its pods, six a tier each, six the busiest app and
seven another app each, so that a pod is isolated by three policies and one in eight by eight. Each policy
has three peers (pods of its namespace; pods of the namespaces of a team, for every other policy only those
of a role; a block with an except) and three ports (a number, a name, a range); every other policy has
egress too. Label values are shared, so sets are. The first ``size.local`` pods are this node's, spread over
the namespaces; the others live on nodes that exist by name only.
"""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import msgspec

from tests.bench.result import Size

NODE = "node-here"
ROLES = 5

_APPS, _TIERS, _POLICIES_OF_NAMESPACE, _NAMESPACES_OF_TEAM = 8, 6, 20, 10
_PODS_OF_NODE = 100
_MADE = "2026-01-01T00:00:00Z"

Json = dict[str, Any]

encode = msgspec.json.Encoder().encode


def namespace_count(size: Size) -> int:
    """Return how many namespaces a cluster of a size has, those of the measurements' own pods aside."""
    return max(1, size.policies // _POLICIES_OF_NAMESPACE)


def namespace(number: int, size: Size) -> Json:
    """Return a namespace; ten share a team."""
    name = _space(number)
    labels = {"kubernetes.io/metadata.name": name, "team": f"team-{number % _teams(size)}"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


class Fields(NamedTuple):
    """What pods differ in. Each is as long in every pod, so that one can be put in another's place."""

    name: str
    namespace: str
    node: str
    address: str
    uid: str
    container: str
    revision_hash: str
    app: str
    tier: str
    role: str
    revision: str


def fields(number: int, size: Size, **changed: str) -> Fields:
    """Return what is a pod's own, some of it changed."""
    spaces = namespace_count(size)
    space, place = number % spaces, number // spaces
    node = f"node-{(number - size.local) // _PODS_OF_NODE:04}"
    made = Fields(
        name=f"pod-{number:06}",
        namespace=_space(space),
        node=NODE if number < size.local else node,
        address=f"10.{100 + number // 10000}.{100 + number // 100 % 100}.{100 + number % 100}",
        uid=f"00000000-0000-4000-8000-{number:012}",
        container=f"{number:064x}",
        # As the pods of one ReplicaSet do, those with the same labels share it.
        revision_hash=f"{place % (_APPS * _TIERS * ROLES):010x}",
        app=f"app-{(7 * space + place) % _APPS}",
        tier=f"tier-{(space + place) % _TIERS}",
        role=f"role-{place % ROLES}",
        revision="rev-1",
    )
    return made._replace(**changed)


def pod(number: int, size: Size, **changed: str) -> Json:
    """Return a pod, some of its fields changed."""
    return pod_of(fields(number, size, **changed))


def pod_of(own: Fields) -> Json:
    """Return a pod that runs, with all that kubelet and controllers write into one: about 2.5 kB."""
    owner = {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "name": "service-5d9f7c6b8",
        "uid": "00000000-0000-4000-9000-000000000000",
        "controller": True,
        "blockOwnerDeletion": True,
    }
    status = {
        "phase": "Running",
        "conditions": _CONDITIONS,
        "hostIP": "172.16.0.10",
        "podIP": own.address,
        "podIPs": [{"ip": own.address}],
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
                "containerID": f"containerd://{own.container}",
                "started": True,
            }
        ],
        "qosClass": "Burstable",
    }
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": own.name,
            "namespace": own.namespace,
            "uid": own.uid,
            "creationTimestamp": _MADE,
            "generation": 1,
            "labels": {
                "app": own.app,
                "tier": own.tier,
                "role": own.role,
                "revision": own.revision,
                "pod-template-hash": own.revision_hash,
            },
            "ownerReferences": [owner],
            "managedFields": _MANAGED,
        },
        "spec": {**_SPEC, "nodeName": own.node},
        "status": status,
    }


class Template:
    """A pod as an API server encodes it; others are made by putting their own fields in the places of its."""

    def __init__(self, data: bytes) -> None:
        """Take the encoded pod of ``SAMPLE``. Raises ValueError when it lacks one of its fields."""
        wanted = {text.encode(): place for place, text in enumerate(SAMPLE)}
        parts = re.split(b"(" + b"|".join(map(re.escape, wanted)) + b")", data)
        self._parts: list[bytes | int] = [wanted.get(part, part) for part in parts]
        if missing := {*range(len(SAMPLE))} - {part for part in self._parts if isinstance(part, int)}:
            raise ValueError(f"the encoded pod lacks {[SAMPLE[place] for place in missing]}")

    def pod(self, own: Fields) -> bytes:
        """Return the encoded pod with these fields."""
        return b"".join(own[part].encode() if isinstance(part, int) else part for part in self._parts)


SAMPLE = Fields(
    name="pod-987654",
    namespace="ns-9876",
    node="node-8765",
    address="10.199.198.197",
    uid="00000000-0000-4000-8000-999999999999",
    container="e" * 64,
    revision_hash="9f8e7d6c5b",
    app="app-9",
    tier="tier-9",
    role="role-9",
    revision="rev-9",
)
"""No pod has any of these."""


def pod_key(own: Fields) -> str:
    """Return where etcd has a pod."""
    return f"/registry/pods/{own.namespace}/{own.name}"


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
        "metadata": {"name": f"policy-{number:04}", "namespace": _space(space)},
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


def _space(number: int) -> str:
    return f"ns-{number:04}"


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
