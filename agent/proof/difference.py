"""What a proof finds: packets that the kernel lets pass and the policies do not, and the other way round."""

from __future__ import annotations

import enum

import msgspec

ANY = 1 << 200


class Kind(enum.StrEnum):
    """What is different."""

    OPEN = "open"
    """The kernel allows what no policy allows."""
    SHUT = "shut"
    """The kernel denies what the policies allow."""
    UNREAD = "unread"
    """A rule that packets come to cannot be read."""
    HOOK = "hook"
    """Packets may not come to the rules at all."""
    CACHED = "cached"
    """A connection is cached as allowed that no policy allows."""


class Difference(msgspec.Struct, frozen=True):
    """One difference.

    ``family`` is 4 or 6, ``direction`` and ``pod`` say of which address it is, empty where it is of none.
    ``peers`` are addresses as text, ``ports`` protocols and ports. ``rule`` is the rule that decides, by its
    chain and its number from 1, ``policy`` what allows it or is said to. ``said`` is all of it for people.
    ``size`` counts addresses and ports: the smallest difference is told first. ``frames``: it is of the table
    that guards frames; ``family`` is 0 where these are neither of IPv4 nor of IPv6.
    """

    kind: Kind
    family: int
    said: str
    direction: str = ""
    pod: str = ""
    peers: str = ""
    ports: str = ""
    rule: str = ""
    policy: str = ""
    size: int = ANY
    frames: bool = False


class Result(msgspec.Struct, frozen=True):
    """What a proof found, the smallest difference first, of each pod and direction one of a kind.

    ``addresses``: how many were proved, of one pod its own, ``isolated`` of them in some direction.
    ``reading`` and ``comparing``: the seconds that reading the kernel and comparing took; ``processor``: the
    seconds of processor time that the process took in all. ``wrong`` are the pods of which something differs;
    where all is doubtful, ``everything``. ``proved`` are the policies that isolate pods here, and of which
    none differs. ``links``: of how many pods' links the frames were proved, where they are guarded.
    ``notes``: what rules of others do that makes less of the statement true.
    """

    differences: tuple[Difference, ...] = ()
    addresses: int = 0
    isolated: int = 0
    reading: float = 0.0
    comparing: float = 0.0
    processor: float = 0.0
    wrong: tuple[str, ...] = ()
    everything: bool = False
    proved: tuple[str, ...] = ()
    links: int = 0
    notes: tuple[str, ...] = ()


class Answer(msgspec.Struct, frozen=True):
    """What a process that proves answers: a result, or why there is none."""

    result: Result | None = None
    error: str = ""
