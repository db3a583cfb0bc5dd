"""Selectors held against the pods and namespaces of the input."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence

from agent.kube.model import Operator, Peer, Requirement, Selector
from agent.kube.validate import METADATA_NAME
from agent.lint.finding import Hit
from agent.lint.rules.shape import PEERS, contradiction, rules_of
from agent.lint.scene import Policy, Scene, SeenPod
from agent.words import some

_NEAR = 0.6
_SLIP = 0.9
"""So alike are the names of a namespace in the files and of one that is not, where that is a slip."""


def selects_no_pod(policy: Policy, scene: Scene) -> Iterator[Hit]:
    selector, namespace = policy.value.pod_selector, policy.key.namespace
    if not scene.knows(namespace):
        yield from _in_wrong_namespace(policy, scene)
        return
    if not selector.requirements or scene.selected(policy):
        return
    pods = scene.pods_of.get(namespace, ())
    if any(hit.path == "spec.podSelector" for hit in contradiction(policy, scene)):
        return
    found = _elsewhere(selector, pods, scene.pods)
    yield Hit(
        "spec.podSelector",
        f"no pod of namespace {namespace} matches {selector}, so the policy does nothing"
        + (f"; such pods are in namespace {some(found)}" if found else ""),
        _remedy(selector, [pod.labels for pod in pods], "podSelector"),
    )


def _in_wrong_namespace(policy: Policy, scene: Scene) -> Iterator[Hit]:
    """Say of a policy in a namespace that the input does not tell of that another was likely meant."""
    selector, namespace = policy.value.pod_selector, policy.key.namespace
    found = _elsewhere(selector, (), scene.pods)
    if not found or not scene.namespaces or namespace in scene.namespaces:
        return
    if not policy.metadata.get("namespace"):
        if not selector.requirements or any(path.startswith("spec.podSelector") for path in policy.broken):
            return
        yield Hit(
            "metadata",
            "names no namespace, so the policy goes to that of kubectl -n, else to default; the pods that it "
            f"selects are in namespace {some(found)}",
            f"write namespace: {found[0]}" + (" or another of these" if len(found) > 1 else ""),
        )
    elif near := [name for name in found if name in scene.namespaces and _is_slip(namespace, name)]:
        yield Hit(
            "metadata.namespace",
            f"no Namespace here is called {namespace}, but one is called {near[0]}",
            f"did you mean {near[0]}?",
        )


def _is_slip(written: str, meant: str) -> bool:
    """Whether a name is another with letters exchanged, or one wrong; a number at its end is another name."""
    if written.rstrip("0123456789") == meant.rstrip("0123456789"):
        return False
    alike = difflib.SequenceMatcher(None, written, meant).ratio() >= _SLIP
    return alike or sorted(written) == sorted(meant)


def peer_matches_no_pod(policy: Policy, scene: Scene) -> Iterator[Hit]:
    contradicted = {hit.path for hit in contradiction(policy, scene)}
    for direction, path, rule in rules_of(policy):
        for index, peer in enumerate(rule.peers):
            here = f"{path}.{PEERS[direction]}[{index}].podSelector"
            if peer.pod_selector is None or not peer.pod_selector.requirements or here in contradicted:
                continue
            if scene.peer_pods(policy, peer) == ():
                before = rule.peers[index - 1] if index else None
                yield _unmatched(policy, scene, peer, before, here)


def _unmatched(policy: Policy, scene: Scene, peer: Peer, before: Peer | None, path: str) -> Hit:
    selector = peer.pod_selector or Selector()
    namespaces = scene.namespaces_of(policy, peer) or []
    pods = [pod for name in namespaces for pod in scene.pods_of.get(name, ())]
    found = _elsewhere(selector, pods, scene.pods)
    alone = peer.namespace_selector is None
    where = f"; such pods are in namespace {some(found)}" if found else ""
    if found and alone:
        where += ", and a podSelector alone means the policy's own namespace"
    elif found:
        where += f", which {peer.namespace_selector} does not match; in one entry both selectors must match"
    return Hit(
        path,
        f"no pod of namespace {some(namespaces)} matches {selector}{where}",
        (_to_reach(policy, scene, peer, before, found) if found else "")
        or _remedy(selector, [pod.labels for pod in pods], "podSelector"),
    )


def _to_reach(policy: Policy, scene: Scene, peer: Peer, before: Peer | None, found: Sequence[str]) -> str:
    """Say how to mean pods of other namespaces, by what the entry or the one before it already has."""
    if peer.namespace_selector is not None:
        if [*found] == [policy.key.namespace]:
            return "to allow these pods, put a dash before podSelector; else correct one of the selectors"
        return "to allow these pods, correct the namespaceSelector"
    namespaces = before.namespace_selector if before is not None and before.pod_selector is None else None
    if namespaces is not None and any(namespaces.matches(scene.labels_of[name]) for name in found):
        return "to allow these pods, remove the dash before podSelector, so that it joins the entry before"
    return f"to allow these pods, add a namespaceSelector with {METADATA_NAME}: {found[0]} to the same entry"


def _elsewhere(selector: Selector, pods: Sequence[SeenPod], others: Iterable[SeenPod]) -> list[str]:
    """Return the namespaces of pods that a selector matches, other than of these pods."""
    mine = {pod.title for pod in pods}
    return sorted({p.key.namespace for p in others if p.title not in mine and selector.matches(p.labels)})


def _remedy(selector: Selector, labels: Sequence[Mapping[str, str]], field: str) -> str:
    """Name the labels that were likely meant, else those that there are."""
    for requirement in selector.requirements:
        if requirement.operator is not Operator.IN:
            continue
        key, values = requirement.key, {one[requirement.key] for one in labels if requirement.key in one}
        if values & set(requirement.values):
            continue
        near = [n for v in requirement.values for n in difflib.get_close_matches(v, values, 1, _NEAR)]
        if near:
            return f"did you mean {key}={near[0]}?"
        keys = {one for each in labels for one in each}
        near = difflib.get_close_matches(key, keys - {key}, 1, _NEAR) if not values else []
        by_value = sorted(k for one in labels for k, v in one.items() if v in requirement.values and k != key)
        if near or by_value:
            return f"did you mean {(by_value or near)[0]}={requirement.values[0]}?"
        if values:
            return f"correct the {field}; {key} is one of {some(values)} there"
    found = {f"{key}={value}" for one in labels for key, value in one.items()}
    there = f"; labels there: {some(found)}" if found else ""
    return f"correct the {field} or the labels of the pods{there}"


def namespace_label_unknown(policy: Policy, scene: Scene) -> Iterator[Hit]:
    contradicted = {hit.path for hit in contradiction(policy, scene)}
    for direction, path, rule in rules_of(policy):
        for index, peer in enumerate(rule.peers):
            selector = peer.namespace_selector
            here = f"{path}.{PEERS[direction]}[{index}].namespaceSelector"
            if selector is None or not selector.requirements or here in contradicted:
                continue
            if any(selector.matches(labels) for labels in scene.labels_of.values()):
                continue
            if not (scene.complete or _tells(scene, selector)):
                continue
            known = [scene.labels_of[name] for name in sorted(scene.labels_of)]
            yield Hit(
                here,
                f"no namespace matches {selector}",
                _by_name(selector, scene) or _remedy(selector, known, "namespaceSelector"),
            )


def _tells(scene: Scene, selector: Selector) -> bool:
    """Whether files show that a selector is wrong: they have Namespace objects, and none has the label.

    A namespace that is meant by its name may well be in other files, unless the name is nearly one of these.
    """
    positive = [r for r in selector.requirements if r.operator in (Operator.IN, Operator.EXISTS)]
    names = [r for r in positive if r.key == METADATA_NAME]
    if names:
        known = set(scene.labels_of)
        return any(difflib.get_close_matches(v, known, 1, _SLIP) for r in names for v in r.values)
    return bool(scene.namespaces) and any(_unseen(scene, r) for r in positive)


def _unseen(scene: Scene, requirement: Requirement) -> bool:
    alone = Selector((requirement,))
    return not any(alone.matches(labels) for labels in scene.labels_of.values())


def _by_name(selector: Selector, scene: Scene) -> str:
    """Say how a namespace is selected by its name, where that was likely meant."""
    for requirement in selector.requirements:
        if requirement.key == METADATA_NAME:
            continue
        for value in requirement.values:
            if value in scene.labels_of:
                return f"to name a namespace, write {METADATA_NAME}: {value}; every namespace has that label"
    return ""
