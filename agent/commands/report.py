"""``netpol-agent report``: one archive of what a person needs who was not there.

No secret is read: not the token, not what is in a kubeconfig. Of settings only values are told, and none is a
secret. The archive names pods, policies and addresses.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

from agent import __version__
from agent.host.check import check_host
from agent.observe import client
from agent.observe.archive import archive
from agent.runtime import backends
from agent.settings import SETTINGS

_PAGES = {
    "status.json": "/status",
    "health.txt": "/healthz",
    "ready.txt": "/readyz",
    "settings.json": "/settings",
    "history.json": "/history",
    "denied.json": "/flows?limit=1000",
    "metrics.txt": "/metrics",
    "rendered.txt": "/rendered",
}
_UNIT = "netpol-agent"
_LOG_LINES = "5000"
_COMMANDS = {
    "host/addresses.txt": ("ip", "-brief", "address"),
    "host/links.txt": ("ip", "-details", "-brief", "link"),
    "host/iptables.txt": ("iptables", "--version"),
    "host/ipset.txt": ("ipset", "--version"),
}
_FILES = ("/etc/os-release", "/proc/version", "/proc/net/ip_tables_names", "/proc/net/ip6_tables_names")
_SYSCTLS = (
    "net/bridge/bridge-nf-call-iptables",
    "net/bridge/bridge-nf-call-ip6tables",
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/ipv4/vs/conntrack",
    "net/netfilter/nf_conntrack_count",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_timestamp",
)
_MODULES = ("nf", "ip", "x_", "xt_", "br_", "bridge")
_SECONDS = 30


class Report(NamedTuple):
    """An archive, the folder in it, and what could not be read."""

    folder: str
    content: bytes
    missing: tuple[str, ...]


def report(url: str, now: float, stamp: str) -> Report:
    """Gather everything; ``stamp`` tells one report from another. What cannot be read is named."""
    missing: list[str] = []
    parts = _asked(url, missing) | backends.held_text() | dict(_host())
    parts["versions.txt"] = "\n".join((*_versions(), "")).encode()
    parts |= _log(missing)
    parts["environment.txt"] = "\n".join((*_environment(), "")).encode()
    parts["missing.txt"] = "".join(f"{line}\n" for line in missing).encode()
    folder = f"netpol-agent-report-{platform.node()}-{stamp}"
    return Report(folder, archive(folder, parts, now), tuple(missing))


def _asked(url: str, missing: list[str]) -> dict[str, bytes]:
    found = {}
    for name, path in _PAGES.items():
        try:
            found[name] = client.get(url, path)
        except client.UnreachableError as error:
            missing.append(f"{name}: {error}")
    return found


def _host() -> Iterator[tuple[str, bytes]]:
    for name, command in _COMMANDS.items():
        yield name, _run(command)
    for path in _FILES:
        yield f"host{path}", _read(path)
    sysctls = (f"{name} = {_read(f'/proc/sys/{name}').decode().strip()}\n" for name in _SYSCTLS)
    yield "host/sysctls.txt", "".join(sysctls).encode()
    modules = _read("/proc/modules").decode(errors="replace").splitlines()
    yield "host/modules.txt", "".join(f"{m}\n" for m in modules if m.startswith(_MODULES)).encode()
    try:
        faults = "".join(f"{fault.what} ({fault.remedy})\n" for fault in check_host(fix=False).faults)
    except OSError as error:
        faults = f"the host cannot be checked: {error}\n"
    yield "host/faults.txt", faults.encode()


def _versions() -> Iterator[str]:
    yield f"netpol-agent {__version__}"
    yield f"python {platform.python_version()}"
    yield f"kernel {platform.release()} {platform.machine()}"
    for name in (
        "click",
        "kubernetes",
        "msgspec",
        "netaddr",
        "prometheus-client",
        "rich",
        "structlog",
        "urllib3",
    ):
        try:
            yield f"{name} {importlib.metadata.version(name)}"
        except importlib.metadata.PackageNotFoundError:
            yield f"{name} is not installed as a package"


def _environment() -> Iterator[str]:
    """Give the settings that this command's environment has: those of the agent may be others."""
    for setting in SETTINGS:
        for variable in setting.environment:
            if variable in os.environ:
                yield f"{variable}={os.environ[variable]}"


def _log(missing: list[str]) -> Mapping[str, bytes]:
    """Return the agent's log where systemd keeps it."""
    command = ("journalctl", "--no-pager", "--quiet", "-u", _UNIT, "-n", _LOG_LINES)
    printed = _run(command)
    if printed.strip() and not printed.startswith(b"# "):
        return {"log.txt": printed}
    missing.append("log.txt: systemd has none; in a cluster: kubectl logs of the agent's pod")
    return {}


def _run(command: tuple[str, ...]) -> bytes:
    try:
        done = subprocess.run(command, capture_output=True, timeout=_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return f"# {command[0]}: {error}\n".encode()
    return done.stdout + done.stderr


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        return f"# {error.strerror}\n".encode()


def write(content: bytes, output: str) -> None:
    """Write an archive to a new file that only its owner may read, or to standard output for ``-``.

    Raises OSError; a file that is there already is not touched.
    """
    if output == "-":
        sys.stdout.buffer.write(content)
        sys.stdout.buffer.flush()
        return
    with open(os.open(output, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(content)
