"""What ``ipBlock`` entries say: parts that others cover, and addresses of pods, Services and nodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from agent.kube.model import IPBlock, Rule
from agent.lint.finding import Hit
from agent.lint.networks import Networks
from agent.lint.openings import Openings
from agent.lint.rules.shape import PEERS, rules_of
from agent.lint.scene import Policy, Scene
from agent.net import Direction, Network, address_text


class _Block(NamedTuple):
    direction: Direction
    rule: Rule
    path: str
    block: IPBlock


def _blocks(policy: Policy) -> Iterator[_Block]:
    for direction, path, rule in rules_of(policy):
        for index, peer in enumerate(rule.peers):
            if peer.block is not None:
                yield _Block(direction, rule, f"{path}.{PEERS[direction]}[{index}].ipBlock", peer.block)


def path_of(direction: Direction, rule: int, peer: int | None) -> str:
    """Return the path of a block from the spec on; of a rule without peers, the rule's."""
    return f"{direction}[{rule}]" + ("" if peer is None else f".{PEERS[direction]}[{peer}].ipBlock")


def except_paths(policy: Policy, path: str) -> Callable[[Network], str]:
    """Return what gives the path of an except: the value has them in another order than the text."""
    node: object = policy.spec
    for step in path.removeprefix("spec.").replace("]", "").replace("[", ".").split("."):
        if isinstance(node, list):
            node = node[int(step)]
        elif isinstance(node, dict):
            node = node.get(step)
    entries = node.get("except") if isinstance(node, dict) else None
    indexes: dict[str, int] = {}
    for index, text in enumerate(entries if isinstance(entries, list) else ()):
        indexes.setdefault(str(text), index)

    def path_of_except(network: Network) -> str:
        index = indexes.get(str(network))
        return f"{path}.except" if index is None else f"{path}.except[{index}]"

    return path_of_except


def except_covered(policy: Policy, scene: Scene) -> Iterator[Hit]:
    for one in _blocks(policy):
        openings = scene.openings(policy, one.direction)
        path = None
        for out in one.block.excepts:
            opener = openings.sharing(out, one.rule.ports)
            if opener is None:
                continue
            path = path or except_paths(policy, one.path)
            yield Hit(
                path(out),
                f"{out} is allowed after all: {opener.block.cidr} at "
                f"{path_of(one.direction, opener.rule, opener.peer)} covers it",
                f"make {out} an except of that block, too, or remove one of the two",
            )


def block_covered(policy: Policy, _: Scene) -> Iterator[Hit]:
    for direction, path, rule in rules_of(policy):
        openings = Openings((rule,))
        for index, peer in enumerate(rule.peers):
            if peer.block is None:
                continue
            cidr = peer.block.cidr
            outer = next((one for one in openings.around(cidr) if one.block.cidr != cidr), None)
            if outer is not None:
                yield Hit(
                    f"{path}.{PEERS[direction]}[{index}].ipBlock.cidr",
                    f"{cidr} adds nothing: {PEERS[direction]}[{outer.peer}] allows all of {outer.block.cidr}",
                    "remove the one or the other",
                )


def block_of_services(policy: Policy, scene: Scene) -> Iterator[Hit]:
    for one in _blocks(policy):
        if what := scene.is_of_services(one.block.cidr):
            remedy = "select the pods behind the Service with podSelector"
            if one.direction is Direction.INGRESS:
                remedy = "select the pods that connect with podSelector"
            yield Hit(
                f"{one.path}.cidr",
                f"{one.block.cidr} {what}, which never matches: policies are held against addresses after "
                "Services are translated to pods",
                remedy,
            )


def block_of_pods(policy: Policy, scene: Scene) -> Iterator[Hit]:
    networks, ranges = scene.pods_by_range
    for one in _blocks(policy):
        cidr = one.block.cidr
        within = next((ranges[around] for around in networks.around(cidr)), None)
        what = f"is in the pod range {within.network} ({within.source})" if within else ""
        if not what and cidr.prefix == 8 * len(cidr.address) and cidr.address in scene.pods_at:
            what = f"is the address of Pod {scene.pods_at[cidr.address]}"
        if within and within.network == cidr:
            yield Hit(
                f"{one.path}.cidr",
                f"{cidr} is a pod range ({within.source}): it holds pods of every namespace",
                "to mean every pod, write namespaceSelector: {}",
            )
        elif what:
            yield Hit(
                f"{one.path}.cidr",
                f"{cidr} {what}; a pod's address changes when it is made anew",
                "select the pods with podSelector and namespaceSelector",
            )


def block_covers_pods(policy: Policy, scene: Scene) -> Iterator[Hit]:
    networks, ranges = scene.pods_by_range
    for one in _blocks(policy):
        cidr, excepts = one.block.cidr, Networks(one.block.excepts)
        # The first range that is open shows it; a cluster of a thousand nodes has as many.
        inside = (inner for inner in networks.within(cidr) if inner != cidr)
        shown = next((ranges[inner] for inner in inside if not any(excepts.around(inner))), None)
        if shown is not None:
            yield Hit(
                f"{one.path}.cidr",
                f"{cidr} holds the pod range {shown.network} ({shown.source}): its pods match, too",
                f"if only addresses outside the cluster are meant, add except: [{shown.network}]",
            )


def block_of_nodes(policy: Policy, scene: Scene) -> Iterator[Hit]:
    for one in _blocks(policy):
        cidr = one.block.cidr
        if cidr.prefix == 8 * len(cidr.address) and cidr.address in scene.node_addresses:
            yield Hit(
                f"{one.path}.cidr",
                f"{address_text(cidr.address)} is the address of Node {scene.node_addresses[cidr.address]}; "
                "what a pod and its own node send each other is always allowed",
                "nothing, if other nodes' pods or the host's programs are meant; else remove it",
            )
