"""A node and its pods, in one of the two layouts that network plugins use.

- ``bridge``: pods are ports of the bridge cni0, whose addresses are their gateway; iptables sees bridged
  packets (bridge-nf-call-iptables); hairpin mode on every port. As the bridge plugin and flannel do.
- ``routed``: each pod has a veth pair and a host route; its gateway is 169.254.1.1, answered by proxy ARP,
  and the veth's link-local address. As Calico and the ptp plugin do.
"""

from __future__ import annotations

import enum
import ipaddress
import itertools
import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

from agent.net import Family
from tests.lab import forking
from tests.lab.children import dies_with_us
from tests.lab.forking import Forked
from tests.lab.netns import CommandError, Netns, own_link_local
from tests.lab.place import LabError
from tests.patience import PATIENCE

VETH_MAC = "ee:ee:ee:ee:ee:ee"
VETH_LINK_LOCAL = "fe80::ecee:eeff:feee:eeee"
UPLINK = "eth0"
_FIRST_HOST, _LAST_HOST = 10, 250


class Layout(enum.StrEnum):
    """How pods are attached to their node."""

    BRIDGE = "bridge"
    ROUTED = "routed"


class Mode(enum.StrEnum):
    """Which kernel interface the node's own iptables rules use."""

    NFT = "nft"
    LEGACY = "legacy"


def mac_of(v4: str) -> str:
    """Return the MAC address of a pod, made from its IPv4 address as the bridge plugin did."""
    return ":".join(f"{byte:02x}" for byte in b"\x0a\x58" + ipaddress.IPv4Address(v4).packed)


@dataclass(eq=False)
class Pod:
    """A pod: a namespace with eth0, attached to its node by the interface ``veth``."""

    name: str
    node: Node
    netns: Netns
    v4: str
    v6: str
    veth: str

    @property
    def mac(self) -> str:
        return mac_of(self.v4)

    @property
    def gateway_mac(self) -> str:
        """The MAC address that it sends what is not on its link to."""
        return mac_of(self.node.gateway4) if self.node.layout is Layout.BRIDGE else VETH_MAC

    @property
    def foreign(self) -> bool:
        """Whether its address lies outside its node's ranges: it moved here and kept it."""
        return ipaddress.ip_address(self.v4) not in ipaddress.ip_network(self.node.cidr4)

    def address(self, family: Family) -> str:
        return self.v4 if family is Family.V4 else self.v6


@dataclass(eq=False)
class Node:
    """A node: its namespace, its address on the underlay, the ranges of its pods and its files.

    Made by :meth:`tests.lab.lab.Lab.node`. ``directory`` holds what is mounted as /run for processes
    started by :meth:`popen`.
    """

    name: str
    index: int
    layout: Layout
    mode: Mode
    netns: Netns
    directory: Path
    pods: dict[str, Pod] = field(default_factory=dict)
    _hosts: itertools.cycle[int] = field(
        default_factory=lambda: itertools.cycle(range(_FIRST_HOST, _LAST_HOST + 1))
    )
    _veths: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    @property
    def v4(self) -> str:
        return f"172.18.0.{self.index + 10}"

    @property
    def v6(self) -> str:
        return f"fd00:172:18::{self.index + 10:x}"

    @property
    def cidr4(self) -> str:
        return f"10.244.{self.index}.0/24"

    @property
    def cidr6(self) -> str:
        return f"fd00:10:244:{self.index:x}::/64"

    @property
    def gateway4(self) -> str:
        """The bridge's address; meaningless in the routed layout."""
        return f"10.244.{self.index}.1"

    @property
    def gateway6(self) -> str:
        return f"fd00:10:244:{self.index:x}::1"

    def address(self, family: Family) -> str:
        return self.v4 if family is Family.V4 else self.v6

    def set_up(self) -> None:
        """Make it forward and, with a bridge, make the bridge."""
        self.netns.sysctl(
            {
                "net.ipv4.ip_forward": 1,
                "net.ipv6.conf.all.forwarding": 1,
                "net.ipv6.conf.default.forwarding": 1,
            }
        )
        if self.layout is Layout.ROUTED:
            return
        _load_bridge_filter()
        self.netns.ip(
            f"link add cni0 address {mac_of(self.gateway4)} type bridge",
            *own_link_local("cni0", "fe80::1"),
            "link set cni0 up",
            f"addr add {self.gateway4}/24 dev cni0",
            f"addr add {self.gateway6}/64 dev cni0 nodad",
        )
        for address in ("fe80::1", self.gateway6):
            self.netns.wait_for_address("cni0", address)
        self.netns.sysctl(
            {
                "net.bridge.bridge-nf-call-iptables": 1,
                "net.bridge.bridge-nf-call-ip6tables": 1,
                # Where an address of its range has moved to another node, the bridge answers for it.
                "net.ipv4.conf.cni0.proxy_arp": 1,
                "net.ipv4.neigh.cni0.proxy_delay": 0,
                "net.ipv6.conf.cni0.proxy_ndp": 1,
                "net.ipv6.neigh.cni0.proxy_delay": 0,
            }
        )

    def next_addresses(self) -> tuple[str, str]:
        """Return the pair of pod addresses that has been free for longest."""
        for _ in range(_LAST_HOST):
            host = next(self._hosts)
            v4 = f"10.244.{self.index}.{host}"
            if all(pod.v4 != v4 for pod in self.pods.values()):
                return v4, f"fd00:10:244:{self.index:x}::{host:x}"
        raise LabError(f"{self.name} has no pod addresses left")

    def attach(self, name: str, v4: str, v6: str) -> Pod:
        """Make a pod's namespace and link; the lab's other nodes are not told."""
        pod = Pod(name, self, Netns(name), v4, v6, f"veth{next(self._veths)}")
        if self.layout is Layout.BRIDGE:
            self._attach_bridged(pod)
        else:
            self._attach_routed(pod)
        self.netns.wait_for_link(pod.veth)
        pod.netns.wait_for_link("eth0")
        pod.netns.wait_for_address("eth0", v6)
        if self.layout is Layout.ROUTED:
            self.netns.wait_for_address(pod.veth, VETH_LINK_LOCAL)
        self.pods[name] = pod
        return pod

    def _attach_bridged(self, pod: Pod) -> None:
        commands = [
            f"link add {pod.veth} type veth peer name eth0 address {pod.mac} netns {pod.netns.path}",
            f"link set {pod.veth} master cni0",
            f"link set {pod.veth} type bridge_slave hairpin on",
            f"link set {pod.veth} up",
        ]
        if pod.foreign:
            commands += [f"route replace {pod.v4}/32 dev cni0", f"route replace {pod.v6}/128 dev cni0"]
        self.netns.ip(*commands)
        prefix4, prefix6 = (32, 128) if pod.foreign else (24, 64)
        pod.netns.ip(
            "link set eth0 up",
            f"addr add {pod.v4}/{prefix4} dev eth0",
            f"addr add {pod.v6}/{prefix6} dev eth0 nodad",
            f"route add default via {self.gateway4} dev eth0 onlink",
            f"route add default via {self.gateway6} dev eth0 onlink",
        )

    def _attach_routed(self, pod: Pod) -> None:
        self.netns.ip(
            f"link add {pod.veth} address {VETH_MAC} type veth"
            f" peer name eth0 address {pod.mac} netns {pod.netns.path}",
            *own_link_local(pod.veth, VETH_LINK_LOCAL),
            f"link set {pod.veth} up",
            f"route replace {pod.v4}/32 dev {pod.veth}",
            f"route replace {pod.v6}/128 dev {pod.veth}",
        )
        self.netns.sysctl(
            {
                f"net.ipv4.conf.{pod.veth}.proxy_arp": 1,
                f"net.ipv4.neigh.{pod.veth}.proxy_delay": 0,
            }
        )
        pod.netns.ip(
            "link set eth0 up",
            f"addr add {pod.v4}/32 dev eth0",
            f"addr add {pod.v6}/128 dev eth0 nodad",
            "route add 169.254.1.1 dev eth0 scope link",
            "route add default via 169.254.1.1 dev eth0",
            f"route add default via {VETH_LINK_LOCAL} dev eth0",
        )

    def detach(self, pod: Pod) -> None:
        """Remove a pod's link, at once, and let go of its namespace."""
        del self.pods[pod.name]
        self.netns.ip(f"link del {pod.veth}")
        if pod.foreign and self.layout is Layout.BRIDGE:
            self.netns.ip(f"route del {pod.v4}/32 dev cni0", f"route del {pod.v6}/128 dev cni0")
        pod.netns.close()

    def run(self, *command: str, stdin: str = "", check: bool = True) -> str:
        """Run a command on the node; return what it printed. Raises CommandError when it fails."""
        return self.netns.run(command, stdin=stdin, check=check)

    def iptables(self, family: Family, *arguments: str) -> str:
        """Run iptables (or ip6tables) in the node's own mode."""
        return self.run(self._tool(family), "--wait", *arguments)

    def iptables_restore(self, family: Family, text: str) -> None:
        """Feed iptables-restore, in the node's own mode, leaving alone what the text does not name."""
        self.run(f"{self._tool(family)}-restore", "--wait", "--noflush", stdin=text)

    def _tool(self, family: Family) -> str:
        return f"{'iptables' if family is Family.V4 else 'ip6tables'}-{self.mode}"

    def popen(
        self, command: Sequence[str], *, output: IO[bytes], environment: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        """Start a long-lived process on the node, with the node's own /run and /sys; it dies with this
        process.

        Call it from the main thread: a process ends with the thread that started it.
        """
        run = self._run_directory()
        mounts = 'mount -t sysfs sysfs /sys && mount --bind "$0" /run && exec "$@"'
        with self.netns.entered():
            return subprocess.Popen(
                dies_with_us(["unshare", "--mount", "sh", "-c", mounts, str(run), *command]),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **self.netns.environment, **(environment or {})},
                start_new_session=True,
            )

    def fork(
        self,
        module: str,
        *arguments: str,
        output: IO[Any],
        errors: IO[Any] | None = None,
        environment: Mapping[str, str] = forking.ENVIRONMENT,
    ) -> Forked:
        """Start what :meth:`popen` would start as ``python -m MODULE``, sooner; see :mod:`tests.lab.forking`.

        ``errors``: what it writes to standard error, which else goes to ``output``, too.
        """
        return forking.fork(
            module,
            arguments,
            netns=self.netns.fd,
            run=self._run_directory(),
            output=output,
            errors=errors or output,
            environment={**os.environ, **self.netns.environment, **environment},
        )

    def agent(self, *arguments: str) -> str:
        """Run a command of the agent's on the node; return what it printed. Raises CommandError."""
        done = self.agent_ended(*arguments)
        if done.returncode != 0:
            raise CommandError(f"netpol-agent {' '.join(arguments)}\n{done.stdout}{done.stderr}")
        return done.stdout

    def agent_ended(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the agent's on the node; return how it ended."""
        with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
            code = self.fork("agent", *arguments, output=output, errors=errors).wait(PATIENCE)
            for file in (output, errors):
                file.seek(0)
            return subprocess.CompletedProcess(arguments, code, output.read(), errors.read())

    def _run_directory(self) -> Path:
        run = self.directory / "run"
        run.mkdir(exist_ok=True)
        return run


def _load_bridge_filter() -> None:
    """Have iptables see bridged packets where that part of the kernel is a module not yet loaded.

    Loading it makes it work in every namespace; the host's own is set to go on without, as it was.
    """
    switches = [Path(f"/proc/sys/net/bridge/bridge-nf-call-{tool}") for tool in ("iptables", "ip6tables")]
    if switches[0].exists():
        return
    done = subprocess.run(["modprobe", "br_netfilter"], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise LabError(f"iptables cannot see bridged packets here: {done.stderr.strip()}")
    for switch in switches:
        switch.write_text("0")
