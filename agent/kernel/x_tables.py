"""Looking at the legacy tables (those of iptables-legacy) without making them.

Asking the kernel for a legacy table makes it, and from then on every packet walks through it. Those that
exist are listed in ``/proc/net/ip_tables_names``, so only these are read: through python-iptables, that is by
libiptc in this process, or where that does not load, by ``iptables-legacy-save``.
"""

from __future__ import annotations

import ctypes
import socket
import struct
import subprocess
from collections.abc import Container, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from agent.net import Family

PROC_NET = Path("/proc/thread-self/net")
"""Of the calling thread's network namespace; ``/proc/net`` is that of the process's first thread."""

_NAMES = {Family.V4: "ip_tables_names", Family.V6: "ip6_tables_names"}
_COMMANDS = {Family.V4: "iptables-legacy-save", Family.V6: "ip6tables-legacy-save"}
_GET_INFO, _INFO_BYTES, _INFO_HOOKS, _INFO_SIZE = 64, 84, 36, 80
_GET_ENTRIES, _TABLE_NAME, _ENTRIES_AT, _PART_HEADER = 65, 32, 40, 32
_OFFSETS = {Family.V4: (88, 112), Family.V6: (140, 168)}
"""Where a rule says how long it is, and where its matches begin."""
_HOOKS = ("PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
_libc = ctypes.CDLL(None)
_TIMEOUT_SECONDS = 30

ChainSizes = Mapping[str, int]
"""Chain name to its number of rules."""


class LegacyError(Exception):
    """A legacy table that exists could not be read."""


def table_names(family: Family, proc_net: Path = PROC_NET) -> tuple[str, ...]:
    """Return the legacy tables that exist in this network namespace; none where the kernel lacks them.

    Raises LegacyError.
    """
    try:
        return tuple(sorted(set((proc_net / _NAMES[family]).read_text().split())))
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise LegacyError(f"{error.filename}: {error.strerror}") from error


def extent(family: Family, table: str = "filter") -> bytes | None:
    """Return where the rules of a table's built-in chains begin and end, and how many rules it has.

    None where there is no such table. It costs some 50 µs, however many rules there are, and is the
    ``IPT_SO_GET_INFO`` of ``linux/netfilter_ipv4/ip_tables.h``, which has the same number for IPv6.
    """
    if table not in table_names(family):
        return None
    return _ask(family, _GET_INFO, table.encode(), _INFO_BYTES)


def _ask(family: Family, what: int, given: bytes, size: int) -> bytes | None:
    domain, level = (
        (socket.AF_INET, socket.IPPROTO_IP) if family is Family.V4 else (socket.AF_INET6, socket.IPPROTO_IPV6)
    )
    buffer = ctypes.create_string_buffer(given, size)
    length = ctypes.c_uint(size)
    try:
        with socket.socket(domain, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.IPPROTO_RAW) as asker:
            # Not by the socket module, whose getsockopt hands nothing in.
            failed = _libc.getsockopt(asker.fileno(), level, what, buffer, ctypes.byref(length))
    except OSError:
        return None
    return None if failed else buffer.raw


class Rule(NamedTuple):
    """A rule: its chain, its number there from 1, and its matches and target: name, revision and data."""

    chain: str
    number: int
    parts: tuple[tuple[str, int, bytes], ...]


def rules(family: Family, table: str) -> Iterator[Rule]:
    """Yield the rules of a table that exists, undecoded; none where it changes meanwhile.

    It is the ``IPT_SO_GET_ENTRIES`` of the same file. Raises struct.error for what is no such table.
    """
    info = extent(family, table)
    if info is None:
        return
    (size,) = struct.unpack_from("=I", info, _INFO_SIZE)
    given = table.encode().ljust(_TABLE_NAME, b"\0") + struct.pack("=I", size)
    found = _ask(family, _GET_ENTRIES, given, _ENTRIES_AT + size)
    if found is None:
        return
    begins = {
        offset: name
        for hook, (name, offset) in enumerate(
            zip(_HOOKS, struct.unpack_from("=5I", info, _INFO_HOOKS), strict=True)
        )
        if struct.unpack_from("=I", info, _TABLE_NAME)[0] & 1 << hook
    }
    offsets, parts_at = _OFFSETS[family]
    chain, number, at = "", 0, 0
    while at < size:
        entry = _ENTRIES_AT + at
        if at in begins:
            chain, number = begins[at], 0
        target_offset, next_offset = struct.unpack_from("=HH", found, entry + offsets)
        parts = []
        part = entry + parts_at
        while part < entry + next_offset:
            length, name, revision = struct.unpack_from("=H29sB", found, part)
            if length < _PART_HEADER:
                raise struct.error(f"a part of {length} bytes")
            data = found[part + _PART_HEADER : part + length]
            parts.append((name.split(b"\0", 1)[0].decode(errors="replace"), revision, data))
            part += length
        if next_offset <= target_offset:
            raise struct.error(f"a rule of {next_offset} bytes")
        at += next_offset
        if parts and parts[-1][0] == "ERROR":
            chain, number = parts[-1][2].split(b"\0", 1)[0].decode(errors="replace"), 0
        else:
            number += 1
            yield Rule(chain, number, tuple(parts))


def read(family: Family, tables: Container[str]) -> dict[str, ChainSizes]:
    """Return each of some legacy tables, as far as they exist. Raises LegacyError."""
    return {table: _read(family, table) for table in table_names(family) if table in tables}


def _read(family: Family, table: str) -> ChainSizes:
    try:
        return read_by_library(family, table)
    except LegacyError:
        return read_by_command(family, table)


def read_by_library(family: Family, table: str) -> ChainSizes:
    """Read one table by libiptc. Raises LegacyError where the library does not load or cannot read it."""
    try:
        # Late: importing it runs processes that look for libraries, and loads the module ip_tables.
        import iptc
    except Exception as error:  # its loading of libraries fails in as many ways as there are systems
        raise LegacyError(f"python-iptables does not load: {error}") from error
    try:
        # Without autocommit, or letting go of the table could write it back. It is one object for the
        # process, with a handle from when it was last used, perhaps in another namespace.
        opened = (iptc.Table if family is Family.V4 else iptc.Table6)(table, autocommit=False)
        opened.refresh()
        try:
            chains = {}
            for chain in opened.chains:
                rule, count = opened.first_rule(chain.name), 0
                while rule:
                    rule, count = opened.next_rule(rule), count + 1
                chains[str(chain.name)] = count
            return chains
        finally:
            opened.close()
    except (iptc.IPTCError, AttributeError, TypeError) as error:
        raise LegacyError(f"libiptc cannot read table {table}: {error}") from error


def read_by_command(family: Family, table: str) -> ChainSizes:
    """Read one table by its command. Raises LegacyError."""
    command = [_COMMANDS[family], "-t", table]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=_TIMEOUT_SECONDS, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise LegacyError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise LegacyError(f"{command[0]}: {done.stderr.strip() or f'exit code {done.returncode}'}")
    return parse(done.stdout).get(table, {})


def parse(text: str) -> dict[str, dict[str, int]]:
    """Return the tables, chains and numbers of rules that iptables-save printed."""
    tables: dict[str, dict[str, int]] = {}
    chains: dict[str, int] = {}
    # Not by splitlines(), which also splits at characters that a comment may hold.
    for line in text.split("\n"):
        if line.startswith("*"):
            chains = tables.setdefault(line[1:], {})
        elif line.startswith(":"):
            chains.setdefault(line[1:].split(" ", 1)[0], 0)
        elif line.startswith("-A "):
            chain = line.split(" ", 2)[1]
            chains[chain] = chains.get(chain, 0) + 1
    return tables
