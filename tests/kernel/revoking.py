"""An agent without a cluster that grants and revokes one permission on end, until it is killed.

Run as ``python -m tests.kernel.revoking MODE WAY CLIENT SERVER``, in the node's network namespace: ``CLIENT``
and ``SERVER`` are IPv4 addresses, ``WAY`` is one of :data:`WAYS`.
"""

from __future__ import annotations

import itertools
import sys
import time
from collections.abc import Mapping
from random import Random

from agent.kube.events import Event, Upsert
from agent.kube.model import Kind, Pod, Rule
from agent.policy.engine import Engine
from tests.build import labelled, packed
from tests.kernel.kernel_state import HERE, gone, make_backend, namespace, pods_of, policy

_ALLOWING = policy("allowing", selector=labelled(app="server"), ingress=[Rule((pods_of(app="client"),))])


def _pod(name: str, address: str, app: str) -> Upsert:
    return Upsert(Kind.POD, Pod("default", name, name, {"app": app}, HERE, (packed(address),)))


def ways(client: str) -> Mapping[str, tuple[Event, Event]]:
    """Return, by name, what grants and what revokes."""
    return {
        "member": (_pod("client", client, "client"), _pod("client", client, "another")),
        "rule": (_ALLOWING, gone(_ALLOWING)),
    }


WAYS = tuple(ways("127.0.0.1"))


def main(mode: str, way: str, client: str, server: str) -> None:
    random = Random()
    engine = Engine(HERE)
    isolating = policy("isolating", selector=labelled(app="server"), ingress=[])
    beginning = (_pod("client", client, "client"), _pod("server", server, "server"), isolating, _ALLOWING)
    engine.apply([namespace("default"), *beginning], 0.0)
    backend = make_backend("legacy" if mode == "legacy" else "nft")
    backend.sync(engine.lowered)
    print("revoking", flush=True)
    for event in itertools.cycle(reversed(ways(client)[way])):
        backend.apply(engine.lowered, engine.apply([event], 0.0))
        time.sleep(random.uniform(0, 0.01))


if __name__ == "__main__":
    main(*sys.argv[1:])
