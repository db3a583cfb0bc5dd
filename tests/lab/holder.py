"""A process that holds a node's guard, as systemd starts it: with a socket to say that it is ready."""

from __future__ import annotations

import socket
import sys
from pathlib import Path
from typing import Self

from tests.lab.cluster import python_of, wait_until
from tests.lab.forking import Process
from tests.lab.node import Node
from tests.lab.place import LabError
from tests.patience import PATIENCE


class Holder:
    """``netpol-agent guard --hold`` on a node; a context manager, which waits until it is ready.

    ``forked``: see :class:`tests.lab.cluster.AgentProcess`. ``log``: its log, of this process alone.
    """

    def __init__(self, node: Node, *, forked: bool = True) -> None:
        self.log = node.directory / "hold.log"
        place = node.directory / "notify"
        place.unlink(missing_ok=True)
        self._told = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._told.setblocking(False)
        self._told.bind(str(place))
        command = ["agent", "guard", "--hold", "--iptables-mode", node.mode, "--log-format", "console"]
        command += ["--pod-networks", f"{node.cidr4},{node.cidr6}"]
        environment = {**python_of(Path(__file__).parents[2]), "NOTIFY_SOCKET": str(place)}
        with self.log.open("wb") as output:
            self.process: Process = (
                node.fork(*command, output=output, environment=environment)
                if forked
                else node.popen([sys.executable, "-m", *command], output=output, environment=environment)
            )

    def wait_ready(self) -> None:
        """Wait until it says that it is ready. Raises LabError when it ends before."""

        def ready() -> bool:
            # One that is not needed says so and ends: whether it had ended is asked before what it said.
            ended = self.process.poll() is not None
            try:
                return self._told.recv(100) == b"READY=1"
            except BlockingIOError:
                pass
            if ended:
                raise LabError(f"the guard is not held: {self.said()}")
            return False

        wait_until(ready)

    def said(self) -> str:
        """Return its log."""
        return self.log.read_text(errors="replace")

    def __enter__(self) -> Self:
        try:
            self.wait_ready()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End it, if it still runs."""
        self._told.close()
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait(PATIENCE)
