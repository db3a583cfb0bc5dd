"""``netpol-agent render``: from manifests to what would be programmed for a node, touching nothing."""

from __future__ import annotations

import json
from pathlib import Path
from typing import NamedTuple

from agent.dataplane.iptables.text import render_sets, render_tables, render_text
from agent.kube.events import Upsert
from agent.kube.model import (
    Direction,
    Family,
    Kind,
    Namespace,
    NetworkPolicy,
    Node,
    Object,
    Pod,
    address_text,
)
from agent.node import options_of
from agent.policy.engine import Engine
from agent.policy.program import Program
from agent.settings import Families, Settings
from agent.sources.manifests import read_manifests

_FAMILIES = {Families.IPV4: (Family.V4,), Families.IPV6: (Family.V6,)}


class Manifests(NamedTuple):
    """What a directory holds: the objects in force, and a line for each thing refused."""

    objects: tuple[Object, ...]
    refused: tuple[str, ...]


class Rendered(NamedTuple):
    """What one node would be given: the program, and its text for people and for JSON."""

    node: str
    program: Program
    text: str
    sets: str
    tables: dict[Family, str]


def read(directory: Path) -> Manifests:
    """Read a directory of manifests, strictly."""
    return Manifests(*read_manifests(directory))


def only_node(manifests: Manifests) -> str:
    """Return the node that pods are on; raises ValueError, naming those there are, when it is not one."""
    nodes = _nodes(manifests)
    if len(nodes) == 1:
        return nodes[0]
    if not nodes:
        raise ValueError(
            "no pod in the manifests has a spec.nodeName: --node-name says whose rules to print."
        )
    raise ValueError(f"the pods are on {len(nodes)} nodes; choose one with --node-name: {', '.join(nodes)}.")


def warning(manifests: Manifests, node: str) -> str | None:
    """Return what is odd about a node's name, if anything: that pods name other nodes, and not this one."""
    nodes = _nodes(manifests)
    if node in nodes or not nodes:
        return None
    shown = ", ".join(nodes[:5]) + (", ..." if len(nodes) > 5 else "")
    return f"no pod names the node {node}, so nothing is enforced there; pods name: {shown}"


def _nodes(manifests: Manifests) -> list[str]:
    return sorted({found.node for found in manifests.objects if isinstance(found, Pod) and found.node})


def render(manifests: Manifests, settings: Settings) -> Rendered:
    """Return what would be programmed for the settings' node; the same objects give the same text.

    Of the families ``auto`` takes both: what this host has says nothing of that node.
    """
    node = settings.node_name
    engine = Engine(node, allow_nodes=settings.allow_nodes)
    engine.apply([Upsert(_kind(found), found) for found in manifests.objects], 0.0)
    program, options = engine.program, options_of(settings)
    families = _FAMILIES.get(settings.families, tuple(Family))
    return Rendered(
        node,
        program,
        f"# node {node}\n{render_text(program, options, families)}",
        render_sets(program, options, families),
        dict(render_tables(program, options, families)),
    )


def as_json(rendered: Rendered) -> str:
    """Return the same as JSON: which pods are isolated by what, and the texts."""
    program = rendered.program
    pods: dict[str, dict[str, object]] = {}
    for (direction, key), pod in sorted(program.pods.items()):
        entry = pods.setdefault(str(key), {"addresses": [address_text(a) for a in pod.addresses]})
        entry[direction.value] = [str(policy) for policy in pod.policies]
    policies = {
        direction.value: sorted(
            str(policy.policy) for policy in program.policies if policy.direction is direction
        )
        for direction in Direction
    }
    document = {
        "node": rendered.node,
        "isolatedPods": pods,
        "policies": policies,
        "ipset": rendered.sets,
        "iptables": {f"ipv{family.value}": text for family, text in rendered.tables.items()},
    }
    return json.dumps(document, indent=2) + "\n"


def _kind(found: Object) -> Kind:
    kinds = {Pod: Kind.POD, Namespace: Kind.NAMESPACE, NetworkPolicy: Kind.POLICY, Node: Kind.NODE}
    return kinds[type(found)]
