"""What hostile tenants write, and what their victim does: objects as the API server would tell them."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from agent.kube.model import Kind

HERE = "here"
TENANT, VICTIM = "tenant", "victim"

Json = dict[str, Any]
Written = tuple[Kind, Json]


def _meta(name: str, namespace: str, **more: object) -> Json:
    return {"name": name, "namespace": namespace, "uid": f"{namespace}/{name}", **more}


def pod(name: str, number: int, labels: Mapping[str, str], *, namespace: str, node: str = "there") -> Written:
    addresses = [f"10.{number >> 16}.{number >> 8 & 255}.{number & 255}", f"fd00::{number:x}"]
    return Kind.POD, {
        "metadata": _meta(name, namespace, labels=dict(labels)),
        "spec": {"nodeName": node},
        "status": {"phase": "Running", "podIPs": [{"ip": address} for address in addresses]},
    }


def policy(name: str, spec: Json, *, namespace: str = TENANT) -> Written:
    created = "2026-01-01T00:00:00Z"
    return Kind.POLICY, {"metadata": _meta(name, namespace, creationTimestamp=created), "spec": spec}


def ingress(peers: list[Json], selector: Json | None = None) -> Json:
    return {"podSelector": selector or {}, "policyTypes": ["Ingress"], "ingress": [{"from": peers}]}


def labelled(**labels: str) -> Json:
    return {"podSelector": {"matchLabels": labels}}


def _pods(count: int) -> Iterator[Written]:
    for number in range(count):
        yield pod(f"p-{number}", 10_000 + number, {"n": str(number)}, namespace=TENANT)


def policies() -> Iterator[Written]:
    """10,000 policies on one pod, each with a peer of its own."""
    for number in range(10_000):
        yield policy(f"p-{number}", ingress([labelled(**{f"peer-{number}": "yes"})]))


def members() -> Iterator[Written]:
    """A policy of 1,000,000 members, 10,000 pods in 50 peers and both families, edited all the time."""
    for number in itertools.count():
        lacking = [
            {"podSelector": {"matchExpressions": [{"key": f"k-{number}-{n}", "operator": "DoesNotExist"}]}}
            for n in range(49)
        ]
        yield policy("all", {**ingress([]), "ingress": [{"from": [one]} for one in lacking]})


def events() -> Iterator[Written]:
    """Pods that enter and leave the peers of a policy."""
    yield policy("one", ingress([labelled(app="in")]))
    for number in itertools.count():
        app = "in" if number // 2000 % 2 else "out"
        yield pod(f"p-{number % 2000}", 10_000 + number % 2000, {"app": app}, namespace=TENANT)


def looks() -> Iterator[Written]:
    """Pods that never look the same twice, of which the labels have long names."""
    yield policy("one", ingress([labelled(app="in")]))
    for number in itertools.count():
        labels = {f"{'l' * 50}-{number}-{n}": "v" * 60 for n in range(20)}
        yield pod(f"p-{number % 2000}", 10_000 + number % 2000, {"app": "in", **labels}, namespace=TENANT)


def blocks() -> Iterator[Written]:
    """A policy of 11,900 networks, ever different."""
    for number in itertools.count():
        cidrs = [f"{11 + number % 200}.{n >> 8}.{n & 255}.{number % 256}/32" for n in range(11_900)]
        yield policy(f"b-{number % 8}", ingress([{"ipBlock": {"cidr": cidr}} for cidr in cidrs]))


def excepts() -> Iterator[Written]:
    """The same of blocks of which each excepts an address."""
    for number in itertools.count():
        ends = [f"{11 + number % 200}.{n >> 8}.{n & 255}" for n in range(5_950)]
        peers = [{"ipBlock": {"cidr": f"{a}.0/24", "except": [f"{a}.{number % 256}/32"]}} for a in ends]
        yield policy(f"e-{number % 8}", ingress(peers))


class Attack(NamedTuple):
    """``pods``: the tenant's before it begins; ``rate``: objects a second."""

    pods: int
    rate: float
    write: Callable[[], Iterator[Written]]


ATTACKS = {
    "policies": Attack(0, 1000, policies),
    "members": Attack(10_000, 1, members),
    "events": Attack(2_000, 5000, events),
    "looks": Attack(2_000, 1000, looks),
    "blocks": Attack(0, 0.5, blocks),
    "excepts": Attack(0, 0.5, excepts),
}

PEER = 1


def peer(app: str) -> Written:
    return pod("peer", PEER, {"app": app}, namespace=VICTIM)


def namespace(name: str) -> Written:
    return Kind.NAMESPACE, {"metadata": {"name": name, "uid": name}}


def before(attack: Attack) -> Iterator[Written]:
    """Give what is there before an attack begins: the victim's pods and policy, and pods of the tenant."""
    yes = {"app": "web"}
    yield from map(namespace, (TENANT, VICTIM))
    yield pod("web", 2, yes, namespace=VICTIM, node=HERE)
    yield pod("target", 3, yes, namespace=TENANT, node=HERE)
    yield peer("peer")
    yield policy("guard", ingress([labelled(app="peer")]), namespace=VICTIM)
    yield from _pods(attack.pods)
