"""The flow log read from a file, as ``--flow-log`` writes it."""

from __future__ import annotations

import ipaddress
import sys
from pathlib import Path
from typing import NamedTuple

from agent.kube.model import Key
from agent.observe.flows.flow import End, Flow, from_json
from agent.words import count

_LAST_PORT = 65535


class RecordsError(Exception):
    """A flow log that cannot be read; the message says why, and what to do."""


class Records(NamedTuple):
    """What a flow log holds, in its order, and what is to be said of it."""

    flows: tuple[Flow, ...]
    notes: tuple[str, ...] = ()


def read_records(name: str, since: float | None = None) -> Records:
    """Read a flow log, or standard input for ``-``. Raises RecordsError.

    ``since``: only what was seen after it, in ``time.time()`` seconds. A line that is cut off, as the last
    one is while it is being written, is left out and counted.
    """
    try:
        if name == "-":
            text = b"" if sys.stdin is None else sys.stdin.buffer.read()
        else:
            text = Path(name).read_bytes()
    except OSError as error:
        raise RecordsError(f"{name}: {error.strerror}; name a file that --flow-log has written") from None
    return parse(name, text, since)


def parse(name: str, text: bytes, since: float | None = None) -> Records:
    """Read the lines of a flow log. Raises RecordsError."""
    found: list[Flow] = []
    unread = lines = missed = 0
    for line in filter(None, text.splitlines()):
        lines += 1
        try:
            report = from_json(line)
            if isinstance(report, Flow):
                for end in (report.source, report.destination):
                    _check(end)
        except ValueError:
            unread += 1
            continue
        if isinstance(report, Flow) and (since is None or report.last.timestamp() >= since):
            found.append(report)
        elif report is not None and not isinstance(report, Flow):
            missed += report.packets
    if unread and unread == lines:
        raise RecordsError(f"{name}: no line of it is a report of --flow-log; name such a file")
    notes = []
    if unread:
        left = "is" if unread == 1 else "are"
        notes.append(f"{name}: {count(unread, 'line')} cannot be read and {left} left out")
    if missed:
        notes.append(
            f"{name}: {count(missed, 'packet')} came too fast to be logged, so connections may be missing"
        )
    return Records(tuple(found), tuple(notes))


def _check(end: End) -> None:
    """Raise ValueError for an end that no agent has written: a log may have been edited, or be another's."""
    ipaddress.ip_address(end.address)
    if end.pod:
        Key.of(end.pod)
    if end.port is not None and not 0 <= end.port <= _LAST_PORT:
        raise ValueError(f"{end.port} is no port")
