"""From texts to a scene, with what is wrong with the texts themselves: what an API server would refuse."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from agent.kube.facts import Service, ServiceRange, facts_of
from agent.kube.manifest import Entry, Manifest, read_entries, read_pod
from agent.kube.mode import NO_MODE, ModeSaid
from agent.kube.model import Key, Kind, Namespace, NetworkPolicy, Node, Pod
from agent.kube.policy import PROTOCOLS, read_policy
from agent.kube.text import UnreadableError
from agent.kube.workloads import TEMPLATES, workload_of
from agent.lint.finding import Hit
from agent.lint.modes import no_mode
from agent.lint.scene import DeclaredPort, Policy, Range, Scene, SeenPod, SeenService, ServicePort

_LINE = re.compile(r"line (\d+): ")
_EXCEPT = re.compile(r"\.except\[\d+\]$")


class Input(NamedTuple):
    """One text. ``context``: nothing is said of it, but what is in it counts for the others.

    ``base`` is the file's name, by which files of tools are known. ``cluster``: it is what an API server
    has, so what is not in it does not exist.
    """

    name: str
    text: bytes
    is_json: bool = False
    base: str = ""
    context: bool = False
    cluster: bool = False


class Place(NamedTuple):
    """Where an object is: the number of its input, its document there, its line, its place in lists."""

    source: int
    document: int
    line: int
    where: str


class Early(NamedTuple):
    """What reading found: the rule, the place, what object it is."""

    rule: str
    place: Place
    object: str
    hit: Hit


class Gathered(NamedTuple):
    """The scene, the place of each of its policies in their order, and what reading found."""

    scene: Scene
    places: tuple[Place, ...]
    found: tuple[Early, ...]
    apart: tuple[tuple[Policy, Place], ...] = ()
    """The policies that are not enforced as written: refused ones as far as they can be read, and those whose
    name another one has."""


class _Gathering:
    def __init__(self, pod_ranges: Sequence[Range], service_ranges: Sequence[Range]) -> None:
        self.policies: list[tuple[Policy, Place]] = []
        self.apart: list[tuple[Policy, Place]] = []
        self.pods: dict[tuple[str, Key], SeenPod] = {}
        self.namespaces: dict[str, dict[str, str]] = {}
        self.staged: dict[str, ModeSaid] = {}
        self.services: dict[Key, SeenService] = {}
        self.pod_ranges = [*pod_ranges]
        self.service_ranges = [*service_ranges]
        self.node_addresses: dict[bytes, str] = {}
        self.found: list[Early] = []
        self.first: dict[tuple[str, Key], tuple[str, bool]] = {}
        """Where each object is, and whether that is context."""

    def take(self, number: int, source: Input) -> None:
        try:
            for entry in read_entries(source.text, is_json=source.is_json, name=source.base, dump=True):
                self._entry(number, source, entry)
        except UnreadableError as error:
            self._unreadable(Place(number, 0, 1, ""), str(error), source)

    def _unreadable(self, place: Place, text: str, source: Input) -> None:
        if source.context:
            return
        line = _LINE.match(text)
        message, _, remedy = text[line.end() if line else 0 :].rpartition("; ")
        at = place._replace(line=int(line[1])) if line else place
        # The field, if any, is in the message; the line is all that is sure.
        self.found.append(Early("unreadable", at, "", Hit("", message or remedy, remedy if message else "")))

    def _entry(self, number: int, source: Input, entry: Entry) -> None:
        place = Place(number, entry.document, entry.line, entry.where)
        if entry.wrong:
            self._unreadable(place, entry.wrong, source)
            return
        manifest = entry.manifest
        if manifest is not None:
            if not self._once(entry.kind, manifest.key, place, source):
                if manifest.kind is Kind.POLICY and not source.context:
                    self._problems(manifest, place)
                    self._apart(manifest, entry, place)
                return
            self._manifest(manifest, entry, place, source)
        if entry.kind == "Service":
            self._service(entry)
        elif entry.kind in ("ServiceCIDR", "ConfigMap") or (manifest and manifest.kind is Kind.POD):
            facts = facts_of(entry.kind, entry.data)
            self.service_ranges += [Range(f.network, f.source) for f in facts if isinstance(f, ServiceRange)]
        self._workload(entry, place, source)

    def _once(self, kind: str, key: Key, place: Place, source: Input) -> bool:
        """Whether an object is the first of its name; what is in a file holds before what a cluster has."""
        at = f"{source.name}:{place.line}"
        before = self.first.setdefault((kind, key), (at, source.context))
        if before[0] == at and before[1] == source.context:
            return True
        if not source.context:
            hit = Hit(
                "metadata.name",
                f"written before at {before[0]}",
                "keep one of the two, or give one another name",
            )
            self.found.append(Early("written-twice", place, f"{kind} {key}", hit))
        return False

    def _manifest(self, manifest: Manifest, entry: Entry, place: Place, source: Input) -> None:
        title = f"{manifest.kind} {manifest.key}"
        if not source.context:
            self._problems(manifest, place)
            if manifest.kind is Kind.POLICY and manifest.value is None:
                self._apart(manifest, entry, place)
        value = manifest.value
        if isinstance(value, NetworkPolicy):
            spec, meta = _mapping(entry.data.get("spec")), _mapping(entry.data.get("metadata"))
            self.policies.append((Policy(value, spec, meta, entry.version, source.context), place))
        elif isinstance(value, Namespace):
            self.namespaces[value.name] = value.labels
            self.staged[value.name] = value.staging
            if not source.context:
                hits = no_mode(value.staging, "its policies that do not say their own mode are")
                self.found += [Early("mode-unknown", place, title, hit) for hit in hits]
        elif isinstance(value, Node):
            self.pod_ranges += [Range(cidr, f"podCIDR of Node {value.name}") for cidr in value.pod_cidrs]
            self.node_addresses.update((address, value.name) for address in value.addresses)
        elif isinstance(value, Pod) and not value.host_network and not value.finished:
            ports = tuple(_ports(_mapping(entry.data.get("spec"))))
            self.pods["Pod", value.key] = SeenPod(title, value.key, value.labels, ports, value.addresses)

    def _problems(self, manifest: Manifest, place: Place) -> None:
        for problem in manifest.problems:
            message, _, remedy = problem.message.partition("; ")
            rule = "refused"
            if manifest.stored and manifest.value is not None:
                rule = "stored-but-refused"
            elif _EXCEPT.search(problem.field) and "not strictly inside" in message:
                rule = "except-outside-block"
            title = f"{manifest.kind} {manifest.key}"
            self.found.append(Early(rule, place, title, Hit(problem.field, message, remedy)))

    def _apart(self, manifest: Manifest, entry: Entry, place: Place) -> None:
        spec, meta = _mapping(entry.data.get("spec")), _mapping(entry.data.get("metadata"))
        reading = read_policy(manifest.key, entry.data.get("spec"), strict=True)
        value = reading.policy or reading.partial
        if value is not None:
            broken = tuple(problem.field for problem in (*manifest.problems, *reading.problems))
            self.apart.append((Policy(value, spec, meta, entry.version, broken=broken), place))

    def _workload(self, entry: Entry, place: Place, source: Input) -> None:
        made = workload_of(entry.line, entry.version, entry.kind, entry.data, read_pod)
        if made is None or not self._once(made.kind, made.key, place, source):
            return
        title = f"{made.kind} {made.key}"
        for problem in made.problems if not source.context else ():
            message, _, remedy = problem.message.partition("; ")
            self.found.append(Early("refused", place, title, Hit(problem.field, message, remedy)))
        if made.pod is None or made.pod.host_network:
            return
        template: Mapping[str, Any] = entry.data
        for field in TEMPLATES[entry.version, entry.kind]:
            template = _mapping(template.get(field))
        ports = tuple(_ports(_mapping(template.get("spec"))))
        self.pods[made.kind, made.key] = SeenPod(title, made.key, made.pod.labels, ports)

    def _service(self, entry: Entry) -> None:
        for fact in facts_of("Service", entry.data):
            if isinstance(fact, Service):
                ports = tuple(_service_ports(_mapping(entry.data.get("spec"))))
                self.services.setdefault(
                    fact.key, SeenService(fact.key, fact.selector, ports, fact.addresses)
                )


def gather(
    inputs: Sequence[Input], pod_ranges: Sequence[Range] = (), service_ranges: Sequence[Range] = ()
) -> Gathered:
    """Read texts in their order; of an object that is written twice, the first holds."""
    gathering = _Gathering(pod_ranges, service_ranges)
    for number, source in enumerate(inputs):
        gathering.take(number, source)
    scene = Scene(
        tuple(
            policy._replace(mode=policy.value.mode(gathering.staged.get(policy.key.namespace, NO_MODE)))
            for policy, _ in gathering.policies
        ),
        tuple(gathering.pods.values()),
        gathering.namespaces,
        tuple(gathering.services.values()),
        tuple(gathering.pod_ranges),
        tuple(gathering.service_ranges),
        gathering.node_addresses,
        any(source.cluster for source in inputs),
    )
    return Gathered(
        scene, tuple(place for _, place in gathering.policies), tuple(gathering.found), tuple(gathering.apart)
    )


def _ports(spec: Mapping[str, Any]) -> Iterator[DeclaredPort]:
    """Give the ports that a pod's containers declare, those of sidecars, too."""
    sidecars = [one for one in _mappings(spec.get("initContainers")) if one.get("restartPolicy") == "Always"]
    for container in (*_mappings(spec.get("containers")), *sidecars):
        for port in _mappings(container.get("ports")):
            number, protocol = port.get("containerPort"), PROTOCOLS.get(str(port.get("protocol") or "TCP"))
            if isinstance(number, int) and protocol is not None:
                yield DeclaredPort(str(port.get("name") or ""), protocol, number)


def _service_ports(spec: Mapping[str, Any]) -> Iterator[ServicePort]:
    for port in _mappings(spec.get("ports")):
        number, protocol = port.get("port"), PROTOCOLS.get(str(port.get("protocol") or "TCP"))
        target = port.get("targetPort") or number
        if isinstance(number, int) and isinstance(target, int | str) and protocol is not None:
            yield ServicePort(str(port.get("name") or ""), protocol, number, target)


def _mapping(value: object) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _mappings(value: object) -> list[Mapping[str, Any]]:
    return [entry for entry in value if isinstance(entry, dict)] if isinstance(value, list) else []
