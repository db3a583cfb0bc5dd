"""Connections that were ended because a change forbids them (``--cut-denied``): how many, and the last."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import msgspec

from agent.clock import Moment
from agent.words import and_more, count

_NAMED = 3
"""Connections and causes that are named in one line."""


class CutPeer(msgspec.Struct, frozen=True):
    """A pod of any node at the other end of connections that were ended: how many, and one of them."""

    pod: str
    connections: int
    example: str


class CutStatus(msgspec.Struct, frozen=True):
    """Connections of one pod of this node, in one direction, that were ended together.

    ``protocols`` counts them by protocol; ``examples`` are some of them, with both ends and the port, as the
    rules saw the packet that opened them. ``policies`` isolate the pod; ``after`` is what changed. ``peers``
    are the first pods that were met at other ends.
    """

    at: Moment
    pod: str
    direction: str
    connections: int
    protocols: Mapping[str, int]
    examples: tuple[str, ...]
    policies: tuple[str, ...]
    after: tuple[str, ...]
    peers: tuple[CutPeer, ...] = ()

    def __str__(self) -> str:
        return (
            f"{count(self.connections, 'connection')} cut, {self.direction} "
            f"({by_protocol(self.protocols)}): {_some(self.examples, self.connections)}, {self.because}"
        )

    @property
    def because(self) -> str:
        """What changed, in words."""
        return _because(self.after)


class PeerCut(msgspec.Struct, frozen=True):
    """Connections of a pod that policies of another pod, at their other end, do not allow any more.

    ``pod``: the other one, and the ``direction`` for which its policies deny them. ``example`` is one of the
    connections; ``after`` is what changed.
    """

    at: Moment
    pod: str
    direction: str
    connections: int
    example: str
    after: tuple[str, ...]

    def __str__(self) -> str:
        return (
            f"{count(self.connections, 'connection')} cut by policies of {self.pod} for {self.direction}: "
            f"{_some((self.example,), self.connections)}, {_because(self.after)}"
        )


class CutsStatus(msgspec.Struct, frozen=True):
    """What was ended since the agent started.

    ``reset``: TCP connections whose two ends were asked to reset; of the others, packets are dropped.
    ``waiting``: connections that are found to be denied and not ended yet. ``last``: the newest first.
    """

    connections: int
    protocols: Mapping[str, int]
    reset: int
    waiting: int
    last: tuple[CutStatus, ...] = ()

    def of_pod(self, pod: str) -> tuple[CutStatus, ...]:
        """Return those of one pod, which its own policies deny."""
        return tuple(one for one in self.last if one.pod == pod)

    def of_peer(self, pod: str) -> tuple[PeerCut, ...]:
        """Return those of one pod, of any node, which policies of the pods at the other ends deny."""
        return tuple(
            PeerCut(cut.at, cut.pod, cut.direction, peer.connections, peer.example, cut.after)
            for cut in self.last
            for peer in cut.peers
            if peer.pod == pod
        )


def by_protocol(protocols: Mapping[str, int]) -> str:
    """Return how many of each protocol, the most first: ``6 TCP, 2 UDP``."""
    return ", ".join(f"{number} {name}" for name, number in sorted(protocols.items(), key=_most_first))


def _because(after: tuple[str, ...]) -> str:
    return f"after a change of {_some(after, len(after))}"


def _most_first(item: tuple[str, int]) -> tuple[int, str]:
    return -item[1], item[0]


def _some(names: Iterable[str], number: int) -> str:
    shown = tuple(names)[:_NAMED]
    return ", ".join(shown) + and_more(number, len(shown))
