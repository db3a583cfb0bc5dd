"""Sends the same datagram at a rate: ``flooder.py ADDRESS PORT PACKETS_A_SECOND FD``.

Only the standard library, so that it starts at once. ``FD`` is shared memory of one 64-bit number: how many
have been sent. To leave the processor to what is measured, a lot goes to the kernel in one call
(sendmmsg(2)), as whole frames for the interface (packet(7)), past its queue (PACKET_QDISC_BYPASS).
"""

from __future__ import annotations

import ctypes
import mmap
import os
import socket
import struct
import sys
import time

_LOT = 100
_PACKET_QDISC_BYPASS = 20
_ETH_P_IP = 0x0800
_WAIT = 10.0
_RETRY = 0.02


class _Vector(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


class _Message(ctypes.Structure):
    """``struct msghdr``."""

    _fields_ = (
        ("name", ctypes.c_void_p),
        ("name_length", ctypes.c_uint),
        ("vectors", ctypes.POINTER(_Vector)),
        ("vector_count", ctypes.c_size_t),
        ("control", ctypes.c_void_p),
        ("control_length", ctypes.c_size_t),
        ("flags", ctypes.c_int),
    )


class _OneOfMany(ctypes.Structure):
    """``struct mmsghdr``."""

    _fields_ = (("message", _Message), ("sent", ctypes.c_uint))


def main() -> None:
    address, port, rate, descriptor = sys.argv[1:]
    shared = mmap.mmap(int(descriptor), 8)
    frame, interface = _frame(address, int(port))
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.setsockopt(263, _PACKET_QDISC_BYPASS, 1)  # SOL_PACKET
    sock.bind((interface, _ETH_P_IP))
    kept = ctypes.create_string_buffer(frame, len(frame))
    vector = _Vector(ctypes.addressof(kept), len(frame))
    message = _Message(vectors=ctypes.pointer(vector), vector_count=1)
    messages = (_OneOfMany * _LOT)(*(_OneOfMany(message),) * _LOT)
    send = ctypes.CDLL(None, use_errno=True).sendmmsg
    pause = _LOT / int(rate)
    sent, due = 0, time.monotonic()
    while True:
        sent += max(0, send(sock.fileno(), messages, _LOT, 0))
        struct.pack_into("q", shared, 0, sent)
        # What a busy machine could not send in time is not sent all at once.
        due = max(due + pause, time.monotonic() - pause)
        time.sleep(max(0.0, due - time.monotonic()))


def _frame(address: str, port: int) -> tuple[bytes, str]:
    """Return the datagram as a frame, and the interface that it goes out by."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.connect((address, port))
        own = asking.getsockname()[0]
        hardware, interface = _neighbour(asking, address)
    with open(f"/sys/class/net/{interface}/address", encoding="ascii") as file:
        source = _bytes(file.read().strip())
    payload = b"flood"
    datagram = struct.pack("!HHHH", 40000, port, 8 + len(payload), 0) + payload  # no checksum: RFC 768
    header = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(datagram), 1, 0, 64, socket.IPPROTO_UDP, 0)
    header += socket.inet_aton(own) + socket.inet_aton(address)
    total = sum(struct.unpack("!10H", header))
    total = (total & 0xFFFF) + (total >> 16)
    header = header[:10] + struct.pack("!H", ~(total + (total >> 16)) & 0xFFFF) + header[12:]
    return hardware + source + struct.pack("!H", _ETH_P_IP) + header + datagram, interface


def _neighbour(asking: socket.socket, address: str) -> tuple[bytes, str]:
    """Return to whom frames for the address go, which the first datagram has the kernel find out."""
    end = time.monotonic() + _WAIT
    while time.monotonic() < end:
        asking.send(b"who")
        with open("/proc/net/arp", encoding="ascii") as file:
            rows = [line.split() for line in file.readlines()[1:]]
        # On a bridge the pod itself, else its gateway, which is the only neighbour.
        found = [row for row in rows if row[2] == "0x2"]
        found = [row for row in found if row[0] == address] or found
        if found:
            return _bytes(found[0][3]), found[0][5]
        time.sleep(_RETRY)
    os.write(2, b"no neighbour to send to\n")
    sys.exit(1)


def _bytes(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


if __name__ == "__main__":
    main()
