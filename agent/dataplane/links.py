"""The network interfaces of this namespace, as far as the firewall depends on them (rtnetlink(7))."""

from __future__ import annotations

import errno
import select
import socket
from types import TracebackType
from typing import NamedTuple, Self

from agent.dataplane.netlink import NESTED, ROUTE, Message, NetlinkSocket, attribute, attributes

_GETLINK = 18
_IFNAME, _OPERSTATE, _LINKINFO, _INFO_KIND = 3, 16, 18, 1
_OPER_UP = 6
"""IF_OPER_UP. A bridge that never had a port has carrier, but its state is unknown."""
_LINK_GROUP = 1
_IFINFO_REST = 12
"""What follows the family's four bytes in an ifinfomsg: index, flags, change mask."""


class Bridge(NamedTuple):
    """A bridge. ``carrying``: it is up and so is one of its ports."""

    name: str
    carrying: bool


def bridges() -> list[Bridge]:
    """Return the bridges of the calling thread's network namespace. Raises OSError."""
    # The kernel picks them: a node has hundreds of other links, each with a kilobyte of statistics.
    kind = attribute(_LINKINFO | NESTED, attribute(_INFO_KIND, b"bridge\0"))
    with NetlinkSocket(ROUTE) as netlink:
        found = []
        for body in netlink.dump(Message(_GETLINK, socket.AF_UNSPEC, bytes(_IFINFO_REST) + kind)):
            fields = dict(attributes(body[_IFINFO_REST:]))
            if _kind(fields.get(_LINKINFO, b"")) == b"bridge":
                name = bytes(fields[_IFNAME]).rstrip(b"\0").decode()
                found.append(Bridge(name, fields[_OPERSTATE][0] == _OPER_UP))
        return found


def _kind(info: memoryview | bytes) -> bytes:
    return bytes(dict(attributes(info)).get(_INFO_KIND, b"")).rstrip(b"\0")


class LinkChanges:
    """Tells when interfaces come, go or change, in the network namespace of the thread that makes it.

    A loop waits on ``fileno`` and then calls :meth:`drain`.
    """

    def __init__(self) -> None:
        self._socket = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK, ROUTE
        )
        try:
            self._socket.bind((0, _LINK_GROUP))
        except OSError:
            self._socket.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def wait(self, seconds: float) -> bool:
        """Wait for a change, at most so many seconds; return whether there was one."""
        ready, _, _ = select.select([self._socket], [], [], seconds)
        return bool(ready) and self.drain()

    def drain(self) -> bool:
        """Read what is waiting; return whether anything changed since the last call."""
        changed = False
        while True:
            try:
                self._socket.recv(65536)
            except BlockingIOError:
                return changed
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                # More happened than the buffer holds.
            changed = True

    def close(self) -> None:
        self._socket.close()
