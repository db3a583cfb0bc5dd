"""What was cut, as it is told: in the log, the history, the status and the metrics."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

from msgspec import structs

from agent.clock import moment
from agent.fault import Fault
from agent.kernel.marked import Connection
from agent.kube.model import Key
from agent.net import Direction, Protocol, address_text
from agent.observe.cuts import CutPeer, CutsStatus, CutStatus, by_protocol
from agent.policy.lower.verdicts import Sort
from agent.policy.program import PodId
from agent.words import count

LAST = 20
"""Cuts that the status shows."""
SHOWN = 5
"""Connections of a pod that are named, and causes."""
PEERS = 10
"""Pods at the other ends of a pod's connections that are named."""

_NAMES = {1: "ICMP", 58: "ICMPv6"} | {int(protocol): protocol.name for protocol in Protocol}
"""Of IANA's numbers, those that people know by name."""


class Cut(NamedTuple):
    """Connections of one pod, in one direction, that were ended.

    ``at`` is in ``time.time()`` seconds. ``examples`` are some of them, for people; ``policies`` isolate the
    pod; ``causes`` are what changed. ``peers`` are pods at the other ends, of any node.
    """

    at: float
    pod: PodId
    protocols: Mapping[str, int]
    examples: tuple[str, ...]
    policies: tuple[str, ...]
    causes: tuple[str, ...]
    peers: tuple[CutPeer, ...] = ()

    @property
    def connections(self) -> int:
        return sum(self.protocols.values())

    def lines(self) -> tuple[str, str]:
        """Return what happened and why, for people."""
        what = f"{count(self.connections, 'connection')} cut, {self.pod.direction}"
        told = f"{what} ({by_protocol(self.protocols)}): {', '.join(self.examples)}"
        return told, f"after a change of {', '.join(self.causes)}"

    def status(self) -> CutStatus:
        """Return it as the status has it."""
        pod, direction = str(self.pod.pod), self.pod.direction.value
        number = self.connections, dict(self.protocols)
        told = self.examples, self.policies, self.causes
        return CutStatus(moment(self.at), pod, direction, *number, *told, peers=self.peers)


@dataclass
class Ended:
    """What was ended of one pod, and is not told yet."""

    causes: dict[str, None] = field(default_factory=dict)
    protocols: Counter[str] = field(default_factory=Counter)
    examples: list[str] = field(default_factory=list)
    peers: dict[str, CutPeer] = field(default_factory=dict)

    def add(self, one: Connection, peer: Key | None) -> None:
        """Take note of a connection; ``peer``: the pod at its other end, if one is known there."""
        self.protocols[protocol_of(one)] += 1
        if len(self.examples) < SHOWN:
            self.examples.append(text_of(one))
        name = str(peer)
        known = self.peers.get(name)
        if known is not None:
            self.peers[name] = structs.replace(known, connections=known.connections + 1)
        elif peer is not None and len(self.peers) < PEERS:
            self.peers[name] = CutPeer(name, 1, text_of(one))

    def told(self, at: float, pod: PodId, policies: Iterable[object]) -> Cut:
        """Return it as it is told; ``policies`` isolate the pod."""
        told = tuple(self.examples), tuple(map(str, policies)), tuple(self.causes)
        return Cut(at, pod, self.protocols, *told, peers=tuple(self.peers.values()))


@dataclass
class Tally:
    """How many connections were ended, and the last of them. ``reset``: whose ends were asked to reset."""

    protocols: Counter[str] = field(default_factory=Counter)
    reset: int = 0
    last: deque[Cut] = field(default_factory=lambda: deque(maxlen=LAST))

    @property
    def connections(self) -> int:
        return self.protocols.total()

    def add(self, cut: Cut) -> None:
        self.protocols.update(cut.protocols)
        self.last.appendleft(cut)

    def status(self, waiting: int) -> CutsStatus:
        """Return it as the status has it; ``waiting``: how many are not ended yet."""
        last = tuple(cut.status() for cut in self.last)
        return CutsStatus(self.connections, dict(self.protocols), self.reset, waiting, last)


def unasked(error: OSError) -> Fault:
    """Return what a person should know where ends of TCP cannot be asked to reset."""
    return Fault(
        f"connections are cut, but an end of TCP is not reset before it sends something: {error.strerror}",
        "run the agent with CAP_NET_RAW",
    )


def seen_from(pod: PodId, one: Connection) -> tuple[bytes, bytes]:
    """Return the address of the pod whose policies judge a connection, and that of the other end."""
    source, destination = one.ends
    return (source, destination) if pod.direction is Direction.EGRESS else (destination, source)


def sort_of(one: Connection) -> Sort:
    """Return what the verdict on a connection depends on: the packet that opened it, as it was judged."""
    reply = one.reply
    return Sort(one.opened.source, reply.source, reply.protocol, reply.source_port)


def protocol_of(one: Connection) -> str:
    """Return the name of a connection's protocol, or its number."""
    number = one.opened.protocol
    return _NAMES.get(number, f"protocol {number}")


def text_of(one: Connection) -> str:
    """Return a connection for people, as it was judged."""
    sort = sort_of(one)
    ends = ((sort.source, one.opened.source_port), (sort.destination, sort.port))
    return f"{protocol_of(one)} {' to '.join(_end(*end) for end in ends)}"


def _end(address: bytes, port: int) -> str:
    text = f"[{address_text(address)}]" if len(address) == 16 and port else address_text(address)
    return f"{text}:{port}" if port else text
