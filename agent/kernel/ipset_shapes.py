"""What sets are: types, families, how many members they have room for."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from agent.net import Family, Member

LIST = "list:set"
"""The type of sets whose members are other sets: what is in one of these is in it."""


MIN_MAXELEM = 65536


class SetShape(NamedTuple):
    """What a set can hold.

    ``type`` is ``hash:ip``, ``hash:ip,port``, ``hash:net``, ``hash:ip,port,ip``, or ``list:set``, which is of
    no family; a set read from the kernel may be of any other, without a ``maxelem`` (0). ``timeout``: after
    how many seconds members leave by themselves, unless something else is said when they are added; 0: never.
    """

    type: str
    family: Family
    maxelem: int = MIN_MAXELEM
    timeout: int = 0


class SetHeader(NamedTuple):
    """A set as the kernel describes it.

    ``size`` is its number of members, None where an old kernel does not say; ``references`` how many rules
    and other sets refer to it.
    """

    shape: SetShape
    size: int | None
    references: int


class SetContent(NamedTuple):
    """A set with all its members; none for a type that is not one of the agent's."""

    shape: SetShape
    members: set[Member]


class SetChange(NamedTuple):
    """How one set changes. Adding what is there, or removing what is not, is no error."""

    name: str
    added: Iterable[Member] = ()
    removed: Iterable[Member] = ()


def needed_maxelem(count: int) -> int:
    """Return the maxelem for so many members: a power of two, a quarter to spare, 65,536 at least."""
    return max(MIN_MAXELEM, 1 << (count + count // 4).bit_length())
