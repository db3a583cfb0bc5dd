"""Addresses whose pods' network has been taken away are closed beside the loop, which may be busy."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import NamedTuple

from agent.kube.events import Event, Upsert
from agent.policy.engine import Engine
from agent.runtime.calls import Calls


class _Withdrawal(NamedTuple):
    event: Upsert
    """Of the pod that has the addresses no more."""
    addresses: frozenset[bytes]


class Withdrawing:
    """Has the backend withdraw addresses, and knows whether the loop has still to follow.

    It follows by the event that says why. That one may wait for its turn for a while after it was taken, and
    events of before with it, such as the one by which the pod was given the address. Until it is made,
    nothing may open the address for that pod.
    """

    def __init__(self, calls: Calls, engine: Engine) -> None:
        self._calls = calls
        self._engine = engine
        self._unmade: dict[int, _Withdrawal] = {}
        """By the identity of the event: an equal one may be told before or after."""

    def withdraw(self, event: Upsert, addresses: Collection[bytes]) -> None:
        """Close addresses now. For one thread at a time, which tells the event that says why after that."""
        self._unmade[id(event)] = _Withdrawal(event, frozenset(addresses))
        self._calls.backend.withdraw(addresses, self._followed)

    def is_withdrawal(self, event: Event) -> bool:
        """Whether a step is to end with an event: what follows may give its address to the same pod again."""
        return id(event) in self._unmade

    def made(self, events: Iterable[Event]) -> None:
        """Take note of what is in the program now. For the loop's own thread."""
        if self._unmade and [event for event in events if self._unmade.pop(id(event), None)]:
            # What was closed for them alone may open.
            self._calls.backend.upkeep()

    @property
    def ahead(self) -> bool:
        """Whether the kernel may be ahead of the program."""
        return bool(self._unmade)

    def _followed(self, address: bytes) -> bool:
        """Whether the program does not say an address of a pod that has lost it. For the loop's own thread.

        Another pod may have been given it meanwhile, and have had its turn before.
        """
        owner = self._engine.owner(address)
        unmade = tuple(self._unmade.values())
        return not any(address in one.addresses and owner in (None, one.event.object.key) for one in unmade)
