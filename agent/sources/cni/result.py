"""One result of a network plugin, as libcni keeps it (``cachedInfo`` of its api.go, containernetworking/cni).

libcni writes a file for each network and interface of a sandbox, after the last plugin of the network has
ended and before anything of the pod runs. It writes in place, and removes the file when the sandbox's network
is taken away. Its format is ``cniCacheV1`` since libcni 0.8; what older ones wrote names no pod.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import NamedTuple

import msgspec

from agent.kube.address import lenient_address
from agent.kube.convert import UNDECODABLE
from agent.kube.model import Key

INTERFACE = "eth0"
"""The interface whose addresses are the pod's: runtimes give others to networks beside the cluster's."""
LARGEST = 1 << 20
"""Bytes of a file that are read. A result has some 2,000: the network's configuration is in it."""
_MOST_ADDRESSES = 64
_MOST_LINKS = 8

_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_LINK = re.compile(r"[!-.0-~]{1,15}")
"""A name of an interface, as the kernel takes it."""
_ID = re.compile(r"[A-Za-z0-9][-_.A-Za-z0-9]{0,127}")


class Result(NamedTuple):
    """What a pod's sandbox was given on its main interface.

    ``uid`` is empty where the runtime does not say it. ``at``: when, in nanoseconds since 1970. ``addresses``
    are packed, the first of each family, as kubelet takes them for ``status.podIPs``. ``links`` are the
    interfaces of the node that the plugin names, such as the pod's veth and the bridge. ``first`` is the uid
    of the pod that it was taken for first, where it says none.
    """

    pod: Key
    uid: str
    sandbox: str
    addresses: tuple[bytes, ...]
    at: int
    links: tuple[str, ...] = ()
    first: str = ""


class _Interface(msgspec.Struct, frozen=True, gc=False):
    name: str = ""
    sandbox: str = ""


class _Ip(msgspec.Struct, frozen=True, gc=False):
    address: str = ""
    interface: int | None = None


class _OldIp(msgspec.Struct, frozen=True, gc=False):
    ip: str = ""


class _Given(msgspec.Struct, frozen=True, gc=False):
    """The result itself: CNI 0.3.0 and later, and ``ip4`` and ``ip6`` of CNI 0.2.0."""

    interfaces: list[_Interface] | None = None
    ips: list[_Ip] | None = None
    ip4: _OldIp | None = None
    ip6: _OldIp | None = None


class _Cached(msgspec.Struct, frozen=True, gc=False, rename="camel"):
    kind: str
    container_id: str
    if_name: str
    cni_args: list[tuple[str, str]] | None = None
    result: _Given | None = None


_CACHED = msgspec.json.Decoder(_Cached)


def decode(body: bytes, at: int) -> Result | None:
    """Return what a file holds of a pod's main interface, written at ``at`` ns.

    None for all else: another interface, no pod, half a file, or what is no such file at all. Never raises.
    """
    try:
        cached = _CACHED.decode(body)
    except UNDECODABLE:
        return None
    if cached.kind != "cniCacheV1" or cached.if_name != INTERFACE or cached.result is None:
        return None
    args = dict(cached.cni_args or ())
    pod = Key(args.get("K8S_POD_NAMESPACE", ""), args.get("K8S_POD_NAME", ""))
    uid, sandbox = args.get("K8S_POD_UID", ""), cached.container_id
    if not (_NAME.fullmatch(pod.namespace) and _NAME.fullmatch(pod.name) and _ID.fullmatch(sandbox)):
        return None
    if uid and not _ID.fullmatch(uid):
        return None
    addresses = first_of_each(_texts(cached.result))
    links = tuple(
        one.name for one in cached.result.interfaces or () if not one.sandbox and _LINK.fullmatch(one.name)
    )
    return Result(pod, uid, sandbox, addresses, at, links[:_MOST_LINKS]) if addresses else None


def first_of_each(texts: list[str]) -> tuple[bytes, ...]:
    """Return the first address of each family, packed; a length behind ``/`` is left out."""
    found: dict[int, bytes] = {}
    for text in texts[:_MOST_ADDRESSES]:
        packed = lenient_address(text.partition("/")[0])
        if packed is not None and any(packed):
            found.setdefault(len(packed), packed)
    return tuple(found.values())


def _texts(given: _Given) -> list[str]:
    if given.ips is None:
        return [old.ip for old in (given.ip4, given.ip6) if old is not None]
    interfaces = given.interfaces or []

    def is_main(number: int | None) -> bool:
        """Whether an address is on the main interface; where it does not say, it is."""
        if number is None:
            return True
        if not 0 <= number < len(interfaces):
            return False
        return interfaces[number].name == INTERFACE and bool(interfaces[number].sandbox)

    return [ip.address for ip in given.ips if is_main(ip.interface)]


def read(path: Path) -> Result | None:
    """Return what a file holds, None where that is nothing of use or the file cannot be read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        about = os.fstat(descriptor)
        if not stat.S_ISREG(about.st_mode) or about.st_size > LARGEST:
            return None
        body = os.read(descriptor, LARGEST + 1)
    except OSError:
        return None
    finally:
        os.close(descriptor)
    return decode(body, about.st_mtime_ns) if len(body) <= LARGEST else None
