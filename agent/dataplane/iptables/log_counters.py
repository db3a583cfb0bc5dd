"""How many packets rules have denied, and logged of these, as iptables-save -c prints it."""

from __future__ import annotations

from collections.abc import Iterable

from agent.dataplane.iptables.counters import counted, lines_of
from agent.dataplane.iptables.rules import comments, names
from agent.dataplane.iptables.variant import Mode
from agent.dataplane.logged import Decided, Judged, LogCount
from agent.net import Direction, Family

_LOGS = {
    f"--nflog-prefix {Judged(verdict, direction).prefix}"
    for verdict in (Decided.DENIED, Decided.WOULD_DENY)
    for direction in Direction
}
_PODS = (names.POD_PREFIX, names.AUDIT_POD_PREFIX)


def read_logged(mode: Mode, families: Iterable[Family]) -> dict[tuple[Direction, str], LogCount]:
    """Return the counts of each pod's direction that is logged, over both families. Raises OSError."""
    found: dict[tuple[Direction, str], LogCount] = {}
    for family in families:
        for which, count in logged(lines_of(mode, family)).items():
            found[which] = found.get(which, LogCount(0, 0)).plus(count)
    return found


def logged(lines: Iterable[str]) -> dict[tuple[Direction, str], LogCount]:
    """Read the counts out of what ``iptables-save -c`` prints.

    In a pod's chain, the rule that logs comes before the one that denies, or counts what would be denied.
    """
    found: dict[tuple[Direction, str], LogCount] = {}
    here, packets = "", 0
    for line in lines:
        if not any(prefix in line for prefix in _PODS):
            continue
        read = counted(line)
        if read is None or not read.chain.startswith(_PODS):
            continue
        if any(prefix in read.text for prefix in _LOGS):
            here, packets = read.chain, read.packets
        elif read.chain == here and (denied := _denied(read.text)) is not None:
            found[denied.direction, f"{denied.namespace}/{denied.pod}"] = LogCount(read.packets, packets)
    return found


def _denied(rule: str) -> comments.Denies | None:
    return comments.read_denies(rule) or comments.read_would_deny(rule)
