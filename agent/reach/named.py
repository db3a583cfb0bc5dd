"""Ends that somebody names: namespaces, workloads, pods, Services, Ingresses, addresses, the internet."""

from __future__ import annotations

import difflib
import ipaddress
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from agent.kube.facts import Ingress, Service
from agent.kube.model import IPBlock, Key
from agent.net import Network
from agent.reach.admits import Rules
from agent.reach.ends import INTERNET, By, End, Place, place_of, pods_at
from agent.reach.given import Given
from agent.reach.known import bits
from agent.spec.question import KINDS

HOW = "NAMESPACE, NAMESPACE/NAME, NAMESPACE/KIND/NAME (as shop/service/api), an address, or internet"


class Unknown(NamedTuple):
    """Nothing is called so; ``why`` says so, for people."""

    why: str


def block_of(text: str) -> IPBlock | None:
    """Return the block that a text names, or the one address; None where it names none."""
    try:
        found = ipaddress.ip_network(text)
    except ValueError:
        return None
    return IPBlock(Network(found.network_address.packed, found.prefixlen))


def named(text: str, given: Given, rules: Rules, ends: Mapping[End, Place]) -> dict[End, Place] | Unknown:
    """Return the ends that a text names, of those that there are; a Service is an end of its own."""
    if block_of(text) is not None or text == INTERNET:
        return _outside(text, rules, ends)
    words = text.split("/")
    if len(words) == 1:
        found = {end: place for end, place in ends.items() if end.namespace == text and end.kind}
        return found or _unknown(f"there is no pod in a namespace {text}", text, {e.namespace for e in ends})
    if len(words) > 3 or not all(words):
        return Unknown(f"{text!r} names nothing; write {HOW}")
    if len(words) == 3:
        namespace, kind, name = words
        if _kind(namespace) and not _kind(kind):
            namespace, kind = kind, namespace
        if (meant := _kind(kind)) is None:
            return Unknown(f"{text!r}: {kind} is no kind known here; write {HOW}")
        if meant in ("Service", "Ingress"):
            return _behind(meant, Key(namespace, name), given, rules)
        return _workload(End(namespace, meant, name), given, rules, ends)
    key = Key(*words)
    found = {end: place for end, place in ends.items() if (end.namespace, end.name) == key and end.kind}
    if not found and key in rules.known.standings:
        found = pods_at(rules, given.owners, By.POD, [key])
    if not found:
        service = _behind("Service", key, given, rules)
        if not isinstance(service, Unknown):
            return service
    names = {f"{end.namespace}/{end.name}" for end in ends if end.kind}
    return found or _unknown(f"there is no workload, pod or Service {key}", str(key), names)


def _kind(word: str) -> str | None:
    return "Ingress" if word.lower() in ("ingress", "ing", "ingresses") else KINDS.get(word.lower())


def _workload(end: End, given: Given, rules: Rules, ends: Mapping[End, Place]) -> dict[End, Place] | Unknown:
    if end in ends:
        return {end: ends[end]}
    if end.kind == "Pod":
        found = pods_at(rules, given.owners, By.POD, [Key(end.namespace, end.name)])
    else:
        found = {one: place for one, place in pods_at(rules, given.owners, By.WORKLOAD).items() if one == end}
    names = {one.name for one in ends if one.namespace == end.namespace}
    return found or _unknown(f"there is no pod of {end.kind} {end.namespace}/{end.name}", end.name, names)


def _behind(kind: str, key: Key, given: Given, rules: Rules) -> dict[End, Place] | Unknown:
    """Return the pods of a Service, or of all Services that an Ingress names, as one end."""
    services = {fact.key: fact for fact in given.facts if isinstance(fact, Service)}
    ingresses = {fact.key: fact for fact in given.facts if isinstance(fact, Ingress)}
    known: Iterable[Key] = services if kind == "Service" else ingresses
    if key not in known:
        return _unknown(f"there is no {kind} {key}", str(key), set(map(str, known)))
    meant = [key] if kind == "Service" else [Key(key.namespace, name) for name in ingresses[key].services]
    pods = [
        pod
        for one in meant
        for pod in rules.known.standings
        if one in services and _selects(services[one], pod, rules)
    ]
    if not pods:
        return Unknown(f"{kind} {key} has no pods")
    standings: dict[object, set[Key]] = {}
    for pod in pods:
        standings.setdefault(rules.known.standings[pod], set()).add(pod)
    place = place_of(
        {rules.known.standings[pod]: standings[rules.known.standings[pod]] for pod in pods}, given.owners
    )
    return {End(key.namespace, kind, key.name): place}


def _selects(service: Service, key: Key, rules: Rules) -> bool:
    """Whether a Service selects a pod; one without a selector selects none (ServiceSpec, core/v1)."""
    labels = rules.known.cluster.pods[key].labels
    return (
        key.namespace == service.key.namespace
        and bool(service.selector)
        and service.selector.items() <= labels.items()
    )


def _outside(text: str, rules: Rules, ends: Mapping[End, Place]) -> dict[End, Place] | Unknown:
    block = block_of(text)
    if block is None:
        found = {end: place for end, place in ends.items() if end == End("", "", INTERNET)}
        return found or Unknown("there is no address that is no pod's")
    inside = rules.known.of_block.get(block, 0)
    chosen = set(bits(inside))
    pods = {
        key: standing for key, standing in rules.known.standings.items() if chosen.issuperset(standing.parts)
    }
    if block.cidr.prefix == block.cidr.family.bits:
        for end, place in ends.items():
            if any(key in pods for keys in place.pods.values() for key in keys):
                return {end: place}
    parts = tuple(part for part in chosen if rules.known.parts[part].look is None)
    if not parts:
        return Unknown(f"every address of {text} is a pod's; name the pod")
    return {End("", "", text): Place({}, tuple(sorted(parts)))}


def _unknown(why: str, asked: str, names: Iterable[str]) -> Unknown:
    near = difflib.get_close_matches(asked, sorted(filter(None, names)), 1)
    return Unknown(why + (f"; did you mean {near[0]}?" if near else f"; write {HOW}"))
