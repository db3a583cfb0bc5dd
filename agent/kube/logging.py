"""Which connections of a pod are logged: the annotations of pods and namespaces that say so."""

from __future__ import annotations

import enum
from typing import NamedTuple

DENIED_ANNOTATION = "netpol-agent.io/log-denied"
ALLOWED_ANNOTATION = "netpol-agent.io/log-allowed"


class Amount(enum.StrEnum):
    """How many of a pod's connections are logged."""

    OFF = "off"
    SAMPLED = "sampled"
    """As many as a limit lets through: the kernel counts, so that a flood costs nothing more."""
    ALL = "all"


class Logging(NamedTuple):
    """What annotations ask for, or settings: denied and allowed connections. None: nothing is said of it.

    ``unknown`` are annotations whose value is none of :class:`Amount`, as ``name=value``: they say nothing.
    """

    denied: Amount | None = None
    allowed: Amount | None = None
    unknown: tuple[str, ...] = ()

    def over(self, other: Logging) -> Logging:
        """Return what this says, and of what it does not say, what the other says."""
        return Logging(
            other.denied if self.denied is None else self.denied,
            other.allowed if self.allowed is None else self.allowed,
        )

    def logs(self) -> bool:
        """Whether anything is to be logged."""
        return any(amount not in (None, Amount.OFF) for amount in (self.denied, self.allowed))


UNSAID = Logging()


def logging_of(denied: str | None, allowed: str | None) -> Logging:
    """Return what the values of the two annotations say; None: there is no such annotation."""
    if denied is None and allowed is None:
        return UNSAID
    unknown = tuple(
        f"{name}={text[:_SHOWN]}"
        for name, text in ((DENIED_ANNOTATION, denied), (ALLOWED_ANNOTATION, allowed))
        if text is not None and _amount(text) is None
    )
    return Logging(_amount(denied), _amount(allowed), unknown)


def _amount(text: str | None) -> Amount | None:
    return None if text is None else _AMOUNTS.get(text.strip().lower())


_AMOUNTS = {amount.value: amount for amount in Amount}
_SHOWN = 40
"""Characters of a value that is not known: a tenant writes it, and it is kept."""
