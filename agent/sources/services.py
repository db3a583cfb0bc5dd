"""A Service and the pods behind it, as a source finds them when somebody asks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

from agent.kube.model import Key


class ServicePort(NamedTuple):
    """A port of a Service: its name, which may be empty, its protocol's name, and its number."""

    name: str
    protocol: str
    number: int


class Backend(NamedTuple):
    """One endpoint of a Service: the pod, if it is one, a packed address of it, and whether it is ready.

    ``ports`` gives the number there for each of the Service's ports, by name and protocol's name.
    """

    pod: Key | None
    address: bytes
    ready: bool
    ports: Mapping[tuple[str, str], int]


class FoundService(NamedTuple):
    """A Service, its packed ClusterIPs, its ports and its endpoints. A headless one has no ClusterIP."""

    key: Key
    addresses: tuple[bytes, ...]
    ports: tuple[ServicePort, ...]
    backends: tuple[Backend, ...]

    @property
    def headless(self) -> bool:
        return not self.addresses


class ServicesError(Exception):
    """Services cannot be read; the message says why, and what to do."""
