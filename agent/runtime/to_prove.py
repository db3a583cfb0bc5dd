"""What is handed to a proof: the objects of one moment, and what the rules depend on besides them."""

from __future__ import annotations

import msgspec

from agent.dataplane.backend import Around
from agent.net import Direction
from agent.policy.extract import Extract
from agent.policy.program import Program
from agent.proof.given import Given, without_rules
from agent.runtime.frames import NOT_GUARDED, Settled


def given(head: Given, program: Program, objects: Extract, around: Around, frames: Settled | None) -> Given:
    """Return ``head`` with all objects, which the kernel enforces as ``program``, and what is around.

    ``frames``: whose the kernel guards, None while that is being written.
    """
    guarded = NOT_GUARDED if frames is None else frames
    over = objects.over_budget
    return msgspec.structs.replace(
        head,
        pods=objects.pods,
        namespaces=objects.namespaces,
        policies=tuple(without_rules(p) if p.key in over else p for p in objects.policies),
        closed={str(direction): tuple(program.closed[direction]) for direction in Direction},
        node_networks=tuple(program.node_networks),
        uplinks=tuple(around.uplinks),
        links=around.links,
        tunnels={int(family): tuple(sorted(ports)) for family, ports in around.tunnels.items()},
        tunnel_protocols={
            int(family): tuple(sorted(some)) for family, some in around.tunnel_protocols.items()
        },
        closing=tuple(around.closing),
        frames=guarded.links,
        holders={number: tuple(addresses) for number, addresses in guarded.held.items()},
    )
