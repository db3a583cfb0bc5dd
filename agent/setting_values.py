"""What settings can be: choices, and texts as values.

Each reader raises UnfitError, which says what is wrong with a text that does not fit.
"""

from __future__ import annotations

import enum
import ipaddress
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from agent.net import Network
from agent.policy.budget.limits import (
    Budget,
    changed,
)

KUBE_PROXY_MARKS = 0x4000 | 0x8000


class IptablesMode(enum.StrEnum):
    """Which of the two iptables programs to use."""

    AUTO = "auto"
    NFT = "nft"
    LEGACY = "legacy"


class AllowedPackets(enum.StrEnum):
    """What becomes of a packet that policy allows."""

    RETURN = "return"
    ACCEPT = "accept"


class DeniedPackets(enum.StrEnum):
    """What becomes of a packet that no policy allows."""

    DROP = "drop"
    REJECT = "reject"


class Families(enum.StrEnum):
    """Which address families to enforce."""

    AUTO = "auto"
    IPV4 = "ipv4"
    IPV6 = "ipv6"
    DUAL = "dual"


class NewPods(enum.StrEnum):
    """What an address of this node's pods may do before a pod is known to have it."""

    ALLOW = "allow"
    DENY = "deny"


class LogFormat(enum.StrEnum):
    """How log events are written."""

    AUTO = "auto"
    CONSOLE = "console"
    JSON = "json"


class LogLevel(enum.StrEnum):
    """The least severe event that is logged."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


class UnfitError(ValueError):
    """A text that a setting's parser does not take; the text says what it would take."""


_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")


CNI_RESULTS = (Path("/var/lib/cni/results"), Path("/var/lib/cni/cache/results"))
"""Where libcni keeps results for containerd and CRI-O, and where older runtimes had it do so."""


def cni_results(text: str) -> tuple[Path, ...]:
    """Return the folders that a text names, with commas between; none for ``off``."""
    if text.lower() in {"auto", "off"}:
        return CNI_RESULTS if text.lower() == "auto" else ()
    folders = tuple(Path(part.strip()) for part in text.split(","))
    if not all(folder.is_absolute() for folder in folders):
        raise UnfitError("give folders by their whole paths, with commas between, or auto, or off")
    return folders


NRI_SOCKET = Path("/var/run/nri/nri.sock")
"""Where container runtimes listen for plugins of NRI."""


def nri_socket(text: str) -> Path | None:
    """Return the socket that a text names, None for ``off``."""
    if text.lower() in {"auto", "off"}:
        return NRI_SOCKET if text.lower() == "auto" else None
    if not Path(text).is_absolute():
        raise UnfitError("give the socket by its whole path, or auto, or off")
    return Path(text)


def node_name(text: str) -> str:
    if len(text) > 253 or not _SUBDOMAIN.fullmatch(text):
        raise UnfitError("give the name the node has in the cluster: lower-case letters, digits, '-' and '.'")
    return text


def name_list(text: str) -> frozenset[str]:
    return frozenset(filter(None, map(str.strip, text.split(","))))


def some_text(text: str) -> str:
    return text


def path_of(text: str) -> Path:
    return Path(text)


def directory(text: str) -> Path | None:
    if not text:
        return None
    path = Path(text)
    try:
        there = path.is_dir()
    except OSError as error:
        raise UnfitError(f"{error.strerror}; give a directory that this user can reach") from None
    if not there:
        one = "; explain and render read single files and - as well" if text == "-" or path.exists() else ""
        raise UnfitError(f"give a directory that exists and holds manifests (.yaml, .yml, .json){one}")
    return path


def mark(text: str) -> int | None:
    if text.lower() == "auto":
        return None
    try:
        mark = int(text, 0)
    except ValueError:
        mark = 0
    if not 0 < mark <= 0xFFFFFFFF or mark & (mark - 1):
        raise UnfitError("give one bit of the 32 of a packet's mark, such as 0x20000, or auto")
    return mark


def seconds(least: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            seconds = float(text)
        except ValueError:
            seconds = float("nan")
        if not least <= seconds <= 86_400:
            raise UnfitError(f"give a number of seconds from {least:g} to 86400")
        return seconds

    return parse


_SIZE = re.compile(r"(\d{1,12})(Ki|Mi|Gi)?")
_SIZES = {None: 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}
_AGE = re.compile(r"(\d{1,9})([smhd])?")
_AGES = {None: 1, "s": 1, "m": 60, "h": 3_600, "d": 86_400}


def size(least: int) -> Callable[[str], int]:
    """Return a reader of numbers of bytes: ``0``, or at least ``least``."""

    def parse(text: str) -> int:
        found = _SIZE.fullmatch(text)
        number = int(found[1]) * _SIZES[found[2]] if found is not None else -1
        if number and not least <= number <= 1 << 40:
            raise UnfitError(f"give bytes, such as 16Mi; at least {least >> 10}Ki, or 0 for none")
        return number

    return parse


def age(text: str) -> float:
    found = _AGE.fullmatch(text)
    if found is None or not int(found[1]):
        raise UnfitError("give a time, such as 30d, 12h, 90m or 600s")
    return float(int(found[1]) * _AGES[found[2]])


def budget(default: Budget) -> Callable[[str], Budget]:
    def parse(text: str) -> Budget:
        try:
            return changed(default, text)
        except ValueError:
            names = ", ".join(default._fields)
            raise UnfitError(
                f"give amounts of some of {names}, such as rules=8000,sets=500, each from 1 to 999999999 "
                "(with 0, every policy that needs any would be closed)"
            ) from None

    return parse


def networks(text: str) -> frozenset[Network]:
    """Read networks with commas between them."""
    found = set()
    for part in filter(None, map(str.strip, text.split(","))):
        try:
            network = ipaddress.ip_network(part)
        except ValueError as error:
            raise UnfitError(f"{error}; give networks such as 10.244.0.0/16,fd00:10:244::/48") from None
        if not network.prefixlen:
            raise UnfitError(f"{part} holds every address; give the networks that pods have addresses of")
        found.add(Network(network.network_address.packed, network.prefixlen))
    return frozenset(found)


def address(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text))
    except ValueError:
        raise UnfitError(
            "give an IP address to listen on, such as 127.0.0.1, or 0.0.0.0 for every one"
        ) from None


def port_number(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or int(text) > 65_535:
        raise UnfitError("give a TCP port from 1 to 65535, or 0 for any that is free")
    return int(text)


def whole_number(least: int, most: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,9}", text) or not least <= int(text) <= most:
            raise UnfitError(f"give a whole number from {least} to {most}")
        return int(text)

    return parse


def file_path(text: str) -> Path | None:
    if not text:
        return None
    path = Path(text)
    if path.is_dir():
        raise UnfitError("give a file, not a directory")
    return path


BOOLEANS = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}
"""What a boolean can be, in lower case."""


def switch(text: str) -> bool:
    if (found := BOOLEANS.get(text.lower())) is None:
        raise UnfitError("give true or false")
    return found


class Endpoint(NamedTuple):
    """An IP address and a TCP port to listen on."""

    address: str
    port: int

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if ":" in self.address else f"{self.address}:{self.port}"


def endpoint(text: str) -> Endpoint | None:
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not colon or (":" in host and not bracketed):
        raise UnfitError("give an IP address and a port, such as 0.0.0.0:20246 or [::]:20246")
    return Endpoint(address(host[1:-1] if bracketed else host), port_number(port))


def file_of(text: str) -> Path | None:
    return Path(text) if text else None
