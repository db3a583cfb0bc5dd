"""What the API server's source has told, and a server of many pods to tell of."""

from __future__ import annotations

import functools
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from agent.kube.events import Delete, Event, Synced, Upsert
from agent.kube.model import Key, Kind
from agent.sources.apiserver.source import ApiSource
from tests.lab.apiserver import PORT, ApiServer
from tests.lab.cluster import wait_until

ADDRESS = "10.255.0.1"
# The agent comes by an address of its own, so that its packets alone can be dropped.
AGENT_ADDRESS = "10.255.0.2"
PODS = 1200

wait = functools.partial(wait_until, interval=0.002)
"""What is told comes within milliseconds."""


class Heard:
    """A source inside the server's namespace, and everything it told."""

    def __init__(
        self, server: ApiServer, user: str = "admin", *, config: Path | None = None, **options: Any
    ) -> None:
        self.config = config or _by_its_own_address(server.kubeconfig(user))
        self.batches: list[Sequence[Event]] = []
        self.source = ApiSource(str(self.config), **options)
        with server.netns.entered():
            # Threads live in the namespace of the thread that starts them.
            self.source.start(self.batches.append)

    def stop(self, seconds: float = 10.0) -> None:
        """End its threads, for none of which that is long to wait; every pause and silence may be longer."""
        self.source.stop()
        wait(lambda: not any(self.source.threads().values()), seconds)

    @property
    def events(self) -> list[Event]:
        return [event for batch in list(self.batches) for event in batch]

    def of(self, kind: Kind, name: str) -> list[Event]:
        return [e for e in self.events if _name(e) == (kind, name)]

    def deleted(self, kind: Kind, key: Key) -> bool:
        """Whether an object was told to be gone, whatever the server said of when."""
        return any(isinstance(e, Delete) and (e.kind, e.key) == (kind, key) for e in self.events)

    def synced(self) -> bool:
        return all(state.synced for state in self.source.states().values())

    def faults(self) -> list[str]:
        return [state.fault for state in self.source.states().values() if state.fault]


def _by_its_own_address(path: Path) -> Path:
    """Write and return such a kubeconfig by which the agent comes to the server by an address of its own."""
    config = json.loads(path.read_text())
    config["clusters"][0]["cluster"] |= {
        "server": f"https://{AGENT_ADDRESS}:{PORT}",
        "tls-server-name": ADDRESS,
    }
    written = path.with_name(f"source-{path.name}")
    written.write_text(json.dumps(config))
    return written


def _name(event: Event) -> tuple[Kind, str]:
    if isinstance(event, Upsert):
        return event.kind, event.object.name
    return event.kind, "" if isinstance(event, Synced) else event.key.name


def create_many(server: ApiServer, pods: int) -> None:
    """Create pods p0, p1, and so on in the namespace "many", which is there."""

    def create(part: int) -> None:
        client = server.client.another()
        for number in range(part, pods, 4):
            client.create_pod("many", f"p{number}", node="n", addresses=())

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(create, range(4)))


def drop(server: ApiServer, *, on: bool) -> None:
    """Drop every packet between the agent and the server, as a lost path does."""
    for side in ("-d", "-s"):
        server.netns.run(["iptables", "-D" if not on else "-I", "OUTPUT", side, AGENT_ADDRESS, "-j", "DROP"])
