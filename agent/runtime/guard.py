"""A guard over a node's pod networks from boot until an agent knows its pods: over which, and put how."""

from __future__ import annotations

import ipaddress
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from agent import log
from agent.decoding import UndecodableError, decode
from agent.fault import Fault
from agent.host.check import bridge_faults, check_host
from agent.kernel.netlink import NetlinkSocket
from agent.kernel.nf_release import Held
from agent.kernel.node_lock import LockedError, lock_node
from agent.net import Family, Network
from agent.runtime import backends, holding
from agent.settings import Settings
from agent.words import one_line

_log = log.get(__name__)

KEPT = "pod-networks"
"""The file in the state directory in which the agent keeps the networks that it closes."""
CNI_CONFIGURATIONS = Path("/etc/cni/net.d")
_MOST_BYTES = 1 << 20
_SHOWN = 3
_CORRECT = "correct the file as JSON"


class Chosen(NamedTuple):
    """The networks of this node's pods, and who says so."""

    networks: frozenset[Network]
    source: str


class NoNetworksError(Exception):
    """Nothing tells which networks this node's pods have."""


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """What stands of a guard: in which families, over which networks.

    ``closed``: new pods are closed, by a guard or, ``by_agent``, by the agent's own rules. ``own_table``: the
    families in which the guard has a table of its own, which no rule of iptables passes. ``passed``: in
    another family, a rule before the guard's by which packets could pass; then they are not closed.
    ``mode``: of iptables, in which the guard stands; empty where it stands in tables of its own alone.
    ``bridged``: bridges whose packets meet no rule, so that they are not closed either.
    ``held_by``: the process that its own tables belong to, so that no other program removes them.
    """

    closed: bool
    families: tuple[int, ...]
    networks: tuple[str, ...]
    mode: str
    by_agent: bool
    passed: str = ""
    own_table: tuple[int, ...] = ()
    held_by: str = ""
    bridged: str = ""


def keep(networks: frozenset[Network], directory: Path) -> None:
    """Keep the networks for the next boot. Raises OSError."""
    directory.mkdir(parents=True, exist_ok=True)
    beside = directory / f".{KEPT}"
    beside.write_text("".join(f"{network}\n" for network in sorted(networks)))
    os.replace(beside, directory / KEPT)


def choose_networks(settings: Settings, configurations: Path = CNI_CONFIGURATIONS) -> Chosen:
    """Return what ``--pod-networks`` says, else what the agent closed last, else what CNI is configured for.

    Raises NoNetworksError.
    """
    if settings.pod_networks:
        return Chosen(settings.pod_networks, "--pod-networks")
    kept = settings.state_dir / KEPT
    try:
        lines = kept.read_text().split()
    except (OSError, UnicodeDecodeError):
        lines = []
    if found := frozenset(filter(None, map(_network, lines))):
        return Chosen(found, f"{kept}, which the agent has kept")
    configured, unread = _configured(configurations)
    if configured:
        for file in unread:
            _log.warning("left out", file=str(file.path), why=file.why, remedy=_CORRECT)
        return Chosen(configured, f"the host-local subnets of {configurations}")
    because = "".join(f"; {file.path} cannot be read: {file.why}" for file in unread[:_SHOWN])
    lacking = "names none" if kept.exists() else "is not there"
    raise NoNetworksError(
        f"which networks this node's pods have is not known: {kept} {lacking}, and no configuration in "
        f"{configurations} has a host-local subnet{because}; name them with --pod-networks"
        + (f", or {_CORRECT}" if unread else "")
    )


class _Unread(NamedTuple):
    """A configuration of CNI that cannot be read."""

    path: Path
    why: str


def _configured(directory: Path) -> tuple[frozenset[Network], list[_Unread]]:
    """Return the subnets of host-local in configurations of CNI (.conf, .conflist, .json), and the unread."""
    networks: set[Network] = set()
    unread: list[_Unread] = []
    try:
        files = sorted(f for f in directory.iterdir() if f.suffix in (".conf", ".conflist", ".json"))
    except OSError:
        files = []
    for file in files:
        try:
            with file.open("rb") as opened:
                told = decode(opened.read(_MOST_BYTES), dict[str, Any])
        except OSError as error:
            unread.append(_Unread(file, error.strerror or str(error)))
            continue
        except UndecodableError as error:
            unread.append(_Unread(file, one_line(str(error))))
            continue
        plugins = told.get("plugins", [told])
        for plugin in plugins if isinstance(plugins, list) else []:
            ipam = plugin.get("ipam") if isinstance(plugin, dict) else None
            if isinstance(ipam, dict) and ipam.get("type") == "host-local":
                networks.update(filter(None, map(_network, _subnets(ipam))))
    return frozenset(networks), unread


def _subnets(ipam: dict[str, Any]) -> Iterator[Any]:
    """Yield the subnets of an ``ipam`` section: of its own, or of its ranges."""
    yield ipam.get("subnet")
    ranges = ipam.get("ranges")
    for some in ranges if isinstance(ranges, list) else []:
        for one in some if isinstance(some, list) else []:
            yield one.get("subnet") if isinstance(one, dict) else None


def _network(text: object) -> Network | None:
    """Return the network of a text; None where it is none that can be closed."""
    try:
        found = ipaddress.ip_network(text, strict=False) if isinstance(text, str) else None
    except ValueError:
        return None
    if found is None or not found.prefixlen:
        return None
    return Network(found.network_address.packed, found.prefixlen)


def status() -> Status:
    """Say what stands. Raises TableError."""
    found = [one for mode in backends.MODES for one in backends.guard.standing(mode)]
    guarded = [one for one in found if one.guarded]
    closing = [one for one in found if one.closes]
    tables = backends.guard.own_tables()
    is_guarded = bool(guarded or tables)
    told = guarded if is_guarded else closing
    passed = next((one.passed for one in guarded if one.passed and one.family not in tables), "")
    bridged = next((fault for fault in bridge_faults() if fault.blocking), None)
    networks = {network for one in guarded for network in one.networks}
    return Status(
        bool(told or tables) and not passed and bridged is None,
        tuple(sorted({*(int(one.family) for one in told), *map(int, tables)})),
        tuple(sorted(networks.union(*tables.values()))),
        told[0].mode if told else "",
        by_agent=bool(closing) and not is_guarded,
        passed=passed,
        own_table=tuple(sorted(map(int, tables))),
        held_by=next(filter(None, map(backends.guard_table.holder_of, tables)), ""),
        bridged=f"{bridged.what}; {bridged.remedy}" if bridged and (told or tables) else "",
    )


def text(found: Status) -> str:
    """Return the status for people."""
    if found.passed:
        return (
            f"a guard stands, but packets could pass it: {found.passed}; run netpol-agent guard again, which "
            "puts it in front\n"
        )
    if found.bridged:
        return f"what is to close new pods stands, but packets pass beside it: {found.bridged}\n"
    if not found.closed:
        return (
            "no guard stands: new pods are open until an agent that runs with --new-pods deny closes them\n"
        )
    families = " and ".join(f"IPv{family}" for family in found.families)
    if found.by_agent:
        return f"no guard is needed: the agent's rules close new pods in {families} (iptables {found.mode})\n"
    where = ", ".join(found.networks)
    by = [f"iptables {found.mode}"] if found.mode else []
    if found.own_table:
        by.append("tables of nftables of its own, which no rule of iptables passes")
    held = f"; {found.held_by} holds these tables, which no other program can remove" if found.held_by else ""
    return f"a guard closes {where} ({' and '.join(by)}) until the first sync of netpol-agent run{held}\n"


def as_json(found: Status) -> str:
    """Return the status as JSON."""
    return json.dumps(msgspec.to_builtins(found), indent=2) + "\n"


class Holder(NamedTuple):
    """A socket, and the tables of a guard that belong to it."""

    netlink: NetlinkSocket
    tables: tuple[Held, ...]


class Put(NamedTuple):
    """What has come of a guard: what went wrong, and who holds its tables."""

    faults: list[Fault]
    holder: Holder | None = None


def put(settings: Settings, *, hold: bool = False) -> Put:
    """Put the guard into the kernel, unless an agent's own rules close.

    ``hold``: its own tables are to belong to this process; go on with :func:`hold` then. Raises
    NoNetworksError, UndecidedError and TableError.
    """
    if status().by_agent:
        _log.info("not needed", detail="the agent's own rules close what is not known")
        return Put([])
    chosen = choose_networks(settings)
    choice = backends.choose(settings)
    netlink = _open() if hold else None
    try:
        with lock_node():
            host = check_host(settings.fix_host, backends.lacking(choice))
            faults = [*choice.faults, *host.faults]
            faults += backends.guard.put(choice.mode, chosen.networks, netlink)
            tables = backends.guard_table.held_by(netlink) if netlink is not None else ()
    except LockedError as error:
        remedy = "no guard is put beside an agent that runs: to close new pods, run it with --new-pods deny"
        return Put([Fault(str(error), remedy)])
    if hold and not tables:
        faults.append(_not_held())
    if not any(fault.blocking for fault in faults):
        _log.info(
            "closed",
            networks=sorted(map(str, chosen.networks)),
            by=chosen.source,
            iptables_mode=choice.mode,
            until="the first sync of netpol-agent run, or netpol-agent guard --remove",
            **({"held": bool(tables)} if hold else {}),
        )
    return Put(faults, Holder(netlink, tables) if netlink is not None and tables else None)


def hold(holder: Holder | None, settings: Settings) -> None:
    """Go on as the program that holds a guard's tables; return if there are none. Raises OSError."""
    if holder is None:
        holding.notify()
    else:
        log_settings = settings.log_format.value, settings.log_level.value
        holding.become(*holder, log_settings, fix_host=settings.fix_host)


def _open() -> NetlinkSocket | None:
    try:
        return NetlinkSocket()
    except OSError:
        return None  # a kernel without nftables has nothing to hold


def _not_held() -> Fault:
    """Say why this process holds no table."""
    owners = set(filter(None, map(backends.guard_table.holder_of, Family)))
    if owners:
        return Fault(f"the guard is held already, by {' and '.join(sorted(owners))}", "nothing is to be done")
    what = "the guard stands, but nothing keeps other programs from removing it: no table of it can be held"
    return Fault(what, "Linux 6.9 or later, with nftables (nf_tables, nft_ct, nft_fib)", blocking=False)


def remove() -> list[Fault]:
    """Take the guard out of the kernel; return what of it stays."""
    try:
        with lock_node():
            return backends.guard.remove()
    except LockedError as error:
        return [Fault(str(error), "an agent that runs has removed it at its first sync")]
