"""What the worst tenant writes, straight into etcd: ``python -m tests.bench.worst KIND COUNT RATE``.

Prints ``started`` with the first policy; at the end, a line with how many were written, in how many seconds.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

from tests.bench.cluster import Json, encode
from tests.lab.etcd import PUTS, Etcd

NAMESPACE = "bench-tenant"
PODS = 100
"""The tenant's pods on the node."""

_TICK = 0.02


def policy(number: int, spec: Json) -> tuple[str, bytes]:
    """Return a policy of the tenant's and its key in etcd."""
    name = f"worst-{number}"
    made = {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {
            "name": name,
            "namespace": NAMESPACE,
            "uid": f"worst-{number:08}",
            "creationTimestamp": "2026-01-01T00:00:00Z",
        },
        "spec": spec,
    }
    return f"/registry/networkpolicies/{NAMESPACE}/{name}", encode(made)


def _ingress(selector: Json, peers: list[Json], ports: list[Json] | None = None) -> Json:
    rule: Json = {"from": peers}
    if ports:
        rule["ports"] = ports
    return {"podSelector": selector, "policyTypes": ["Ingress"], "ingress": [rule]}


def _peer(number: int) -> Json:
    return {"podSelector": {"matchLabels": {f"peer-{number}": "yes"}}}


def products(number: int) -> Json:
    """1,000 excepts of a block with 1,000 named ports, ever different."""
    excepts = [f"2001:db8:{number % 65536:x}:{n:x}::1/128" for n in range(1000)]
    ports = [{"port": f"n-{number % 1000}-{n}", "protocol": "TCP"} for n in range(1000)]
    peers = [{"ipBlock": {"cidr": "::/0", "except": excepts}}]
    return {"podSelector": {}, "policyTypes": ["Egress"], "egress": [{"to": peers, "ports": ports}]}


def one_pod(number: int) -> Json:
    """One policy more on the tenant's first pod, with a peer of its own."""
    return _ingress({"matchLabels": {"app": "tenant-0"}}, [_peer(number)])


def all_pods(number: int) -> Json:
    """One policy more on all pods of the tenant, of which each has labels of its own."""
    return _ingress({}, [_peer(number)], [{"port": 1 + number % 60000, "protocol": "TCP"}])


def blocks(number: int) -> Json:
    """A policy of 11,900 networks, ever different."""
    first = number % 200
    cidrs = [f"{11 + first}.{n >> 8}.{n & 255}.{number % 256}/32" for n in range(11_900)]
    return _ingress({}, [{"ipBlock": {"cidr": cidr}} for cidr in cidrs])


KINDS: dict[str, tuple[Callable[[int], Json], int, float, str]] = {
    "products": (products, 60, 10, "60 policies of 1,000 excepts and 1,000 named ports"),
    "one-pod": (one_pod, 10_000, 1000, "10,000 policies on one pod, one after the other"),
    "all-pods": (all_pods, 2_000, 200, "2,000 policies on 100 pods, one after the other"),
    "blocks": (blocks, 60, 10, "60 policies of 11,900 networks"),
}
"""What makes a policy; how many, at how many a second; and in words."""


def written(kind: str, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield the policies of a kind."""
    make = KINDS[kind][0]
    for number in range(count):
        yield policy(number, make(number))


def main() -> None:
    kind, count, rate = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
    batch = max(1, min(PUTS, round(rate * _TICK)))
    with Etcd() as etcd:
        print("started", flush=True)
        begin, done = time.monotonic(), 0
        some: list[tuple[str, bytes]] = []
        for one in written(kind, count):
            some.append(one)
            if len(some) < batch:
                continue
            etcd.put(some)
            done += len(some)
            some = []
            time.sleep(max(0.0, begin + done / rate - time.monotonic()))
        if some:
            etcd.put(some)
        print(count, time.monotonic() - begin, flush=True)


if __name__ == "__main__":
    main()
