"""What ``ipBlock`` entries say: parts that others cover, and addresses of pods, Services and nodes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from agent.kube.address import covers
from agent.kube.model import IPBlock, Peer, Port, Rule
from agent.lint.finding import Hit
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


def opens(block: IPBlock, network: Network) -> bool:
    """Whether a block allows every address of a network."""
    return covers(block.cidr, network) and not any(
        covers(out, network) or covers(network, out) for out in block.excepts
    )


def share_ports(one: tuple[Port, ...], other: tuple[Port, ...]) -> bool:
    """Whether two lists of ports have one in common; names are equal or nothing is known of them."""
    if not one or not other:
        return True
    return any(_meet(a, b) for a in one for b in other)


def _meet(a: Port, b: Port) -> bool:
    if a.protocol is not b.protocol:
        return False
    if a.port is None or b.port is None:
        return True
    if isinstance(a.port, int) and isinstance(b.port, int):
        return a.port <= (b.end or b.port) and b.port <= (a.end or a.port)
    return a.port == b.port


def except_path(policy: Policy, path: str, network: Network) -> str:
    """Return the path of an except, which the value has in another order than the text."""
    index_of = path.removeprefix("spec.")
    node: object = policy.spec
    for step in index_of.replace("]", "").replace("[", ".").split("."):
        if isinstance(node, list):
            node = node[int(step)]
        elif isinstance(node, dict):
            node = node.get(step)
    entries = node.get("except") if isinstance(node, dict) else None
    for index, text in enumerate(entries if isinstance(entries, list) else ()):
        if str(text) == str(network):
            return f"{path}.except[{index}]"
    return f"{path}.except"


def except_covered(policy: Policy, _: Scene) -> Iterator[Hit]:
    blocks = [*_blocks(policy)]
    for one in blocks:
        for out in one.block.excepts:
            opener = next(
                (
                    other
                    for other in blocks
                    if other.direction is one.direction
                    and other.path != one.path
                    and opens(other.block, out)
                    and share_ports(one.rule.ports, other.rule.ports)
                ),
                None,
            )
            if opener is not None:
                yield Hit(
                    except_path(policy, one.path, out),
                    f"{out} is allowed after all: {opener.block.cidr} at "
                    f"{opener.path.removeprefix('spec.')} covers it",
                    f"make {out} an except of that block, too, or remove one of the two",
                )


def block_covered(policy: Policy, _: Scene) -> Iterator[Hit]:
    for one in _blocks(policy):
        for index, peer in enumerate(one.rule.peers):
            outer = peer.block
            if outer is not None and outer.cidr != one.block.cidr and opens(outer, one.block.cidr):
                yield Hit(
                    f"{one.path}.cidr",
                    f"{one.block.cidr} adds nothing: {PEERS[one.direction]}[{index}] allows all of "
                    f"{outer.cidr}",
                    "remove the one or the other",
                )
                break


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
    addresses = {address: pod.key for pod in scene.pods for address in pod.addresses}
    for one in _blocks(policy):
        cidr = one.block.cidr
        within = next((r for r in scene.pod_ranges if covers(r.network, cidr)), None)
        what = f"is in the pod range {within.network} ({within.source})" if within else ""
        if not what and cidr.prefix == 8 * len(cidr.address) and cidr.address in addresses:
            what = f"is the address of Pod {addresses[cidr.address]}"
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
    for one in _blocks(policy):
        # The first range that is open shows it; a cluster of a thousand nodes has as many.
        r = next(
            (
                r
                for r in scene.pod_ranges
                if covers(one.block.cidr, r.network)
                and one.block.cidr != r.network
                and not any(covers(out, r.network) for out in one.block.excepts)
            ),
            None,
        )
        if r is not None:
            yield Hit(
                f"{one.path}.cidr",
                f"{one.block.cidr} holds the pod range {r.network} ({r.source}): its pods match, too",
                f"if only addresses outside the cluster are meant, add except: [{r.network}]",
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


def peer_blocks(rule: Rule) -> Iterator[IPBlock]:
    """Give the blocks of a rule; of a rule without peers, those of every address."""
    if not rule.peers:
        yield IPBlock(Network(bytes(4), 0))
        yield IPBlock(Network(bytes(16), 0))
    yield from (peer.block for peer in rule.peers if isinstance(peer, Peer) and peer.block is not None)
