"""A pod that sends frames it may not, without a pause, and the pod that must get none of them."""

from __future__ import annotations

import contextlib
import itertools
import socket
import struct
from collections.abc import Mapping
from typing import Self

from agent.net import Family
from tests.lab import packets
from tests.lab.beside import Beside
from tests.lab.node import Layout, Pod

RATE = 500
_TAG = b"<forged>"
_NOBODYS = {Family.V4: "10.244.1.251", Family.V6: "fd00:10:244:1::fb"}


def forgeries(one: Pod, other: Pod, third: Pod) -> Mapping[str, bytes]:
    """Return frames from one pod to another that bear another's address, or are no IP and no ARP."""
    mac = other.mac if one.node.layout is Layout.BRIDGE else one.gateway_mac
    macs = bytes.fromhex((mac + one.mac).replace(":", ""))
    found = {"an unknown ethertype": macs + b"\x88\xb5" + _TAG + bytes(40)}
    own = bytes.fromhex(one.mac.replace(":", "")) + socket.inet_aton(third.v4)
    found["ARP for another pod"] = (
        macs + b"\x08\x06" + struct.pack("!HHBBH", 1, 0x800, 6, 4, 2) + own + bytes(10) + _TAG
    )
    for family in Family:
        name = f"IPv{int(family)}"
        sources = {
            "another pod's": third.address(family),
            "nobody's": _NOBODYS[family],
            "the node's": one.node.address(family),
        }
        for whose, source in sources.items():
            packet = packets.udp(source, other.address(family), 7, _TAG)
            found[f"{name} from {whose} address"] = packets.frame(one.mac, mac, packet)
        packet = packets.udp(one.address(family), other.address(family), 7, _TAG)
        found[f"{name} from another pod's hardware address"] = packets.frame(third.mac, mac, packet)
        for vlans in ((0,), (5,), (0, 0)):
            found[f"{name} with VLAN tags {vlans}"] = packets.frame(one.mac, mac, packet, vlans=vlans)
    return found


class Forger:
    """Sends all forgeries in turn, :data:`RATE` a second at most; a context manager.

    ``sent`` says how many went out. No policy may keep them from the receiver.
    """

    def __init__(self, one: Pod, other: Pod, third: Pod) -> None:
        self.frames = tuple(forgeries(one, other, third).values())
        self.sent = 0
        self._one = one
        self._next = itertools.cycle(self.frames)
        with contextlib.ExitStack() as stack:
            self._found = stack.enter_context(packets.sniff(other, _TAG))
            with one.netns.entered():
                self._socket = stack.enter_context(socket.socket(socket.AF_PACKET, socket.SOCK_RAW))
            self._socket.bind(("eth0", 0))
            self._stack = stack.pop_all()
        self._beside = Beside(self._send, lambda: 1 / RATE, "sending of forged frames")

    def __enter__(self) -> Self:
        self._beside.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._stack:
            self._beside.close()

    def _send(self) -> None:
        data = next(self._next)
        with contextlib.suppress(OSError):  # a full queue: it is sent the next time
            self._socket.send(data)
            self.sent += 1

    def arrived(self) -> int:
        """Return how many have arrived so far."""
        return self._found.count()
