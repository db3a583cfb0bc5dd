"""``netpol-agent render``: from manifests to what would be programmed for a node, touching nothing."""

from __future__ import annotations

import json
from typing import NamedTuple

from agent.commands.suggest import did_you_mean
from agent.kube.events import Upsert
from agent.kube.model import Key, Node, Pod, kind_of
from agent.net import Direction, Family, address_text
from agent.policy.budget.excess import Excess
from agent.policy.engine import Engine
from agent.policy.lower.lowered import LoweredProgram
from agent.runtime import backends
from agent.setting_values import Families
from agent.settings import Settings
from agent.sources.manifests.once import Read
from agent.words import some

_FAMILIES = {Families.IPV4: (Family.V4,), Families.IPV6: (Family.V6,)}


class Rendered(NamedTuple):
    """What one node would be given: the program, and its text for people and for JSON."""

    node: str
    program: LoweredProgram
    text: str
    sets: str
    tables: dict[Family, str]
    over_budget: dict[Key, Excess]


def only_node(manifests: Read) -> str:
    """Return the node that pods are on; raises ValueError, naming those there are, when it is not one."""
    nodes = _nodes(manifests)
    if len(nodes) == 1:
        return nodes[0]
    if not nodes:
        raise ValueError(
            "no pod in the manifests has a spec.nodeName: --node-name says whose rules to print."
        )
    raise ValueError(f"the pods are on {len(nodes)} nodes; choose one with --node-name: {', '.join(nodes)}.")


def unknown_node(manifests: Read, node: str) -> str:
    """Say that there is no node of a name, as far as the manifests know nodes; "" when there may be."""
    nodes = _nodes(manifests)
    known = {*nodes, *(found.name for found in manifests.objects if isinstance(found, Node))}
    if node in known or not known:
        return ""
    return (
        f"no node {node} in the manifests{did_you_mean(node, sorted(known)) or ';'} there are: {some(known)}"
    )


def _nodes(manifests: Read) -> list[str]:
    return sorted({found.node for found in manifests.objects if isinstance(found, Pod) and found.node})


def render(manifests: Read, settings: Settings) -> Rendered:
    """Return what would be programmed for the settings' node; the same objects give the same text.

    Of the families ``auto`` takes both: what this host has says nothing of that node.
    """
    node = settings.node_name
    engine = Engine(
        node,
        allow_nodes=settings.allow_nodes,
        budgets=settings.budgets,
        logging=settings.logging,
        deny_new=settings.denies_new,
        pod_networks=settings.pod_networks,
    )
    engine.apply([Upsert(kind_of(found), found) for found in manifests.objects], 0.0)
    program = engine.lowered
    families = _FAMILIES.get(settings.families, tuple(Family))
    text, sets, tables = backends.render(program, settings, families)
    return Rendered(node, program, f"# node {node}\n{text}", sets, tables, engine.over_budget())


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
        "overBudget": {str(key): str(excess) for key, excess in sorted(rendered.over_budget.items())},
        "ipset": rendered.sets,
        "iptables": {f"ipv{family.value}": text for family, text in rendered.tables.items()},
    }
    return json.dumps(document, indent=2) + "\n"
