"""How the last proof of the kernel went: for health, for the status, and in one line."""

from __future__ import annotations

from typing import NamedTuple

import msgspec

from agent.clock import Moment, moment
from agent.words import count

ANSWER_SECONDS = 120.0
"""How long a proof that somebody asks for may take: a process of low priority on a node that may be busy."""


class ProofState(NamedTuple):
    """How the last proof went: ``at`` in ``time.time()`` seconds, 0.0 never, and what differed.

    ``trouble``: why a later one came to nothing; ``interval``: seconds from one to the next.
    """

    at: float
    differences: tuple[str, ...] = ()
    trouble: str = ""
    interval: float = 60.0


class ProofStatus(msgspec.Struct, frozen=True):
    """The comparison of the kernel with the policies, for every packet.

    ``at`` is None where there was none yet; ``differences``: what differed then, up to ten of them;
    ``found``: how many there were.
    """

    at: Moment | None
    found: int
    differences: tuple[str, ...]
    trouble: str


_SHOWN = 10


def status_of(proof: ProofState | None) -> ProofStatus | None:
    """Return the same for ``/status``."""
    if proof is None:
        return None
    at = moment(proof.at) if proof.at else None
    return ProofStatus(at, len(proof.differences), proof.differences[:_SHOWN], proof.trouble)


def in_words(proof: ProofStatus, when: str) -> str:
    """Return it in a few words of console markup; ``when``: how long ago it was."""
    if proof.at is None:
        return "[yellow]not proved yet[/]" if proof.trouble else "not proved yet"
    if proof.found:
        return f"[red]{count(proof.found, 'difference')} from the policies[/], found {when}"
    return f"proved {when}"
