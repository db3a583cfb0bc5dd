"""What an agent hands to a proof: the objects that it enforces, and what it knows of its node."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import msgspec

from agent.dataplane.podlinks import PodLink
from agent.kube.model import Namespace, NetworkPolicy, Pod
from agent.net import Network

PODS, POLICIES = 500, 50
"""So many are encoded at a time, which takes a millisecond: meanwhile no other thread runs."""


class Given(msgspec.Struct, frozen=True):
    """Objects of one moment, all of which the kernel is said to enforce.

    ``mode`` is ``nft`` or ``legacy``, ``families`` are 4 and 6. ``pods`` are those of all nodes. A policy for
    which the node has no budget is there without its rules. ``closed`` are addresses that stay isolated
    though no pod has them any more, by direction. ``node_networks``: those of other nodes that may reach
    every pod, by the interfaces in ``uplinks``. ``links``: which interface belongs to which pod. ``tunnels``:
    of each family in which the node has tunnels, their UDP ports, which pods may not send to;
    ``tunnel_protocols``: and their IP protocols. ``linked``: the kernel holds the rules by which pods are
    judged by their links, as they are now. ``closing``: networks in which addresses are closed that no pod
    here is known to have. ``frames``: the links whose frames are guarded, None where none are, or where that
    is being written. ``holders``: by the index of such a link the addresses that it is allowed to send from,
    which tells who had first what two of them claim.
    """

    node: str
    mode: str
    families: tuple[int, ...]
    pods: tuple[Pod, ...]
    namespaces: tuple[Namespace, ...]
    policies: tuple[NetworkPolicy, ...]
    closed: dict[str, tuple[bytes, ...]] = {}
    node_networks: tuple[Network, ...] = ()
    uplinks: tuple[str, ...] = ()
    links: tuple[PodLink, ...] = ()
    tunnels: dict[int, tuple[int, ...]] = {}
    tunnel_protocols: dict[int, tuple[int, ...]] = {}
    closing: tuple[Network, ...] = ()
    linked: bool = True
    frames: tuple[PodLink, ...] | None = None
    holders: dict[int, tuple[bytes, ...]] = {}


class Head(msgspec.Struct, frozen=True):
    """What a proof has to know before the objects come: of which tables; ``pod``: of which pod alone.

    ``frames``: whether the table that guards frames is to be proved.
    """

    mode: str
    families: tuple[int, ...]
    pod: str = ""
    frames: bool = False


def without_rules(policy: NetworkPolicy) -> NetworkPolicy:
    """Return a policy that isolates as the given one does, and allows nothing."""
    ingress, egress = (None if rules is None else () for rules in (policy.ingress, policy.egress))
    return msgspec.structs.replace(policy, ingress=ingress, egress=egress)


_ENCODER = msgspec.msgpack.Encoder()
_LENGTH = 4


def pieces(given: Given, pod: str = "") -> Iterator[bytes]:
    """Yield what :func:`taken` reads: the head, all but pods and policies, then these, some at a time."""
    parts: list[object] = [
        Head(given.mode, given.families, pod, given.frames is not None),
        msgspec.structs.replace(given, pods=(), policies=()),
    ]
    for part in parts:
        yield _piece(_ENCODER.encode(part))
    for several, most in ((given.policies, POLICIES), (given.pods, PODS)):
        for at in range(0, len(several), most):
            yield _piece(_ENCODER.encode(several[at : at + most]))
        yield _piece(b"")


def _piece(data: bytes) -> bytes:
    return len(data).to_bytes(_LENGTH, "big") + data


Reader = Callable[[int], bytes]
"""Returns so many bytes, fewer at the end alone."""


def head(read: Reader) -> Head:
    """Return what comes first. Raises EOFError, and :class:`msgspec.MsgspecError`."""
    return msgspec.msgpack.decode(_next(read), type=Head)


def taken(read: Reader) -> Given:
    """Return what comes after the head. Raises EOFError, and :class:`msgspec.MsgspecError`."""
    given = msgspec.msgpack.decode(_next(read), type=Given)
    policies = msgspec.msgpack.Decoder(tuple[NetworkPolicy, ...])
    pods = msgspec.msgpack.Decoder(tuple[Pod, ...])
    return msgspec.structs.replace(
        given, policies=tuple(_several(read, policies)), pods=tuple(_several(read, pods))
    )


_T = TypeVar("_T")


def _several(read: Reader, decoder: msgspec.msgpack.Decoder[tuple[_T, ...]]) -> Iterator[_T]:
    while piece := _next(read):
        yield from decoder.decode(piece)


def _next(read: Reader) -> bytes:
    size = read(_LENGTH)
    data = read(int.from_bytes(size, "big"))
    if len(size) < _LENGTH or len(data) < int.from_bytes(size, "big"):
        raise EOFError("the agent ended while it told of its objects")
    return data
