"""What rows are measured against: the floors that are promised, and what Felix took.

Felix's figures are of one run on a two-core machine, against the same real API server and the same packets:
ratios carry over, milliseconds do not.
"""

from __future__ import annotations

from typing import NamedTuple

from tests.bench.worst import KINDS


class Mark(NamedTuple):
    """What a row's median is set beside; ``felix`` is by iptables. None: not known."""

    floor: float
    felix: float | None = None
    felix_nftables: float | None = None


_COLD = "start to the first packet denied"
_RATE = "greatest rate with lag under 100 ms"
_CPU = "CPU per remote pod event that concerns this node"

MARKS: dict[tuple[str, str], Mark] = {
    ("middle", _COLD): Mark(1800, 2100, 2300),
    ("middle", "policy added, quiet"): Mark(12, 86, 19),
    ("middle", "policy removed, quiet"): Mark(12, 68, 14),
    ("middle", "peer label set, quiet"): Mark(7, 14, 30),
    ("middle", "peer label removed, quiet"): Mark(7, 13, 28),
    ("middle", "policy added, 50 events/s"): Mark(16, 98, 123),
    ("middle", "peer label set, 50 events/s"): Mark(9, 94, 65),
    ("middle", _CPU): Mark(1, 6.8, 6.7),
    ("middle", _RATE): Mark(1000, 1000),
    ("middle", "resident memory"): Mark(105, 112),
    ("middle", "resident memory at its peak"): Mark(105, 112),
    **{
        ("middle", f"{change}, {kind}"): Mark(50)
        for change in ("policy edited, to deny", "peer label removed")
        for kind in KINDS
    },
    ("large", _COLD): Mark(4000, 2300),
    ("large", "policy added, quiet"): Mark(15, 203),
    ("large", "policy removed, quiet"): Mark(15, 174),
    ("large", "peer label set, quiet"): Mark(8, 17),
    ("large", "peer label removed, quiet"): Mark(8, 22),
    ("large", "policy added, 50 events/s"): Mark(20, 235),
    ("large", "peer label set, 50 events/s"): Mark(12, 79),
    ("large", _CPU): Mark(1, 12),
    ("large", _RATE): Mark(1000, 1000),
    ("large", "resident memory"): Mark(250, 395),
    ("large", "resident memory at its peak"): Mark(350, 893),
}
"""By the size's name and the row's."""
