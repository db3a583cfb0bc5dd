"""Whether this process may change the network: what the kernel asks for, not who it runs as."""

from __future__ import annotations

from pathlib import Path

_NEEDED = {"CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}
"""Their bits of capability.h. iptables asks the kernel about sets and legacy tables through raw sockets."""


def missing(status: Path = Path("/proc/self/status")) -> tuple[str, ...]:
    """Return the capabilities that are needed and not in effect; none when that cannot be read.

    What is tried will tell then.
    """
    try:
        lines = status.read_text().splitlines()
        effective = int(next(line for line in lines if line.startswith("CapEff:")).split()[1], 16)
    except (OSError, StopIteration, ValueError):
        return ()
    return tuple(name for name, bit in _NEEDED.items() if not effective >> bit & 1)
