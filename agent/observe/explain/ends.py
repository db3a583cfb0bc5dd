"""Which pods and addresses a question means: a Service's or a workload's name stands for several."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from agent.kube.model import Key, Pod
from agent.net import address_text
from agent.sources.services import Backend, FoundService, ServicesError
from agent.spec import unjudged
from agent.spec.evaluator import Endpoint
from agent.spec.question import KINDS, Question, Service
from agent.spec.workloads import pods_of, workloads_of

_SHOWN = 3

NO_SERVICES = "this agent reads manifests, which say nothing of Services: ask about a pod behind it"


class Unresolved(Exception):  # noqa: N818 - it is an answer
    """What is asked about stands for no pod; the message says why, and what to ask."""


class Inventory(NamedTuple):
    """What is known of pods and Services. For any thread.

    ``has``: whether a pod, or a pod with an address, is known; ``pods``: all of them, which costs a scan;
    ``named`` and ``at`` find a Service by name or address and raise ServicesError; None where there are none.
    """

    has: Callable[[Endpoint], bool]
    pods: Callable[[], Sequence[Pod]]
    named: Callable[[Key], FoundService | None] | None = None
    at: Callable[[bytes], FoundService | None] | None = None


@dataclass
class Resolved:
    """What a question means: questions about pods and addresses, and what there is to know of that."""

    questions: list[Question] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def resolve(question: Question, inventory: Inventory) -> Resolved:
    """Return the questions that one question stands for. Raises Unresolved."""
    found = Resolved()
    sources = _sources(question.source, inventory, found)
    for destination, service in _destinations(question, inventory, found):
        found.questions += [Question(source, destination, service) for source in sources]
    return found


def _sources(end: Endpoint, inventory: Inventory, found: Resolved) -> list[Endpoint]:
    meant = _meant(end, inventory, found, is_source=True)
    if isinstance(meant, FoundService):
        found.notes.append(_about(meant, "its pods are meant"))
        return _endpoints(meant.backends)
    return meant


def _destinations(
    question: Question, inventory: Inventory, found: Resolved
) -> Iterator[tuple[Endpoint, Service]]:
    meant = _meant(question.destination, inventory, found, is_source=False)
    if isinstance(meant, FoundService):
        yield from _behind(meant, question.service, found)
    else:
        yield from ((one, question.service) for one in meant)


def _meant(
    end: Endpoint, inventory: Inventory, found: Resolved, *, is_source: bool
) -> list[Endpoint] | FoundService:
    if isinstance(end, bytes):
        return _by_address(end, inventory, found, is_source=is_source)
    word, slash, name = end.name.rpartition("/")
    if slash:
        return _by_kind(KINDS[word], Key(end.namespace, name), inventory, found)
    if inventory.has(end):
        return [end]
    if end.namespace in KINDS:
        # A word such as svc is no namespace here: no pod was found in it.
        return _by_kind(KINDS[end.namespace], Key("", end.name), inventory, found)
    service = _service_like(end)
    trouble = ""
    if inventory.named is not None:
        try:
            if (there := inventory.named(service)) is not None:
                return there
        except ServicesError as error:
            trouble = f"; {error}"
    return _by_name(end, inventory, found, trouble)


def _service_like(end: Key) -> Key:
    """Return which Service a name would be: ``SERVICE.NAMESPACE.svc``, with or without its end, or plain.

    The DNS specification of Kubernetes, 2.3.
    """
    labels = end.name.split(".")
    inner = labels[: labels.index("svc", 1)] if "svc" in labels[1:] else labels
    return Key(inner[1], inner[0]) if len(inner) == 2 else end


def _by_address(
    end: bytes, inventory: Inventory, found: Resolved, *, is_source: bool
) -> list[Endpoint] | FoundService:
    if inventory.has(end):
        return [end]
    if line := unjudged.never_judged(end):
        raise Unresolved(line)
    if not is_source and inventory.at is not None:
        try:
            if (there := inventory.at(end)) is not None:
                return there
        except ServicesError as error:
            found.notes.append(f"whether {address_text(end)} is a Service's address is not known: {error}")
    return [end]


def _by_kind(kind: str, key: Key, inventory: Inventory, found: Resolved) -> list[Endpoint] | FoundService:
    if kind == "Pod":
        pods = [pod.key for pod in inventory.pods() if pod.name == key.name]
        return _some([pod for pod in pods if key.namespace in ("", pod.namespace)], f"there is no pod {key}")
    if kind == "Node":
        raise Unresolved(f"Node {key.name} is no pod; ask about its address")
    if kind == "Service":
        return _service(Key(key.namespace or "default", key.name), inventory)
    known = list(inventory.pods())
    whose = f"{kind} {key}"
    pods = pods_of(known, kind, key.name, key.namespace)
    if pods:
        found.notes.append(f"{whose} has {_counted(pods)}")
    names = {name for pod in known for of, name in workloads_of(pod) if of == kind}
    near = difflib.get_close_matches(key.name, sorted(names), 1)
    return _some(pods, f"no pod is of {whose}" + (f"; did you mean {near[0]}?" if near else ""))


def _service(key: Key, inventory: Inventory) -> FoundService:
    if inventory.named is None:
        raise Unresolved(f"Service {key}: {NO_SERVICES}")
    try:
        there = inventory.named(key)
    except ServicesError as error:
        raise Unresolved(str(error)) from None
    if there is None:
        raise Unresolved(f"there is no Service {key}")
    return there


def _by_name(end: Key, inventory: Inventory, found: Resolved, trouble: str) -> list[Endpoint]:
    """Return the pods of the workload of a name, of whatever kind; a pod that is like it is only named."""
    here = [pod for pod in inventory.pods() if pod.namespace == end.namespace]
    for pod in here:
        for kind, name in workloads_of(pod):
            if name == end.name:
                pods = pods_of(here, kind, name, end.namespace)
                found.notes.append(f"{end} is a {kind}, which has {_counted(pods)}")
                return list(pods)
    names = sorted(pod.name for pod in here)
    near = [name for name in names if name.startswith(f"{end.name}-")][:_SHOWN]
    near = near or difflib.get_close_matches(end.name, names, 1)
    meant = ", ".join(f"{end.namespace}/{name}" for name in near)
    where = "" if here else f", and no pod in namespace {end.namespace} is known"
    raise Unresolved(f"there is no pod {end}{where}" + (f"; did you mean {meant}?" if near else "") + trouble)


def _behind(service: FoundService, asked: Service, found: Resolved) -> Iterator[tuple[Endpoint, Service]]:
    """Give the endpoints of a Service, each with the port there that a port of the Service stands for."""
    protocol = asked.protocol.name
    ports = [port for port in service.ports if port.protocol == protocol]
    chosen = next((port for port in ports if asked.port in (port.number, port.name)), None)
    if chosen is None and not service.headless:
        known = ", ".join(_port_text(port.name, port.number, port.protocol) for port in service.ports)
        raise Unresolved(
            f"Service {service.key} has no port {asked.port} for {protocol}; its ports: {known or 'none'}"
        )
    ready = [backend for backend in service.backends if backend.ready]
    if not ready:
        many = f"none of its {len(service.backends)} is ready" if service.backends else "it has none"
        raise Unresolved(f"Service {service.key} has no endpoint that takes connections: {many}")
    if service.headless:
        found.notes.append(_about(service, "it is headless, so its ports are not translated"))
        yield from ((one, asked) for one in _endpoints(ready))
        return
    numbers: dict[Endpoint, int] = {}
    for backend in ready:
        number = backend.ports.get((chosen.name, protocol)) if chosen is not None else None
        if number is not None:
            numbers.setdefault(backend.pod or backend.address, number)
    if not numbers:
        raise Unresolved(f"Service {service.key}: no endpoint has its port {asked.port}")
    told = ", ".join(map(str, sorted(set(numbers.values()))))
    judged = f"; policies judge {told}, the port of the pod" if set(numbers.values()) != {asked.port} else ""
    on = f"{protocol} {told} on {_pods(numbers)}{judged}"
    found.notes.append(_about(service, f"port {asked.port} there is {on}"))
    if len(ready) < len(service.backends):
        found.notes.append(f"{len(service.backends) - len(ready)} of its endpoints are not ready: left out")
    yield from ((one, Service(asked.protocol, number)) for one, number in numbers.items())


def _endpoints(backends: Iterable[Backend]) -> list[Endpoint]:
    return list(dict.fromkeys(b.pod or b.address for b in backends))


def _port_text(name: str, number: int, protocol: str) -> str:
    return f"{number}/{protocol.lower()}" + (f" ({name})" if name else "")


def _about(service: FoundService, what: str) -> str:
    address = f" ({', '.join(map(address_text, service.addresses))})" if service.addresses else ""
    return f"Service {service.key}{address}: {what}"


def _pods(ends: Iterable[Endpoint]) -> str:
    ends = list(ends)
    return "1 endpoint" if len(ends) == 1 else f"{len(ends)} endpoints"


def _counted(pods: Sequence[Key]) -> str:
    return f"{len(pods)} {'pod' if len(pods) == 1 else 'pods'}"


def _some(pods: Iterable[Key], otherwise: str) -> list[Endpoint]:
    found: list[Endpoint] = [*pods]
    if not found:
        raise Unresolved(otherwise)
    return found
