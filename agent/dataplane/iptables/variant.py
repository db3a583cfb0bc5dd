"""Which of the kernel's two iptables a node uses: nft or legacy.

Each packet passes both, in an order that nobody should have to know, so an agent keeps to the one that the
node's other programs use. The order of evidence is that of the Kubernetes project's iptables-wrappers:
kubelet's hint chains in the mangle table, and else where more rules are. What an earlier run of this agent
left comes between the two. Tables that cannot be read are no evidence of anything, least of all of absence:
taking them for empty would move the rules of a node from one mode to the other.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import shutil
import subprocess
import time
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from agent.fault import Fault
from agent.kernel import nf_tables, x_tables
from agent.kernel.netlink import NetlinkSocket
from agent.net import Family
from agent.words import count

Mode = Literal["nft", "legacy"]
MODES: tuple[Mode, ...] = ("nft", "legacy")

OUR_PREFIX = "KUBE-NETPOL-"
_OURS = re.compile(r"KUBE-(NETPOL-|(POD-FW|NWPLCY|NWRULE|PODS)-[a-z2-7]{16}$)")
_HINTS = ("KUBE-IPTABLES-HINT", "KUBE-KUBELET-CANARY")
PROGRAMS = {Family.V4: "iptables", Family.V6: "ip6tables"}
_SEARCH_PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin", "/sbin"))
_RETRY_SECONDS = (1.0, 3.0)
_TABLES = ("mangle", "filter")
"""Those that tell: the others can be long, and some programs' rules in them are of both modes."""
_NOT_IN_KERNEL = (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT)
"""What a kernel without nf_tables answers."""
INSTALL = "install the package iptables, version 1.8 or later"
_MEND = "run the command by hand, and correct what it reports"


class UndecidedError(Exception):
    """Which mode the node uses cannot be told, since tables that exist could not be read."""


class ModeChoice(NamedTuple):
    """The mode to use, why in one sentence, and what is wrong."""

    mode: Mode
    reason: str
    faults: tuple[Fault, ...] = ()


class Evidence(NamedTuple):
    """What one mode holds, over both families. ``rules`` does not count the agent's own.

    ``usable``: the node has the commands for it, and its kernel the tables. ``trouble`` says why not all of
    it could be read; what was read counts none the less.
    """

    hint: str = ""
    ours: bool = False
    rules: int = 0
    usable: bool = True
    trouble: str = ""


def decide_mode(setting: str) -> ModeChoice:
    """Decide for a setting ``auto``, ``nft`` or ``legacy``; reads both, changes nothing.

    Raises UndecidedError, after some attempts.
    """
    for pause in (*_RETRY_SECONDS, None):
        try:
            return choose(setting, {"nft": _look_at_nft(), "legacy": _look_at_legacy()})
        except UndecidedError:
            if pause is None:
                raise
            time.sleep(pause)
    raise AssertionError


def choose(setting: str, found: Mapping[Mode, Evidence]) -> ModeChoice:
    """Decide from what was found. Raises UndecidedError."""
    mode, reason = _reasoned(setting, found)
    faults = [
        Fault(f"the {other} tables could not be read: {found[other].trouble}", _MEND, blocking=other == mode)
        for other in MODES
        if found[other].trouble
    ]
    if not found[mode].usable and not found[mode].trouble:
        faults.append(Fault(f"no iptables command for mode {mode}", INSTALL))
    return ModeChoice(mode, reason, tuple(faults))


def _reasoned(setting: str, found: Mapping[Mode, Evidence]) -> tuple[Mode, str]:
    for mode in MODES:
        if setting == mode:
            return mode, f"{mode}: set by --iptables-mode"
    usable = [mode for mode in MODES if found[mode].usable]
    ours = [mode for mode in MODES if found[mode].ours]
    if len(usable) == 1:
        (only,) = usable
        return only, f"{only}: no command of the other one works on this node"
    unread = [mode for mode in usable if found[mode].trouble]
    for mode in MODES:
        if found[mode].hint:
            return mode, f"{mode}: kubelet's chain {found[mode].hint} is in its mangle table"
        if mode in unread:
            # There may be a hint that would have decided.
            break
    if len(ours) == 1:
        (mode,) = ours
        return mode, f"{mode}: it has this agent's chains already"
    if unread:
        raise UndecidedError(
            f"the {unread[0]} tables could not be read: {found[unread[0]].trouble}; correct that, or say "
            "with --iptables-mode which one this node uses"
        )
    counts = f"{count(found['nft'].rules, 'rule')} in nft, {found['legacy'].rules} in legacy"
    if found["legacy"].rules > found["nft"].rules:
        return "legacy", f"legacy: it has more rules ({counts}), and neither has a chain of kubelet's"
    return "nft", f"nft: legacy has no more rules ({counts}), and neither has a chain of kubelet's"


def evidence(tables: Iterable[Mapping[str, x_tables.ChainSizes]]) -> Evidence:
    """Sum up the tables of both families."""
    hint, ours, rules = "", False, 0
    for family_tables in tables:
        mangle = family_tables.get("mangle", {})
        hint = hint or next((chain for chain in _HINTS if chain in mangle), "")
        for chains in family_tables.values():
            ours = ours or any(chain.startswith(OUR_PREFIX) for chain in chains)
            rules += sum(count for chain, count in chains.items() if not _OURS.match(chain))
    return Evidence(hint, ours, rules)


def _look_at_nft() -> Evidence:
    """Ask the kernel: the commands show nothing of a table in which one rule was written by nft(8)."""
    usable = find_command(Family.V4, "nft", "save") is not None
    tables: list[Mapping[str, x_tables.ChainSizes]] = []
    try:
        with NetlinkSocket() as netlink:
            tables += [_tables_of_nft(netlink, family) for family in Family]
    except OSError as error:
        absent = error.errno in _NOT_IN_KERNEL
        trouble = f"nf_tables does not answer on netlink: {error.strerror}" if usable else ""
        return evidence(tables)._replace(usable=usable and not absent, trouble=trouble)
    return evidence(tables)._replace(usable=usable)


def _tables_of_nft(netlink: NetlinkSocket, family: Family) -> Mapping[str, x_tables.ChainSizes]:
    found: dict[str, dict[str, int]] = {}
    for chain in nf_tables.chains(netlink, family):
        if chain.table in _TABLES:
            found.setdefault(chain.table, {})[chain.name] = 0
    if any(hint in found.get("mangle", {}) for hint in _HINTS):
        # That decides; counting would take time.
        return found
    for table, counts in found.items():
        for rule in nf_tables.rules(netlink, family, table):
            counts[rule.chain] = counts.get(rule.chain, 0) + 1
    return found


def _look_at_legacy() -> Evidence:
    usable = find_command(Family.V4, "legacy", "save") is not None
    tables: list[Mapping[str, x_tables.ChainSizes]] = []
    troubles: list[str] = []
    for family in Family:
        try:
            tables.append(x_tables.read(family, _TABLES))
        except x_tables.LegacyError as error:
            troubles.append(str(error))
    return evidence(tables)._replace(usable=usable, trouble="; ".join(troubles))


def find_command(family: Family, mode: Mode, action: str) -> str | None:
    """Return the path of the command for ``save`` or ``restore``; None where the node has none of this mode.

    It is looked for by its explicit name, then by the plain one, which may be of either mode.
    """
    program = PROGRAMS[family]
    explicit = shutil.which(f"{program}-{mode}-{action}", path=_SEARCH_PATH)
    if explicit is not None:
        return explicit
    plain = shutil.which(f"{program}-{action}", path=_SEARCH_PATH)
    if plain is None or _mode_of(plain) != mode:
        return None
    return plain


def missing_commands(mode: Mode, families: Iterable[Family]) -> list[Fault]:
    """Return a fault for each family whose commands the node does not have."""
    faults = []
    for family in sorted(families):
        missing = [action for action in ("save", "restore") if find_command(family, mode, action) is None]
        if missing:
            names = " and ".join(f"{PROGRAMS[family]}-{mode}-{action}" for action in missing)
            faults.append(
                Fault(f"not installed: {names}", "install the package iptables, version 1.8 or later")
            )
    return faults


@functools.cache
def _mode_of(command: str) -> Mode | None:
    try:
        done = subprocess.run([command, "--version"], capture_output=True, text=True, timeout=5, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    # Before 1.8 there was one iptables, which did not say that it was the legacy one.
    return "nft" if "nf_tables" in done.stdout else "legacy"
