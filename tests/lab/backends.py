"""The backends that a node can be programmed with in tests, and what they leave in the kernel.

A test is given one of :data:`BACKENDS` (its parameter) and asks it for a backend: no other place of the tests
makes one for a real kernel. Another backend is one more entry.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import Protocol

from agent.dataplane.backend import Backend
from agent.dataplane.iptables.access import KERNEL, Access
from agent.dataplane.iptables.backend import IptablesBackend
from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.tables import hooks
from agent.dataplane.iptables.tables.tables import Table, Tables
from agent.dataplane.iptables.variant import MODES
from agent.kernel.ipset import IpSets
from agent.net import Family, Member
from tests.lab.node import Mode, Node

FAMILIES = tuple(Family)

Held = Mapping[str, object]
"""All that is the agent's in a kernel, piece by piece: what it is for people, and what it holds."""


class BackendKind(Protocol):
    """One way to program a node."""

    @property
    def name(self) -> str:
        """As it stands in the names of tests."""

    @property
    def mode(self) -> Mode:
        """What the node's other programs write their rules with."""

    @property
    def arguments(self) -> tuple[str, ...]:
        """What chooses it on the agent's command line, besides the mode."""

    def make(
        self,
        options: Options = ...,
        families: tuple[Family, ...] = ...,
        *,
        patience: float = ...,
    ) -> Backend:
        """Return a backend for the kernel that the thread is in."""

    def held(self) -> Held:
        """Read what the kernel holds."""

    def passed_by(self, node: Node) -> AbstractContextManager[None]:
        """Have packets pass a node without a look at its rules: to show that nothing else stops them."""


@dataclass(frozen=True)
class Iptables:
    """iptables and ipset, through the tables of one mode."""

    mode: Mode

    @property
    def name(self) -> str:
        return self.mode.value

    @property
    def arguments(self) -> tuple[str, ...]:
        return ()

    def make(
        self,
        options: Options = Options(),  # noqa: B008 - immutable
        families: tuple[Family, ...] = FAMILIES,
        *,
        clock: Callable[[], float] = time.monotonic,
        access: Access = KERNEL,
        patience: float = math.inf,
    ) -> IptablesBackend:
        return IptablesBackend(self.mode.value, families, options, clock, access=access, patience=patience)

    def held(self) -> Held:
        found: dict[str, object] = {}
        for family, chains in self.chains().items():
            found |= {f"IPv{int(family)} {chain}": rules for chain, rules in chains.items()}
        return found | {f"set {name}": members for name, members in self.sets().items()}

    @contextmanager
    def passed_by(self, node: Node) -> Iterator[None]:
        def each(command: str) -> None:
            lines = [command.format(chain) for chain in hooks.HOOKS]
            for family in FAMILIES:
                node.iptables_restore(family, "\n".join(["*filter", *lines, "COMMIT\n"]))

        each("-I {} 1 -j ACCEPT")
        try:
            yield
        finally:
            each("-D {} 1")

    def chains(self) -> dict[Family, Table]:
        """Read our chains, and the built-in ones that lead to them."""
        return {
            family: {
                c: rules for c, rules in Tables(self.mode.value).read(family).items() if names.is_ours(c)
            }
            for family in FAMILIES
        }

    def sets(self) -> dict[str, set[Member]]:
        """Read our sets. They are the same in both modes."""
        with IpSets() as ipsets:
            found = ipsets.read(names.SET_PREFIX)
        return {name: content.members for name, content in found.items() if names.is_our_set(name)}


IPTABLES: Mapping[str, Iptables] = {mode: Iptables(Mode(mode)) for mode in MODES}
BACKENDS: Mapping[str, BackendKind] = IPTABLES
"""Every way there is, by its name."""
USUAL: tuple[BackendKind, ...] = (IPTABLES["nft"],)
"""One of each backend: what a test runs with that asks for no more."""


def differences(held: Held, expected: Held) -> list[str]:
    """Say for people in what one state of a kernel is not another."""
    return [
        f"{what}: {held.get(what)}, not {expected.get(what)}"
        for what in sorted(held.keys() | expected.keys())
        if held.get(what) != expected.get(what)
    ]
