"""Other programs that write a node's rules: firewalld and dockerd, as their Debian packages have them."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

from tests.lab.cluster import wait_until
from tests.lab.node import Node
from tests.lab.place import LabError
from tests.lab.unpacked import ended, overlaid, unpacked

_CONFIGURATION = """\
DefaultZone=trusted
CleanupOnExit=yes
CleanupModulesOnExit=no
Lockdown=no
IPv6_rpfilter=no
IndividualCalls=no
LogDenied=off
FirewallBackend={backend}
FlushAllOnReload=yes
RFC3964_IPv4=no
"""
"""Debian's own, but for the zone, which forwards what it is given, and for what else drops packets."""


class _Daemon(ABC):
    """A daemon out of its Debian package; a context manager."""

    def __init__(self, node: Node, package: str, program: str) -> None:
        self._node = node
        self._root = unpacked(package)
        self._over = _with_variant(node)
        self._log = node.directory / f"{program}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @abstractmethod
    def stop(self) -> None:
        """End it, if it runs."""

    def _run(self, command: Sequence[str], writable: Sequence[str], is_up: Callable[[], bool]) -> None:
        """Start it, and wait until it is up. Raises LabError if it ends, or is not up in time."""
        self._log.unlink(missing_ok=True)
        with self._log.open("wb") as log:
            overlay = overlaid(self._root, command, over=self._over, writable=writable)
            self._process = self._node.popen(overlay, output=log)

        def there() -> bool:
            if self._process is None or self._process.poll() is not None:
                raise LabError(f"{self._log.stem} has ended:\n{_tail(self._log)}")
            return is_up()

        try:
            wait_until(there, interval=0.1)
        except TimeoutError as error:
            raise LabError(f"{self._log.stem} is not up ({error}):\n{_tail(self._log)}") from None


class Firewalld(_Daemon):
    """firewalld on a node; a context manager. ``backend``: by which it writes, ``nftables`` or ``iptables``.

    With ``iptables`` it flushes all tables when it starts, reloads and stops. Call it from the main thread.
    """

    def __init__(self, node: Node, backend: str) -> None:
        super().__init__(node, "firewalld", "firewalld")
        self._backend = backend
        configuration = self._over / "etc/firewalld/firewalld.conf"
        configuration.parent.mkdir(exist_ok=True)
        configuration.write_text(_CONFIGURATION.format(backend=backend))

    def start(self) -> None:
        """Start it, and wait until it has written its rules. Raises LabError."""
        script = (
            "mkdir -p /run/dbus && { dbus-daemon --system --nofork --nopidfile & } && "
            "until test -S /run/dbus/system_bus_socket; do sleep 0.05; done && "
            "exec firewalld --nofork --nopid --debug=1"
        )
        self._run(["sh", "-c", script], ["/var/log"], lambda: self.rules() != "")

    def reload(self) -> None:
        """Have it write everything anew, as ``firewall-cmd --reload`` does."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def stop(self) -> None:
        """End it; it removes its rules."""
        if self._process is not None:
            ended(self._process)
            # The bus that it was started with is of its session.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process = None

    def rules(self) -> str:
        """Return its last rules, "" where there are none."""
        if self._backend == "nftables":
            return self._node.run("nft", "list", "table", "inet", "firewalld", check=False)
        found = self._node.run(f"iptables-{self._node.mode}", "-S", "FORWARD", check=False)
        return found if "FORWARD_POLICIES_POST" in found or "FORWARD_direct" in found else ""


class Dockerd(_Daemon):
    """dockerd on a node, with its bridge and no container; a context manager.

    Call it from the main thread.
    """

    def __init__(self, node: Node) -> None:
        super().__init__(node, "docker.io", "dockerd")

    def start(self) -> None:
        """Start it, and wait until it serves: its rules are there. Raises LabError."""
        self._run(
            ["dockerd", "--storage-driver=vfs"],
            ["/var/lib", "/var/log", "/etc/docker"],
            lambda: "API listen" in self._log.read_text(errors="replace"),
        )

    def stop(self) -> None:
        """End it; its rules stay, as they do on a node."""
        if self._process is not None:
            ended(self._process)
            self._process = None


def _with_variant(node: Node) -> Path:
    """Return a directory in which ``iptables`` and its like are those of the node's mode."""
    over = node.directory / "over"
    chosen = over / "etc/alternatives"
    chosen.mkdir(parents=True, exist_ok=True)
    for program in ("iptables", "ip6tables"):
        for action in ("", "-save", "-restore"):
            link = chosen / f"{program}{action}"
            if not link.is_symlink():
                link.symlink_to(f"/usr/sbin/{program}-{node.mode}{action}")
    return over


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]
