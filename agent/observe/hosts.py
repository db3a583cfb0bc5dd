"""Whom a request names as its host: this node, or whatever a name of somebody else's was made to point at.

A page in a browser may ask any address under a name whose DNS its author controls (DNS rebinding), and read
the answer. Such a request names that host, so only addresses and this node's own names are answered.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable

_HOST = re.compile(r"(?:\[([^\]]*)\]|([^:\[\]]*))(?::\d*)?")


def is_own(host: str, names: Iterable[str]) -> bool:
    """Whether a Host header's value (RFC 9110, 7.2) is an IP address, ``localhost`` or one of some names."""
    found = _HOST.fullmatch(host.strip())
    if found is None:
        return False
    within, plain = found.groups()
    if is_address(within if within is not None else plain):
        return True
    return within is None and _plain(plain) in {"localhost", *map(_plain, names)}


def is_address(text: str) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")
