"""What ipset's error numbers say, and what to do about each.

The numbers are those of ``linux/netfilter/ipset/ip_set.h``, held against pyroute2's by a test: loading that
package takes an eighth of a second and ten megabytes, of which an agent would have a list of numbers.
"""

from __future__ import annotations

import errno
import os
from enum import IntEnum

from agent.fault import Fault

_PRIVATE = 4096
"""IPSET_ERR_PRIVATE: from here on numbers are ipset's own."""


class Code(IntEnum):
    """What the kernel answers besides errno's numbers; HASH_FULL is of the hash types."""

    PROTOCOL = 4097
    FIND_TYPE = 4098
    MAX_SETS = 4099
    BUSY = 4100
    EXIST_SETNAME2 = 4101
    TYPE_MISMATCH = 4102
    EXIST = 4103
    INVALID_CIDR = 4104
    INVALID_NETMASK = 4105
    INVALID_FAMILY = 4106
    TIMEOUT = 4107
    REFERENCED = 4108
    HASH_FULL = 4352


_REASONS: dict[int, tuple[str, str]] = {
    errno.ENOENT: ("no such set in the kernel", "the agent makes it again by itself"),
    errno.EEXIST: ("a set of that name exists", "the agent reads the kernel again by itself"),
    errno.EPERM: ("not permitted", "run the agent with CAP_NET_ADMIN in the node's network namespace"),
    errno.ENOMEM: ("the kernel has no memory for it", "free memory on the node"),
    errno.EBUSY: ("the set is being read or resized", "the agent tries again by itself"),
    Code.PROTOCOL: (
        "the kernel does not understand the request",
        "update the kernel: this one's ipset is older than version 6",
    ),
    Code.FIND_TYPE: (
        "the kernel lacks this type of set",
        "load the modules ip_set_hash_ip, ip_set_hash_ipport, ip_set_hash_net, ip_set_hash_ipportip and "
        "ip_set_list_set",
    ),
    Code.MAX_SETS: (
        "the kernel holds as many sets as it can",
        "raise the ip_set module's max_sets",
    ),
    Code.BUSY: ("a rule still refers to the set", "the agent tries again by itself"),
    Code.REFERENCED: ("a rule refers to the set", "the agent tries again by itself"),
    Code.EXIST_SETNAME2: (
        "the other name is missing or taken",
        "the agent reads the kernel again by itself",
    ),
    Code.TYPE_MISMATCH: (
        "the sets are of different types",
        "the agent reads the kernel again by itself",
    ),
    Code.INVALID_CIDR: ("a prefix length the set cannot hold", "see the member named"),
    Code.INVALID_FAMILY: (
        "the kernel lacks this address family for sets",
        "enable IPv6 in the kernel",
    ),
    Code.HASH_FULL: ("the set is full", "the agent makes a larger one by itself"),
}


class SetError(Exception):
    """An operation on a set failed. ``code`` is the kernel's error number, 0 when it was not asked."""

    def __init__(self, name: str, what: str, remedy: str = "", code: int = 0) -> None:
        super().__init__(f"set {name}: {what}")
        self.name = name
        self.what = what
        self.remedy = remedy
        self.code = code

    @property
    def full(self) -> bool:
        """Whether the set has no room: see :meth:`agent.kernel.ipset.IpSets.grow`."""
        return self.code == Code.HASH_FULL

    @property
    def referenced(self) -> bool:
        """Whether rules still refer to the set."""
        return self.code in (Code.BUSY, Code.REFERENCED)

    @property
    def missing(self) -> bool:
        """Whether the set does not exist."""
        return self.code == errno.ENOENT

    def fault(self) -> Fault:
        return Fault(str(self), self.remedy, reason="sets")


def error_of(name: str, code: int) -> SetError:
    """Return the error that the kernel's error number stands for, on a set."""
    what, remedy = _REASONS.get(code, ("", ""))
    if not what:
        what = f"ipset error {code}" if code >= _PRIVATE else os.strerror(code)
    return SetError(name, what, remedy, code)
