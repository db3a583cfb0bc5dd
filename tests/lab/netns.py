"""Network namespaces without names: held by a file descriptor, gone with the process that holds it.

Nothing is mounted under ``/run/netns`` and no interface is ever made in the host's namespace, so
runs cannot collide and even a killed one leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from agent.kernel.netlink import ROUTE, Message, NetlinkSocket, attribute
from tests.patience import PATIENCE

CLONE_NEWNET = 0x40000000

SIOCGIFFLAGS, SIOCSIFFLAGS, IFF_RUNNING = 0x8913, 0x8914, 0x40

SO_RCVBUFFORCE = 33
"""A receive buffer beyond the system's limit (socket(7)); Python's socket module does not name it."""

_RTM_GETROUTE, _RTA_DST, _RTA_OIF, _RTN_LOCAL = 26, 1, 4, 2
_RTMSG_REST, _RTMSG_TYPE = 8, 3
"""What follows the family's four bytes in an rtmsg (rtnetlink(7)): its size, and where the type is in it."""

_libc = ctypes.CDLL(None, use_errno=True)
_home = os.open("/proc/self/ns/net", os.O_RDONLY)
_here = threading.local()


def _check(result: int, what: str) -> None:
    if result != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{what}: {os.strerror(number)}")


def _set(fd: int) -> None:
    _check(_libc.setns(fd, CLONE_NEWNET), "setns")


def own_link_local(name: str, address: str) -> tuple[str, str]:
    """Return the commands for ``ip`` that give a link, not yet up, this link-local address, not the kernel's.

    It is good as soon as :meth:`Netns.wait_for_address` returns, which cannot be said of the kernel's.
    """
    return f"link set {name} addrgenmode none", f"addr add {address}/64 dev {name} nodad"


class CommandError(Exception):
    """A command run in a namespace failed; the text holds the command and what it printed."""


class Netns:
    """One network namespace, with loopback up and duplicate address detection off.

    ``environment`` is added to that of every command run in it.
    """

    def __init__(self, label: str, environment: Mapping[str, str] | None = None) -> None:
        self.label = label
        self.environment = dict(environment or {})
        self._frames: socket.socket | None = None
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        try:
            _check(_libc.unshare(CLONE_NEWNET), "unshare")
            try:
                self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
            finally:
                _set(before)
        finally:
            os.close(before)
        # A tentative address would be silent for a second, redirects would change a probe's way, reverse
        # path filters would stop forged packets before policy does, and limits on ICMP errors would hide
        # rejections.
        self.sysctl(
            {
                "net.ipv6.conf.default.accept_dad": 0,
                "net.ipv6.conf.all.accept_dad": 0,
                "net.ipv6.conf.default.dad_transmits": 0,
                "net.ipv6.conf.default.accept_ra": 0,
                "net.ipv6.conf.default.router_solicitations": 0,
                "net.ipv4.conf.all.send_redirects": 0,
                "net.ipv4.conf.default.send_redirects": 0,
                "net.ipv4.conf.all.rp_filter": 0,
                "net.ipv4.conf.default.rp_filter": 0,
                "net.ipv4.icmp_ratemask": 0,
                "net.ipv6.icmp.ratemask": "\n",
            }
        )
        self.ip("link set lo up")

    @property
    def path(self) -> str:
        """A path by which another process can open the namespace while this process lives."""
        return f"/proc/{os.getpid()}/fd/{self.fd}"

    def __repr__(self) -> str:
        return f"<netns {self.label}>"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Move the calling thread into the namespace; what it opens or starts there belongs to it."""
        before = getattr(_here, "fd", _home)
        _set(self.fd)
        _here.fd = self.fd
        try:
            yield
        finally:
            _here.fd = before
            _set(before)

    @contextlib.contextmanager
    def acted_in(self) -> Iterator[None]:
        """Enter it, and have its environment be the whole process's: as a program that runs in it has it."""
        before = {name: os.environ.get(name) for name in self.environment}
        os.environ.update(self.environment)
        try:
            with self.entered():
                yield
        finally:
            for name, value in before.items():
                if value is None:
                    del os.environ[name]
                else:
                    os.environ[name] = value

    def run(
        self,
        command: Sequence[str],
        *,
        stdin: str = "",
        check: bool = True,
        environment: Mapping[str, str] | None = None,
    ) -> str:
        """Run a command in the namespace; return what it printed. Raises CommandError when it fails."""
        with self.entered():
            done = subprocess.run(
                command,
                input=stdin,
                capture_output=True,
                text=True,
                env={**os.environ, **self.environment, **(environment or {})},
                check=False,
            )
        if check and done.returncode != 0:
            raise CommandError(f"{' '.join(command)}\n{stdin}{done.stdout}{done.stderr}")
        return done.stdout

    def ip(self, *lines: str) -> None:
        """Run ``ip`` commands, given without the word ``ip``, in one process."""
        self.run(["ip", "-batch", "-"], stdin="".join(f"{line}\n" for line in lines))

    def wait_for_link(self, name: str) -> None:
        """Wait until a link passes packets: a veth's first end does so moments after its second came up.

        A work queue of the whole machine sees to that. Raises OSError (ETIMEDOUT) after a minute.
        """
        request = struct.pack("16s24x", name.encode())
        with self.entered():
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        with sock:
            deadline = time.monotonic() + PATIENCE
            while not struct.unpack_from("H", fcntl.ioctl(sock, SIOCGIFFLAGS, request), 16)[0] & IFF_RUNNING:
                if time.monotonic() > deadline:
                    raise OSError(errno.ETIMEDOUT, f"{name} of {self.label} does not come up")
                time.sleep(0.0002)
            # The flag is set just before the queue is opened, both under the lock that setting flags takes.
            fcntl.ioctl(sock, SIOCSIFFLAGS, fcntl.ioctl(sock, SIOCGIFFLAGS, request))

    def wait_for_address(self, name: str, address: str) -> None:
        """Wait until a link answers for an IPv6 address of its own, added without duplicate detection.

        A work queue of the whole machine joins its groups and then makes its route; until that, nothing is
        delivered to it, nobody is told its link's address, and, were it the only link-local one, nobody is
        asked for theirs. Raises OSError (ETIMEDOUT) after a minute.
        """
        with self.entered(), NetlinkSocket(ROUTE) as netlink:
            asked = attribute(_RTA_DST, socket.inet_pton(socket.AF_INET6, address))
            asked += attribute(_RTA_OIF, struct.pack("=I", socket.if_nametoindex(name)))
            message = Message(_RTM_GETROUTE, socket.AF_INET6, bytes(_RTMSG_REST) + asked)
            deadline = time.monotonic() + PATIENCE
            while True:
                with contextlib.suppress(OSError):  # no route at all
                    if netlink.get(message)[_RTMSG_TYPE] == _RTN_LOCAL:
                        return
                if time.monotonic() > deadline:
                    raise OSError(errno.ETIMEDOUT, f"{name} of {self.label} has no address {address}")
                time.sleep(0.0002)

    def sysctl(self, values: Mapping[str, object]) -> None:
        """Set sysctls of the namespace; a dot inside an interface's name is written as a slash."""
        with self.entered():
            for name, value in values.items():
                path = "/".join(part.replace("/", ".") for part in name.split("."))
                Path("/proc/sys", path).write_text(str(value))

    def frames(self) -> socket.socket:
        """Return a socket that sends frames as they are, from any link; it ends with the namespace.

        One is enough: to close such a socket takes as long as until nobody in the kernel can still use it.
        """
        if self._frames is None:
            with self.entered():
                self._frames = socket.socket(socket.AF_PACKET, socket.SOCK_RAW)
        return self._frames

    def close(self) -> None:
        """Let go of the namespace; the kernel removes it when nothing else is in it."""
        if self._frames is not None:
            self._frames.close()
            self._frames = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
