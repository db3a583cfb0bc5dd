"""The container runtime of a node: pods by real CNI plugins, and by real libraries in their own order.

A runtime makes a pod's network by libcni, which keeps the result in a folder before anything of the pod
runs. Then it asks the plugins of NRI, and then the first container starts. ``cri/main.go`` does that, and
what a container does in its first instruction, in one process for each node. The plugins are Debian's
(containernetworking-plugins).

containerd tells the plugins of NRI that a sandbox ends before it takes its network away. CRI-O takes the
network away first, then ends the containers, and tells of it last (``server/sandbox_run_linux.go`` and
``server/sandbox_stop_linux.go`` of cri-o/cri-o). Another pod may have the address by then.
"""

from __future__ import annotations

import enum
import ipaddress
import itertools
import json
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self

from tests.lab.children import dies_with_us
from tests.lab.kube_build import cri
from tests.lab.netns import Netns
from tests.lab.node import Layout, Node, Pod, mac_of
from tests.lab.place import LabError
from tests.patience import PATIENCE

PLUGINS = Path("/usr/lib/cni")
NETWORK = "lab"
FIRST_HOST, LAST_HOST = 200, 249
"""The last numbers of the addresses that plugins give: those which the lab's own pods get last."""


class Plugin(enum.StrEnum):
    """How pods are attached: ``bridge`` on a node of the bridge layout, ``ptp`` on a routed one."""

    BRIDGE = "bridge"
    PTP = "ptp"


class Dialled(NamedTuple):
    """A connection that a container tried in its first instruction; ``error`` is empty where it was made."""

    address: str
    error: str
    seconds: float


class Heard(NamedTuple):
    """A source whose UDP packets a container heard: how many, and when the first, from its beginning on."""

    source: str
    packets: int
    seconds: float


class Started(NamedTuple):
    """A pod that was started: how many seconds its network and the plugins of NRI took, and what it tried.

    ``heard``: who reached the UDP port on which it listened meanwhile.
    """

    pod: Pod
    id: str
    network: float
    nri: float
    dials: tuple[Dialled, ...]
    heard: tuple[Heard, ...] = ()


class ContainerRuntime:
    """Starts and stops pods of a node. A context manager; make it on the main thread.

    ``like_crio``: in the order of CRI-O; plugins of NRI are told of a pod's end when the next pod runs.
    ``results`` is libcni's folder, for ``--cni-results``; it is made with the first pod. ``first`` and
    ``last`` bound the addresses: with both the same, each pod gets the address of the one before, and on a
    bridge the same MAC address, so that no neighbour has to forget the one before.
    """

    def __init__(
        self, node: Node, first: int = FIRST_HOST, last: int = LAST_HOST, *, like_crio: bool = False
    ) -> None:
        self.node = node
        self._like_crio = like_crio
        self._ended: list[str] = []
        """Sandboxes whose network was taken away and of whose end nobody was told yet."""
        self.plugin = Plugin.BRIDGE if node.layout is Layout.BRIDGE else Plugin.PTP
        self.cache = node.directory / "cni"
        self.results = self.cache / "results"
        self.socket = node.directory / "nri.sock"
        self._network = _network(node, self.plugin, node.directory / "ipam", first, last)
        self._mac = mac_of(node.gateway4.removesuffix(".1") + f".{first}") if first == last else ""
        self._numbers = itertools.count(1)
        self._started: dict[str, Started] = {}
        with node.netns.entered():
            self._process = subprocess.Popen(
                dies_with_us([str(cri())]),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=(node.directory / "runtime.log").open("ab"),
                start_new_session=True,
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop every pod, and end."""
        for started in list(self._started.values()):
            self.stop(started)
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.close()
        self._process.wait(PATIENCE)
        self._process.stdout.close()

    def offer_nri(self, timeout: float = 2.0) -> Path:
        """Listen for plugins of NRI, each of which may take so many seconds; return the socket's path."""
        self._ask(op="nri", socket=str(self.socket), timeout_ms=round(1000 * timeout))
        return self.socket

    def start(
        self,
        name: str,
        uid: str = "",
        *,
        dial: Sequence[str] | Mapping[str, float] = (),
        patience: float = 1.0,
        listen: int = 0,
        ips: bool = True,
        ifname: str = "eth0",
    ) -> Started:
        """Start a pod, NAMESPACE/NAME, whose first instruction connects to each of ``dial`` (HOST:PORT).

        A connection is tried for ``patience`` seconds, or for as many as ``dial`` says for each. ``listen``:
        a UDP port on which it listens as long as connections are tried. ``ips``: NRI tells its plugins the
        addresses, as newer runtimes do.
        """
        tries = dial if isinstance(dial, Mapping) else dict.fromkeys(dial, patience)
        netns = Netns(name)
        ended, self._ended = self._ended, []
        sandbox = f"{next(self._numbers):064x}"
        try:
            said = self._ask(
                **self._about(sandbox, netns.path, name, uid, ifname),
                op="add",
                ips=ips,
                dial=[{"address": to, "patient_ms": round(1000 * seconds)} for to, seconds in tries.items()],
                listen=listen,
            )
        except LabError:
            netns.close()
            raise
        for before in ended:
            self._ask(op="stopped", id=before)
        v4, v6 = (str(ipaddress.ip_interface(one["address"]).ip) for one in said["result"]["ips"])
        host_side = (i["name"] for i in said["result"]["interfaces"] if not i.get("sandbox"))
        veth = next(name for name in host_side if name.startswith("veth"))
        pod = Pod(name, self.node, netns, v4, v6, veth)
        self.node.pods[name] = pod
        dials = tuple(
            Dialled(d["address"], d.get("error", ""), d["seconds"]) for d in said.get("dials") or ()
        )
        heard = tuple(Heard(h["source"], h["packets"], h["seconds"]) for h in said.get("heard") or ())
        started = Started(pod, sandbox, said["network"], said["nri"], dials, heard)
        self._started[sandbox] = started
        return started

    def stop(self, started: Started, uid: str = "", ifname: str = "eth0") -> None:
        """Take a pod's network away, by which its result goes too, and let go of its namespace."""
        del self._started[started.id]
        pod = started.pod
        self._ask(**self._about(started.id, pod.netns.path, pod.name, uid, ifname), op="del")
        if self._like_crio:
            self._ended.append(started.id)
        if self.node.pods.get(pod.name) is pod:
            del self.node.pods[pod.name]
        pod.netns.close()

    def result_of(self, started: Started, ifname: str = "eth0") -> Path:
        """Return where libcni keeps a pod's result."""
        return self.results / f"{NETWORK}-{started.id}-{ifname}"

    def _about(self, sandbox: str, netns: str, name: str, uid: str, ifname: str) -> dict[str, Any]:
        namespace, _, short = name.partition("/")
        return {
            "network": self._network,
            "plugins": str(PLUGINS),
            "cache": str(self.cache),
            "id": sandbox,
            "netns": netns,
            "ifname": ifname,
            "namespace": namespace,
            "name": short,
            "uid": uid,
            "caps": {"mac": self._mac} if self._mac else {},
            "crio": self._like_crio,
        }

    def _ask(self, **request: object) -> dict[str, Any]:
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line:
            raise LabError(f"the runtime of {self.node.name} has ended")
        said: dict[str, Any] = json.loads(line)
        if error := said.get("error"):
            raise LabError(f"the runtime of {self.node.name}: {error}")
        return said


def _network(node: Node, plugin: Plugin, ipam: Path, first: int, last: int) -> Mapping[str, object]:
    """Return the configuration of a network as an administrator writes it: a list of chained plugins."""
    v4, v6 = (f"{ipaddress.ip_network(cidr).network_address}" for cidr in (node.cidr4, node.cidr6))
    start4, end4 = (v4.removesuffix(".0") + f".{n}" for n in (first, last))
    start6, end6 = (v6 + f"{n:x}" for n in (first, last))
    attach: dict[str, object] = {
        "type": plugin,
        "ipam": {
            "type": "host-local",
            "dataDir": str(ipam),
            "ranges": [
                [{"subnet": node.cidr4, "rangeStart": start4, "rangeEnd": end4, "gateway": node.gateway4}],
                [{"subnet": node.cidr6, "rangeStart": start6, "rangeEnd": end6, "gateway": node.gateway6}],
            ],
            "routes": [{"dst": "0.0.0.0/0"}, {"dst": "::/0"}],
        },
    }
    if plugin is Plugin.BRIDGE:
        attach |= {"bridge": "cni0", "isGateway": True, "hairpinMode": True, "capabilities": {"mac": True}}
    return {"cniVersion": "1.0.0", "name": NETWORK, "plugins": [attach, {"type": "tuning"}]}
