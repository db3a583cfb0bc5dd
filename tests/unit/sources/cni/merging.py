"""What merges results into the pods of a node, with all that it tells on."""

from __future__ import annotations

import ipaddress

from agent.kube.events import Event, Synced, Upsert
from agent.kube.model import Key, Kind, Pod
from agent.sources.cni.early import Early
from agent.sources.cni.result import Result

V4, OTHER, V6 = (ipaddress.ip_address(text).packed for text in ("10.1.0.2", "10.1.0.3", "fd01::2"))
WEB = Key("shop", "web")
CREATED = "2026-01-01T00:00:00Z"
CREATED_NS = 1_767_225_600 * 10**9


class Stage:
    """Merges, and keeps what was told on."""

    def __init__(self) -> None:
        self.told: list[Event] = []
        self.wanted: list[Key] = []
        self.links = {"cni0", "veth1"}
        self.withdrawn: list[tuple[int, Event, set[bytes]]] = []
        """After how many events, by which, and what."""
        self.early = Early(
            "here",
            lambda events: self.told.extend(events),
            self.wanted.append,
            self.links.__contains__,
            lambda event, gone: self.withdrawn.append((len(self.told), event, {*gone})),
        )
        self.take(Synced(Kind.POD))
        self.told.clear()

    def take(self, *events: Event) -> None:
        self.early.take(events)

    def upsert(self, found: Pod) -> Pod:
        """Tell of a pod; return it as it was told on."""
        self.take(Upsert(Kind.POD, found))
        return self.last

    def find(
        self, *addresses: bytes, uid: str = "u1", name: str = "1", at: int = CREATED_NS, live: bool = True
    ) -> None:
        links = ("cni0", f"veth{name}")
        self.early.found(name, Result(WEB, uid, f"c{name}", addresses, at, links), live=live)

    @property
    def last(self) -> Pod:
        event = self.told[-1]
        assert isinstance(event, Upsert)
        assert isinstance(event.object, Pod)
        return event.object


def pod(
    *addresses: bytes, uid: str = "u1", node: str = "here", host_network: bool = False, finished: bool = False
) -> Pod:
    return Pod(
        "shop",
        "web",
        uid,
        node=node,
        addresses=addresses,
        host_network=host_network,
        finished=finished,
        created=CREATED,
    )
