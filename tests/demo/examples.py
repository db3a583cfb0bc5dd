"""The examples as values: pods, policies one after another, and who is expected to reach what.

Reads only what the stage needs; the agent itself reads the manifests as it reads any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec

from agent.net import Protocol

Reach = Mapping[str, frozenset[str]]
"""For each source, the destinations it reaches."""


class Destination(NamedTuple):
    """A port that is tried: the pod or host it is on, and its number."""

    name: str
    at: str
    protocol: Protocol
    port: int


class ExamplePod(NamedTuple):
    """A pod of the example cluster and its addresses."""

    name: str
    v4: str
    v6: str


@dataclass(frozen=True)
class Example:
    """One policy file: its path, what its first comment says, and who reaches what with all so far."""

    path: Path
    explanation: str
    reach: Reach

    @property
    def title(self) -> str:
        return self.path.stem.replace("-", " ")


@dataclass(frozen=True)
class Examples:
    """The cluster without policy, and the policies in order. ``hosts`` are outside the cluster, in order."""

    cluster: Path
    pods: tuple[ExamplePod, ...]
    hosts: tuple[str, ...]
    destinations: tuple[Destination, ...]
    reach: Reach
    steps: tuple[Example, ...]

    @property
    def sources(self) -> tuple[str, ...]:
        return tuple(self.reach)

    def tried(self, source: str, destination: Destination) -> bool:
        """Whether the demo tries a way: not to oneself, and not between two hosts outside."""
        return source != destination.at and not (source in self.hosts and destination.at in self.hosts)


class ExampleError(Exception):
    """An example says what cannot be; the text names the file."""


class _Destination(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    at: str
    tcp: int | None = None
    udp: int | None = None


class _Verdicts(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    reaches: dict[str, list[str]]
    destinations: dict[str, _Destination] = {}


class _IP(msgspec.Struct, frozen=True):
    ip: str


class _Metadata(msgspec.Struct, frozen=True):
    name: str


class _Status(msgspec.Struct, frozen=True, rename="camel"):
    pod_ips: tuple[_IP, ...] = msgspec.field(default=(), name="podIPs")


class _Manifest(msgspec.Struct, frozen=True):
    kind: str
    metadata: _Metadata
    status: _Status = _Status()


def read(directory: Path) -> Examples:
    """Read the examples of a directory; raises ExampleError or msgspec.MsgspecError."""
    cluster = directory / "cluster.yaml"
    verdicts = _verdicts(directory / "cluster.verdicts")
    destinations = tuple(_destination(name, d) for name, d in verdicts.destinations.items())
    pods = tuple(_pods(cluster))
    names = {pod.name for pod in pods}
    places = [*verdicts.reaches, *(destination.at for destination in destinations)]
    hosts = tuple(dict.fromkeys(name for name in places if name not in names))
    reach = _reach(cluster.with_suffix(".verdicts"), verdicts, destinations)
    paths = sorted(path for path in directory.glob("*.yaml") if path != cluster)
    steps = tuple(
        Example(
            path,
            _explanation(path),
            _reach(path.with_suffix(".verdicts"), _verdicts(path.with_suffix(".verdicts")), destinations),
        )
        for path in paths
    )
    for step in steps:
        if step.reach.keys() != reach.keys():
            raise ExampleError(f"{step.path.with_suffix('.verdicts')}: list the sources {', '.join(reach)}")
    return Examples(cluster, pods, hosts, destinations, reach, steps)


def _verdicts(path: Path) -> _Verdicts:
    try:
        return msgspec.yaml.decode(path.read_bytes(), type=_Verdicts)
    except (OSError, msgspec.MsgspecError) as error:
        raise ExampleError(f"{path}: {error}") from error


def _reach(path: Path, verdicts: _Verdicts, destinations: tuple[Destination, ...]) -> Reach:
    known = {destination.name for destination in destinations}
    for source, names in verdicts.reaches.items():
        if strange := set(names) - known:
            raise ExampleError(f"{path}: {source} reaches {', '.join(sorted(strange))}: no such destination")
    return {source: frozenset(names) for source, names in verdicts.reaches.items()}


def _destination(name: str, destination: _Destination) -> Destination:
    if destination.tcp is not None:
        return Destination(name, destination.at, Protocol.TCP, destination.tcp)
    if destination.udp is not None:
        return Destination(name, destination.at, Protocol.UDP, destination.udp)
    raise ExampleError(f"destination {name}: give it a tcp or a udp port")


def _pods(path: Path) -> list[ExamplePod]:
    documents = path.read_text().split("\n---\n")
    manifests = [msgspec.yaml.decode(document, type=_Manifest) for document in documents]
    return [
        ExamplePod(manifest.metadata.name, *(address.ip for address in manifest.status.pod_ips))
        for manifest in manifests
        if manifest.kind == "Pod"
    ]


def _explanation(path: Path) -> str:
    lines = []
    for line in path.read_text().splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.removeprefix("#").strip())
    return " ".join(lines)
