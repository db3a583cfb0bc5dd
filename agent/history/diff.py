"""What changed in an object, in lines for people: ``+ingress[1] from pods[app=web] port 80/TCP``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterator, Sequence
from difflib import SequenceMatcher
from typing import TypeVar

from agent.kube.model import (
    Namespace,
    NetworkPolicy,
    Node,
    Object,
    Peer,
    Pod,
    Port,
    Rule,
    Selector,
)
from agent.net import Direction, address_text
from agent.words import count, one_line

LINES = 20
"""Lines of one diff; the rest are counted."""
LINE = 300
"""Characters of one line."""
_SHOWN = 12
"""Peers or ports of one rule that are shown; the rest are counted."""
_COMPARED = 500
"""Rules of a direction that are compared one by one; of more, only the number is told."""
_PAIRS = 4 * _COMPARED
"""Pairs of equal rules among them; of more, which only a rule that is there many times makes, the same."""

T = TypeVar("T", bound=Hashable)


def lines(old: Object | None, new: Object | None) -> tuple[str, ...]:
    """Return what came (``+``) and what went (``-``) between two versions of an object.

    None stands for no object: all of the other came, or went. At most :data:`LINES` lines.
    """
    found = [one_line(line, LINE) for line in _lines(old, new)]
    if len(found) > LINES:
        return (*found[: LINES - 1], f"and {len(found) - LINES + 1} more")
    return tuple(found)


def _lines(old: Object | None, new: Object | None) -> Iterator[str]:
    kind = type(new if new is not None else old)
    if kind is NetworkPolicy:
        yield from _policy(_as(NetworkPolicy, old), _as(NetworkPolicy, new))
    elif kind is Pod:
        yield from _pod(_as(Pod, old), _as(Pod, new))
    elif kind is Namespace:
        yield from _namespace(_as(Namespace, old), _as(Namespace, new))
    elif kind is Node:
        yield from _came_and_went(
            _node_texts(_as(Node, old)),
            _node_texts(_as(Node, new)),
        )


O = TypeVar("O", NetworkPolicy, Pod, Namespace, Node)  # noqa: E741 - an object


def _as(kind: type[O], found: Object | None) -> O | None:
    return found if isinstance(found, kind) else None


def _policy(old: NetworkPolicy | None, new: NetworkPolicy | None) -> Iterator[str]:
    yield from _mode(old, new)
    before, after = (None if p is None else p.pod_selector for p in (old, new))
    if before != after:
        yield from (f"-selects {selector_text(selector)}" for selector in (before,) if selector is not None)
        yield from (f"+selects {selector_text(selector)}" for selector in (after,) if selector is not None)
    for direction in Direction:
        yield from _rules(
            direction.value,
            old.rules(direction) if old is not None else None,
            new.rules(direction) if new is not None else None,
        )


def _mode(old: NetworkPolicy | Namespace | None, new: NetworkPolicy | Namespace | None) -> Iterator[str]:
    yield from _came_and_went(
        () if old is None or old.staging.mode is None else (f"mode {old.staging.mode}",),
        () if new is None or new.staging.mode is None else (f"mode {new.staging.mode}",),
    )


def _rules(direction: str, old: tuple[Rule, ...] | None, new: tuple[Rule, ...] | None) -> Iterator[str]:
    if old == new:
        return
    if old is None:
        yield f"+isolates {direction}"
    if new is None:
        yield f"-isolates {direction}"
    old, new = old or (), new or ()
    # Most edits touch few of many rules: what is alike at either end need not be compared further.
    first = _alike(old, new)
    last = _alike(old[first:][::-1], new[first:][::-1])
    left, come = old[first : len(old) - last], new[first : len(new) - last]
    if left and come and (max(len(left), len(come)) > _COMPARED or _pairs(left, come) > _PAIRS):
        yield f"{direction}: {count(len(old), 'rule')} before, {len(new)} now"
        return
    for tag, a, b, c, d in SequenceMatcher(None, left, come, autojunk=False).get_opcodes():
        if tag == "replace" and b - a == d - c:
            for before, after in zip(range(a, b), range(c, d), strict=True):
                yield from _rule_change(
                    direction, (first + before, left[before]), (first + after, come[after])
                )
        elif tag != "equal":
            yield from (f"-{direction}[{first + n}] {rule_text(left[n], direction)}" for n in range(a, b))
            yield from (f"+{direction}[{first + n}] {rule_text(come[n], direction)}" for n in range(c, d))


def _pairs(old: Sequence[Rule], new: Sequence[Rule]) -> int:
    """Return how many pairs of equal rules there are: finding what is alike takes so long, many times."""
    seen = Counter(old)
    return sum(seen[rule] for rule in new)


def rule_texts(policy: NetworkPolicy, direction: Direction) -> tuple[str, ...] | None:
    """Return each rule of a direction in a line, in the policy's order; None where it names none."""
    rules = policy.rules(direction)
    return (
        None if rules is None else tuple(one_line(rule_text(rule, direction.value), LINE) for rule in rules)
    )


def _alike(old: Sequence[Rule], new: Sequence[Rule]) -> int:
    """Return how many rules at the beginning are equal."""
    pairs = enumerate(zip(old, new, strict=False))
    return next((number for number, (a, b) in pairs if a != b), min(len(old), len(new)))


def _rule_change(direction: str, old: tuple[int, Rule], new: tuple[int, Rule]) -> Iterator[str]:
    """Tell of one rule that became another; only the parts that differ where one kind of part does."""
    (before, gone), (after, come) = old, new
    word = _WORDS[direction]
    if before == after and gone.ports == come.ports and gone.peers and come.peers:
        went, came = _apart(gone.peers, come.peers)
        yield from (f"-{direction}[{after}] {word} {_peer(peer)}" for peer in went)
        yield from (f"+{direction}[{after}] {word} {_peer(peer)}" for peer in came)
    elif before == after and gone.peers == come.peers and gone.ports and come.ports:
        left, joined = _apart(gone.ports, come.ports)
        yield from (f"-{direction}[{after}] port {_port(port)}" for port in left)
        yield from (f"+{direction}[{after}] port {_port(port)}" for port in joined)
    else:
        yield f"-{direction}[{before}] {rule_text(gone, direction)}"
        yield f"+{direction}[{after}] {rule_text(come, direction)}"


_WORDS = {"ingress": "from", "egress": "to"}


def _apart(old: Sequence[T], new: Sequence[T]) -> tuple[list[T], list[T]]:
    before, after = set(old), set(new)
    return [one for one in old if one not in after], [one for one in new if one not in before]


def rule_text(rule: Rule, direction: str) -> str:
    """Return a rule in words: ``from pods[app=web] port 80/TCP``; some of its peers and ports, if many."""
    peers = _some([_peer(peer) for peer in rule.peers[: _SHOWN + 1]], len(rule.peers)) or "any"
    ports = _some([_port(port) for port in rule.ports[: _SHOWN + 1]], len(rule.ports)) or "any"
    return f"{_WORDS[direction]} {peers} port {ports}"


def _some(texts: list[str], number: int) -> str:
    more = f", and {number - _SHOWN} more" if number > _SHOWN else ""
    return ", ".join(texts[:_SHOWN]) + more


def selector_text(selector: Selector) -> str:
    """Return which pods of one namespace a selector means, in words."""
    return f"pods[{selector}]" if selector.requirements else "all pods"


def _peer(peer: Peer) -> str:
    if peer.block is not None:
        excepts = _some([str(network) for network in peer.block.excepts], len(peer.block.excepts))
        return f"{peer.block.cidr} except {excepts}" if excepts else str(peer.block.cidr)
    parts = []
    if peer.pod_selector is not None:
        parts.append(selector_text(peer.pod_selector))
    if peer.namespace_selector is not None:
        text = str(peer.namespace_selector)
        parts.append(f"namespaces[{text}]" if text else "all namespaces")
    # A field that is not known here matches nothing.
    return " in ".join(parts) or "nobody"


def _port(port: Port) -> str:
    number = "any" if port.port is None else str(port.port)
    end = "" if port.end is None else f"-{port.end}"
    return f"{number}{end}/{port.protocol.name}"


def _pod(old: Pod | None, new: Pod | None) -> Iterator[str]:
    if old is not None and new is not None and old.uid != new.uid:
        yield "another pod of the same name"
    if old is not None and new is not None and old.finished is not new.finished:
        yield "+finished" if new.finished else "-finished"
    yield from _came_and_went(
        () if old is None else tuple(f"address {address_text(address)}" for address in old.addresses),
        () if new is None else tuple(f"address {address_text(address)}" for address in new.addresses),
    )
    yield from _labels({} if old is None else old.labels, {} if new is None else new.labels)
    yield from _came_and_went(
        () if old is None else tuple(f"port {p.name} {p.port}/{p.protocol.name}" for p in old.ports),
        () if new is None else tuple(f"port {p.name} {p.port}/{p.protocol.name}" for p in new.ports),
    )


def _namespace(old: Namespace | None, new: Namespace | None) -> Iterator[str]:
    yield from _labels({} if old is None else old.labels, {} if new is None else new.labels)
    yield from _mode(old, new)
    before, after = (found is not None and found.ingress_isolated for found in (old, new))
    if before is not after:
        yield "+isolates ingress" if after else "-isolates ingress"


def _labels(old: dict[str, str], new: dict[str, str]) -> Iterator[str]:
    yield from _came_and_went(
        tuple(f"label {key}={value}" for key, value in old.items()),
        tuple(f"label {key}={value}" for key, value in new.items()),
    )


def _node_texts(node: Node | None) -> tuple[str, ...]:
    if node is None:
        return ()
    return (
        *(f"address {address_text(address)}" for address in node.addresses),
        *(f"pods' range {network}" for network in node.pod_cidrs),
    )


def _came_and_went(old: Sequence[str], new: Sequence[str]) -> Iterator[str]:
    went, came = _apart(old, new)
    yield from (f"-{text}" for text in went)
    yield from (f"+{text}" for text in came)
