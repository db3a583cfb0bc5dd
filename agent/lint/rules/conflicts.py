"""Policies on the same pods of which one opens what the other seems meant to close.

Policies add up: a connection is allowed if any of the policies on a pod allows it. None of them can take away
what another one allows.
"""

from __future__ import annotations

import enum
import functools
from collections.abc import Iterator

from agent.kube.model import Rule
from agent.lint.finding import Hit
from agent.lint.rules.blocks import except_paths
from agent.lint.rules.shape import PEERS, rules_of
from agent.lint.scene import Policy, Scene, narrower
from agent.net import Direction


class _Reach(enum.Enum):
    """How the pods of one policy lie to those of another."""

    SAME = enum.auto()
    WITHIN = enum.auto()
    AROUND = enum.auto()
    SOME = enum.auto()


def _reach(one: Policy, other: Policy, scene: Scene) -> tuple[_Reach, str] | None:
    """Return how the pods of ``one`` lie to those of ``other``, with a pod of both; None: they share none.

    The pod is "" where the input has no pods of the namespace. Only selectors that include each other by
    their text are then known to share one.
    """
    mine, theirs = one.value.pod_selector, other.value.pod_selector
    within, around = narrower(mine, theirs), narrower(theirs, mine)
    shown = ""
    if scene.knows(one.key.namespace):
        selected = {pod.title for pod in scene.selected(other)}
        both = [pod.title for pod in scene.selected(one) if pod.title in selected]
        if not both:
            return None
        shown = min(both)
        if not (within or around):
            within, around = len(both) == len(scene.selected(one)), len(both) == len(selected)
    if within and around:
        return _Reach.SAME, shown
    if within or around:
        return (_Reach.WITHIN if within else _Reach.AROUND), shown
    return (_Reach.SOME, shown) if shown else None


def _opens_all(rules: tuple[Rule, ...] | None) -> bool:
    return any(not rule.peers and not rule.ports for rule in rules or ())


def _openers(policy: Policy, scene: Scene, direction: Direction) -> Iterator[tuple[Policy, _Reach, str]]:
    """Give the policies that allow everything of pods that this one is on, and how its pods lie to theirs."""
    for other in scene.enforced[policy.key.namespace]:
        if other is policy or not _opens_all(other.value.rules(direction)):
            continue
        found = _reach(policy, other, scene)
        if found is not None:
            yield other, *found


def _at(pod: str) -> str:
    return f" (on {pod}, for example)" if pod else ""


def closed_but_open(policy: Policy, scene: Scene) -> Iterator[Hit]:
    for direction in Direction:
        if policy.value.rules(direction) != ():
            continue
        for other, reach, pod in _openers(policy, scene, direction):
            if reach is _Reach.AROUND:
                continue
            yield Hit(
                "spec.podSelector",
                f"allows no {direction}, but {other.key} allows all {direction} of "
                f"{'some of ' if reach is _Reach.SOME else ''}the same pods{_at(pod)}: policies add up, so "
                f"all {direction} is allowed",
                f"narrow {other.key} so that it does not select these pods, or remove one of the two",
            )
            break


def opened_in_closed(policy: Policy, scene: Scene) -> Iterator[Hit]:
    for direction in Direction:
        if not _opens_all(policy.value.rules(direction)):
            continue
        for other in scene.enforced[policy.key.namespace]:
            if other is policy or other.value.rules(direction) != ():
                continue
            found = _reach(policy, other, scene)
            if found is None or found[0] is not _Reach.WITHIN:
                continue
            yield Hit(
                "spec.podSelector",
                f"allows all {direction} of pods that {other.key} closes{_at(found[1])}: policies add up, so "
                f"all {direction} of these pods is allowed, and the others stay closed",
                "nothing, if that is meant; else name the peers and ports in this policy",
            )
            break


def without_effect(policy: Policy, scene: Scene) -> Iterator[Hit]:
    for direction in Direction:
        rules = policy.value.rules(direction)
        if not rules or _opens_all(rules):
            continue
        for other, reach, pod in _openers(policy, scene, direction):
            if reach not in (_Reach.SAME, _Reach.WITHIN):
                continue
            yield Hit(
                f"spec.{direction}",
                f"these rules have no effect: {other.key} allows all {direction} of the same pods{_at(pod)}",
                f"narrow {other.key}, or remove these rules",
            )
            break


def same_policy(policy: Policy, scene: Scene) -> Iterator[Hit]:
    mine = _meaning(policy)
    for other in scene.beside[policy.key.namespace]:
        if other is policy:
            return
        if other.value.pod_selector == policy.value.pod_selector and _meaning(other) == mine:
            yield Hit("metadata.name", f"says the same as {other.key}", "remove one of the two")
            return


def _meaning(policy: Policy) -> tuple[object, object]:
    def of(rules: tuple[Rule, ...] | None) -> object:
        if rules is None:
            return None
        return frozenset((frozenset(rule.peers), frozenset(rule.ports)) for rule in rules)

    return of(policy.value.ingress), of(policy.value.egress)


def except_opened(policy: Policy, scene: Scene) -> Iterator[Hit]:
    beside = [other for other in scene.enforced[policy.key.namespace] if other is not policy]
    on_same_pods = functools.cache(lambda at: _reach(policy, beside[at], scene))
    for direction, path, rule in rules_of(policy):
        openings = [scene.openings(other, direction, everywhere=True) for other in beside]
        for index, peer in enumerate(rule.peers):
            if peer.block is None or not peer.block.excepts:
                continue
            path_of = except_paths(policy, f"{path}.{PEERS[direction]}[{index}].ipBlock")
            for out in peer.block.excepts:
                for at, other in enumerate(beside):
                    if openings[at].sharing(out, rule.ports) is None or (found := on_same_pods(at)) is None:
                        continue
                    yield Hit(
                        path_of(out),
                        f"{out} is allowed after all: {other.key} allows it for the same "
                        f"pods{_at(found[1])}, and policies add up",
                        f"narrow {other.key}, or remove the except",
                    )
                    break
