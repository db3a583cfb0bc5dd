"""The one place that knows which backends there are: chooses one, makes it, removes what one has left."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial
from typing import NamedTuple

from agent.dataplane.backend import Backend
from agent.dataplane.iptables import cleanup, counters, guard, guard_table, log_counters, takeover
from agent.dataplane.iptables.backend import IptablesBackend
from agent.dataplane.iptables.cleanup import is_clean
from agent.dataplane.iptables.held_text import held_text
from agent.dataplane.iptables.log_probe import log_probe
from agent.dataplane.iptables.options import LogRules, Options
from agent.dataplane.iptables.tables.tables import WAIT_SECONDS, TableError
from agent.dataplane.iptables.text import render_sets, render_tables, render_text
from agent.dataplane.iptables.trace import IptablesTracer
from agent.dataplane.iptables.variant import (
    MODES,
    Mode,
    ModeChoice,
    UndecidedError,
    decide_mode,
    missing_commands,
)
from agent.dataplane.logged import LogCount
from agent.dataplane.trace import Tracer
from agent.dataplane.traffic import RuleCount
from agent.dataplane.turns import PATIENCE
from agent.fault import Fault
from agent.net import Direction, Family
from agent.policy.lower.lowered import LoweredProgram
from agent.setting_values import AllowedPackets, DeniedPackets
from agent.settings import Settings

__all__ = [
    "LATE_WRITE",
    "MODES",
    "Mode",
    "ModeChoice",
    "Rendered",
    "TableError",
    "UndecidedError",
    "choose",
    "guard",
    "guard_table",
    "held_families",
    "held_text",
    "is_clean",
    "lacking",
    "make",
    "options_of",
    "read_counters",
    "read_logged",
    "remove_all",
    "render",
    "takeover",
    "tracer",
]

LATE_WRITE: float = WAIT_SECONDS
"""Seconds for which a command of an agent that was killed may wait, and write then."""


class Rendered(NamedTuple):
    """What a program is in the kernel, as text: all of it for people, its sets, and each family's rules."""

    text: str
    sets: str
    tables: dict[Family, str]


def choose(settings: Settings) -> ModeChoice:
    """Choose what this node is programmed with; reads the kernel, changes nothing. Raises UndecidedError."""
    return decide_mode(settings.iptables_mode.value)


def lacking(choice: ModeChoice) -> Callable[[Iterable[Family]], list[Fault]]:
    """Return what tells which commands the node lacks to enforce some families."""
    return partial(missing_commands, choice.mode)


def held_families(choice: ModeChoice) -> frozenset[Family]:
    """Return the families of which an earlier run has left something that the backend takes over."""
    return cleanup.held_families(choice.mode)


def make(
    settings: Settings, choice: ModeChoice, families: tuple[Family, ...], *, beside_kube_router: bool = False
) -> Backend:
    """Make the backend of some families. Raises OSError where the kernel cannot be programmed at all.

    ``beside_kube_router``: write though what kube-router's firewall left is there.
    """
    options = options_of(settings)
    if options.log is not None:
        options = replace(options, log=options.log._replace(possible=log_probe(choice.mode, options.log)))
    return IptablesBackend(
        choice.mode,
        families,
        options,
        beside_kube_router=beside_kube_router,
        ahead=True,
        patience=PATIENCE,
    )


def read_counters(choice: ModeChoice, families: Iterable[Family], *, policies: bool) -> Iterator[RuleCount]:
    """Read what the rules have counted, on any thread. Raises OSError where that fails.

    ``policies``: of single policies' rules, too.
    """
    return counters.read(choice.mode, families, policies=policies)


def tracer(choice: ModeChoice) -> Tracer:
    """Make what follows packets through the kernel's rules, for one question."""
    return IptablesTracer(choice.mode)


def read_logged(choice: ModeChoice, families: Iterable[Family]) -> dict[tuple[Direction, str], LogCount]:
    """Read how many packets of each pod were denied, and how many of these logged, on any thread.

    Raises OSError.
    """
    return log_counters.read_logged(choice.mode, families)


def remove_all() -> list[Fault]:
    """Remove all that any backend left in the kernel; return what of it stays, and why."""
    from agent.dataplane.frames import guard

    faults = []
    for mode in MODES:
        faults += cleanup.remove(mode, Family)
    faults += filter(None, map(guard_table.remove, Family))
    return [*guard.remove(), *(faults or cleanup.remove_sets())]


def render(program: LoweredProgram, settings: Settings, families: Iterable[Family]) -> Rendered:
    """Return what a program would be in the kernel, touching nothing."""
    options, families = options_of(settings), tuple(families)
    return Rendered(
        render_text(program, options, families),
        render_sets(program, options, families),
        dict(render_tables(program, options, families)),
    )


def options_of(settings: Settings) -> Options:
    """Return what the settings say of the rules."""
    given = {Direction.EGRESS: settings.mark_egress, Direction.INGRESS: settings.mark_ingress}
    proposed = [bit for bit in (Options.mark_egress, Options.mark_ingress) if bit not in given.values()]
    egress, ingress = (bit if bit is not None else proposed.pop(0) for bit in given.values())
    return Options(
        mark_egress=egress,
        mark_ingress=ingress,
        chosen_marks=frozenset(direction for direction, bit in given.items() if bit is None),
        accept=settings.allowed_packets is AllowedPackets.ACCEPT,
        reject=settings.denied_packets is DeniedPackets.REJECT,
        cut=settings.cut_denied,
        cache=math.ceil(settings.cache_allowed),
        log=LogRules(
            settings.log_group, settings.log_rate, settings.log_burst, default=settings.logging.denied
        ),
    )
