"""An agent whose status is served, and who is connected with its server."""

from __future__ import annotations

import threading
import time

from agent.kube.model import Kind
from agent.observe.connections import Connections
from agent.observe.health import Health
from agent.observe.server import RouteServer
from agent.observe.snapshot import StatusSnapshot
from agent.sources.source import SyncState


class Agent:
    """Stands in for the daemon: what the server asks, and how often."""

    def __init__(self, snapshot: StatusSnapshot) -> None:
        self.synced = True
        self.snapshot = snapshot
        self.asked = 0
        self.block = threading.Event()
        self.block.set()

    def health(self) -> Health:
        now = time.time()
        return Health(now, now, {Kind.POD: SyncState(self.synced, 1, now, now)}, applied=True)

    def status(self) -> StatusSnapshot:
        self.asked += 1
        self.block.wait(120)
        if self.asked > 100:
            raise RuntimeError("no snapshot today")
        return self.snapshot


def connections_of(server: RouteServer) -> Connections:
    """Return the open connections of a server that has its port."""
    assert server._server is not None
    return server._server.connections
