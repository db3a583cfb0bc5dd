"""Whether this process may change the network: what the kernel asks for, not who it runs as."""

from __future__ import annotations

from pathlib import Path

_NET_ADMIN = 1 << 12
"""CAP_NET_ADMIN of capability.h."""


def may_change_network(status: Path = Path("/proc/self/status")) -> bool:
    """Whether CAP_NET_ADMIN is in effect; True when that cannot be read, as what is tried will tell."""
    try:
        lines = status.read_text().splitlines()
        effective = next(line for line in lines if line.startswith("CapEff:"))
        return bool(int(effective.split()[1], 16) & _NET_ADMIN)
    except (OSError, StopIteration, ValueError):
        return True
