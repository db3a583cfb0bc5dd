"""What the node must have for its rules to be enforced: looked at often, set right where permitted.

Without some of these, rules are in the kernel and packets pass beside them, so such a fault is blocking.
Sysctls are those of the kernel's ``Documentation/networking/ip-sysctl.rst``, ``ipvs-sysctl.rst`` and, for
bridges, ``br_netfilter``. A look costs a few file reads and three netlink requests, 1 ms in all; a process
is started only to load a module that is missing, and only once for each.
"""

from __future__ import annotations

import errno
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from agent import log
from agent.fault import Fault
from agent.kernel.links import Bridge, bridges
from agent.kernel.netlink import Message, NetlinkSocket, attribute
from agent.kernel.x_tables import PROC_NET
from agent.net import Family

_LOG = log.get(__name__)

_IPSET_PROTOCOL = Message(6 << 8 | 1, socket.AF_INET, attribute(1, b"\x06"))
_CONNTRACK_STATS = Message(1 << 8 | 5, socket.AF_UNSPEC, b"")
_BRIDGE_SYSCTLS = {
    Family.V4: "net/bridge/bridge-nf-call-iptables",
    Family.V6: "net/bridge/bridge-nf-call-ip6tables",
}
_FORWARD_SYSCTLS = {Family.V4: "net/ipv4/ip_forward", Family.V6: "net/ipv6/conf/all/forwarding"}
_SOURCE_ROUTES = "net/ipv4/conf/all/accept_source_route"
_IPVS_SYSCTL = "net/ipv4/vs/conntrack"


class HostState(NamedTuple):
    """What was found.

    ``families`` are those that packets on this node can have; ``bridged`` says that there is a bridge,
    ``ipvs`` that Services are translated by IPVS. ``needed``: sysctls that are on, and have to stay so.
    """

    faults: tuple[Fault, ...]
    families: frozenset[Family]
    bridged: bool
    ipvs: bool
    needed: tuple[str, ...] = ()


_NO_MEMORY = (errno.ENOMEM, errno.ENOBUFS)


def _answers(message: Message) -> int:
    """Return 0 if the kernel carries out a netfilter request, else its error number."""
    try:
        with NetlinkSocket() as netlink:
            failed = netlink.request([message])
    except OSError as error:
        return error.errno or errno.EIO
    return failed[0][1] if failed else 0


def _load_module(name: str) -> bool:
    modprobe = shutil.which("modprobe", path="/usr/sbin:/sbin:/usr/bin:/bin")
    if modprobe is None:
        return False
    try:
        done = subprocess.run([modprobe, name], capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


def _link_exists(name: str) -> bool:
    try:
        return socket.if_nametoindex(name) > 0
    except OSError:
        return False


@dataclass(frozen=True)
class Readers:
    """Where the node is read, and how modules are loaded: the kernel itself, unless a test says otherwise."""

    proc_sys: Path = Path("/proc/sys")
    proc_sys_of_host: Path = Path("/host/proc/sys")
    proc_net: Path = PROC_NET
    bridges: Callable[[], list[Bridge]] = bridges
    answers: Callable[[Message], int] = _answers
    link_exists: Callable[[str], bool] = _link_exists
    load_module: Callable[[str], bool] = _load_module
    tried: set[str] = field(default_factory=set)
    """Modules that have been asked for."""

    def sysctl(self, name: str) -> str | None:
        """Return a sysctl's text; None when there is none of that name."""
        try:
            return (self.proc_sys / name).read_text().strip()
        except OSError:
            return None

    def net(self, name: str) -> str | None:
        """Return a file of the namespace's /proc/net."""
        try:
            return (self.proc_net / name).read_text()
        except OSError:
            return None


KERNEL = Readers()


def dotted(name: str) -> str:
    """Return a sysctl's name as sysctl(8) writes it."""
    return name.replace("/", ".")


def set_sysctl(readers: Readers, name: str, value: str) -> bool:
    """Set a sysctl; False where it cannot be set, which is logged."""
    # Containers have /proc/sys read-only, and may be given the node's own beside it.
    mounted = readers.proc_sys_of_host / name
    path = mounted if mounted.exists() else readers.proc_sys / name
    try:
        path.write_text(f"{value}\n")
    except OSError as error:
        _LOG.warning("sysctl not set", sysctl=dotted(name), value=value, error=error.strerror)
        return False
    return readers.sysctl(name) == value


Needs = Callable[[frozenset[Family]], Iterable[Fault]]
"""What a backend misses on the node, for the families that this has."""


def check_host(fix: bool, needs: Needs | None = None, readers: Readers = KERNEL) -> HostState:
    """Look at the calling thread's network namespace; ``fix``: load modules and set sysctls as needed.

    ``needs``: what the backend asks for besides; None: nothing.
    """
    host = _Host(fix, readers)
    found = host.bridges()
    families = host.families(bool(found))
    if needs is not None:
        host.faults += needs(families)
    host.netfilter()
    host.bridge_calls(found, families)
    host.forwarding(families, bool(found))
    host.source_routes(found)
    ipvs = host.ipvs()
    return HostState(tuple(host.faults), families, bool(found), ipvs, tuple(host.needed))


def bridge_faults(readers: Readers = KERNEL) -> tuple[Fault, ...]:
    """Return by which bridges packets pass beside the rules; changes nothing."""
    host = _Host(False, readers)
    host.bridge_calls(host.bridges(), frozenset(Family))
    return tuple(host.faults)


def _names(found: list[Bridge]) -> str:
    return ", ".join(sorted(bridge.name for bridge in found))


class _Host:
    """One look: each method adds the faults it finds."""

    def __init__(self, fix: bool, readers: Readers) -> None:
        self.fix = fix
        self.read = readers
        self.faults: list[Fault] = []
        self.needed: list[str] = []

    def fault(self, what: str, remedy: str, blocking: bool = True) -> None:
        self.faults.append(Fault(what, remedy, blocking))

    def bridges(self) -> list[Bridge]:
        try:
            return self.read.bridges()
        except OSError as error:
            self.fault(
                f"the node's interfaces cannot be read: {error.strerror}", "let the agent use netlink sockets"
            )
            return []

    def families(self, bridged: bool) -> frozenset[Family]:
        """Return the families in use; IPv6 may be absent, or off and without any address."""
        disabled = self.read.sysctl("net/ipv6/conf/all/disable_ipv6")
        if disabled is None:
            self.fault("IPv6 is not in the kernel: it is not enforced", "none is needed", blocking=False)
            return frozenset({Family.V4})
        # Pods on a bridge reach each other over IPv6 whether or not the node itself uses it.
        if disabled == "1" and not bridged and not (self.read.net("if_inet6") or "").strip():
            self.fault(
                "IPv6 is disabled on this node: it is not enforced",
                "none is needed; after sysctl net.ipv6.conf.all.disable_ipv6=0 it is enforced",
                blocking=False,
            )
            return frozenset({Family.V4})
        return frozenset(Family)

    def netfilter(self) -> None:
        self._answering("sets", _IPSET_PROTOCOL, "ip_set")
        self._answering("connection tracking", _CONNTRACK_STATS, "nf_conntrack_netlink")
        # Listed as soon as it is loaded, in both modes. Whether rules can use it, their first write tells:
        # the kernel loads it by itself then, where it may.
        if "set" not in (self.read.net("ip_tables_matches") or "").split():
            self._load("xt_set")

    def _answering(self, what: str, message: Message, module: str) -> None:
        code = self.read.answers(message)
        if code and code not in (errno.EPERM, *_NO_MEMORY) and self._load(module):
            code = self.read.answers(message)
        if code in _NO_MEMORY:
            self.fault(f"the kernel has no memory to answer about its {what}", "free memory on the node")
        elif code == errno.EPERM:
            self.fault(f"the kernel's {what} may not be used", "run the agent with CAP_NET_ADMIN")
        elif code:
            self.fault(
                f"the kernel's {what} does not answer on netlink", f"load the module: modprobe {module}"
            )

    def bridge_calls(self, found: list[Bridge], families: frozenset[Family]) -> None:
        """Packets between two pods of one bridge pass iptables only if the bridge is told to call it."""
        # An idle bridge, as Docker leaves one, is set up too: its first pod would come before the next look.
        blocking = any(bridge.carrying for bridge in found)
        for family in sorted(families if found else ()):
            name = _BRIDGE_SYSCTLS[family]
            if self.read.sysctl(name) is None:
                self._load("br_netfilter")
            value = self.read.sysctl(name)
            if value is None:
                self.fault(
                    f"bridges ({_names(found)}) forward IPv{int(family)} without iptables: br_netfilter is "
                    "not loaded",
                    "modprobe br_netfilter, and name it in /etc/modules-load.d",
                    blocking,
                )
            elif not self._switch_on(name, value):
                # A bridge may call iptables by a setting of its own, whatever that of all says.
                beside = [bridge for bridge in found if family not in bridge.calls]
                if beside:
                    self.fault(
                        f"bridges ({_names(beside)}) forward IPv{int(family)} without iptables: "
                        f"{dotted(name)} is 0",
                        f"sysctl -w {dotted(name)}=1, and the same in /etc/sysctl.d",
                        any(bridge.carrying for bridge in beside),
                    )

    def forwarding(self, families: frozenset[Family], bridged: bool) -> None:
        # One family is enough: a cluster of the other alone is none of this node's faults.
        values = {_FORWARD_SYSCTLS[family]: self.read.sysctl(_FORWARD_SYSCTLS[family]) for family in families}
        if "1" not in values.values() and not bridged:
            self.fault(
                "this node forwards no packets: routed pods reach nothing",
                " or ".join(f"sysctl -w {dotted(name)}=1" for name in sorted(values, reverse=True)),
                blocking=False,
            )

    def source_routes(self, found: list[Bridge]) -> None:
        """See that the node takes no packet with a source route: it is judged before it has its last address.

        The kernel accepts one where both the setting for all interfaces and the interface's own are on. Where
        pods are routed, their links tell.
        """
        if found and self.read.sysctl(_SOURCE_ROUTES) == "1":
            self.fault(
                f"this node accepts source routes ({dotted(_SOURCE_ROUTES)} is 1): by one, a pod that has "
                "NET_RAW gets past policies to pods on a bridge",
                f"sysctl -w {dotted(_SOURCE_ROUTES)}=0, and the same in /etc/sysctl.d",
                any(bridge.carrying for bridge in found),
            )

    def ipvs(self) -> bool:
        """Whether Services are translated by IPVS, whose packets are tracked only if it is told to."""
        if not self.read.link_exists("kube-ipvs0") and not self._has_virtual_servers():
            return False
        value = self.read.sysctl(_IPVS_SYSCTL)
        if not self._switch_on(_IPVS_SYSCTL, value):
            self.fault(
                "IPVS is in use without connection tracking: net.ipv4.vs.conntrack is 0",
                "sysctl -w net.ipv4.vs.conntrack=1, and the same in /etc/sysctl.d",
            )
        return True

    def _has_virtual_servers(self) -> bool:
        lines = (self.read.net("ip_vs") or "").splitlines()
        return any(line.split(" ", 1)[0] in ("TCP", "UDP", "SCTP", "FWM") for line in lines)

    def _switch_on(self, name: str, value: str | None) -> bool:
        """Have a sysctl on, and say so where it was not; False when it may not be set."""
        if value == "0":
            if not self.fix or not set_sysctl(self.read, name, "1"):
                return False
            _LOG.info("sysctl set", sysctl=dotted(name), value="1", before=value)
        if value is not None:
            self.needed.append(name)
        return True

    def _load(self, module: str) -> bool:
        """Load a module, once in this process's life; whether it helped, the next reading tells."""
        if not self.fix or module in self.read.tried:
            return False
        self.read.tried.add(module)
        loaded = self.read.load_module(module)
        _LOG.info("module loaded" if loaded else "module not loaded", module=module)
        return loaded
