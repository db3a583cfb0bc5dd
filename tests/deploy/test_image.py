"""The image holds what it should, and as the DaemonSet's pod, run by a container runtime, it enforces."""

from __future__ import annotations

import json
import subprocess
import tarfile
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import pytest

import release.image
from agent import __version__
from agent.net import Family
from tests.cluster.scene import Scene

# Of the tests of features those that need every kind of set and rule, and changes of each,
# which is what an image may lack. tests/cluster has all of them.
from tests.cluster.test_features import (
    test_default_deny,  # noqa: F401
    test_egress_on_one_named_port,  # noqa: F401
    test_egress_to_a_cidr_block,  # noqa: F401
    test_ingress_from_a_namespace_on_one_named_port,  # noqa: F401
    test_multiple_stacked_policies_with_overlapping_pod_selectors,  # noqa: F401
    test_ports,  # noqa: F401
    test_the_except_clause,  # noqa: F401
    test_updated_pod_denied,  # noqa: F401
    test_updated_policy,  # noqa: F401
)
from tests.conftest import Measured
from tests.deploy.stage import DeployedCluster, PodAgent, reach_api_server
from tests.lab import container, runtime
from tests.lab.client import Json
from tests.lab.cluster import AgentProcess
from tests.lab.image import EPOCH, Image
from tests.lab.node import Layout, Mode, Node

LIMIT = 120_000_000


class ImageAgent(PodAgent):
    """An agent run from the image, as a pod's container, by crun."""

    def __init__(self, node: Node, pod: Json, kubelet: container.Kubelet) -> None:
        self.node = node
        self.log = node.directory / "agent.log"
        (only,) = pod["containers"]
        with self.log.open("ab") as log:
            self.process = runtime.start(node, pod, only, kubelet, log)

    @property
    def pid(self) -> int:
        crun = container.main_process(self.process)
        return int(Path(f"/proc/{crun}/task/{crun}/children").read_text().split()[0])


class ImageCluster(DeployedCluster):
    """A cluster on which deploy/ is installed, and whose nodes run the image."""

    def start_agent(self, node: Node, *arguments: str) -> AgentProcess:
        assert not arguments, "what a deployed agent is told is in deploy/"
        reach_api_server(node, self.api.address)
        agent = self.agents[node.name] = ImageAgent(node, self.pod, self.kubelet)
        return agent


def inside(image: Image, *command: str) -> str:
    """Run a command in the image's files; return what it printed."""
    path = dict(entry.split("=", 1) for entry in image.config["Env"])["PATH"]
    mounted = 'mount --rbind /dev "$0/dev" && mount -t proc proc "$0/proc" && exec chroot "$0" "$@"'
    done = subprocess.run(
        ["unshare", "--net", "--mount", "sh", "-c", mounted, str(image.files), *command],
        capture_output=True,
        text=True,
        env={"PATH": path},
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_small(built: Image, measured: Measured) -> None:
    measured(f"image: {built.unpacked / 1e6:.1f} MB, {built.packed / 1e6:.1f} MB to pull")
    assert built.unpacked < LIMIT


def test_it_runs_the_agent_of_this_version(built: Image) -> None:
    assert built.config["Entrypoint"] == ["netpol-agent"]
    assert built.config["Cmd"] == ["run"]
    assert built.config["Labels"]["org.opencontainers.image.version"] == __version__
    assert inside(built, "netpol-agent", "--version").split()[-1] == __version__


@pytest.mark.parametrize("program", ["iptables", "ip6tables"])
@pytest.mark.parametrize("mode", Mode)
def test_it_has_both_iptables(built: Image, program: str, mode: Mode) -> None:
    said = {Mode.NFT: "nf_tables", Mode.LEGACY: "legacy"}[mode]
    for action in ("", "-save", "-restore"):
        assert said in inside(built, f"{program}-{mode}{action}", "--version")


def test_it_has_ipset_and_libiptc(built: Image) -> None:
    assert inside(built, "ipset", "--version").startswith("ipset v")
    inside(built, "/opt/netpol-agent/bin/python", "-c", "import iptc")


def test_no_program_lacks_a_library(built: Image) -> None:
    """Debian's packages were removed with force: what is left must not have needed them."""
    programs = []
    for place in ("usr", "opt"):
        for path in (built.files / place).rglob("*"):
            if path.is_file() and not path.is_symlink():
                with path.open("rb") as file:
                    if file.read(4) == b"\x7fELF":
                        programs.append(f"/{path.relative_to(built.files)}")
    assert len(programs) > 200
    found = inside(built, "sh", "-c", 'ldd "$@" 2>&1; true', "sh", *programs)
    assert "libc.so.6 => /" in found
    assert "not found" not in found


def test_every_module_is_compiled_and_not_compared_with_its_source(built: Image) -> None:
    """PEP 552: the flags that follow a .pyc's magic number are 1, hash-based and unchecked."""
    (library,) = built.files.glob("usr/lib/python3.*")
    sources = [
        path
        for place in (library, built.files / "opt/netpol-agent/lib")
        for path in place.rglob("*.py")
        if "." not in path.stem
    ]
    assert len(sources) > 1000
    tag = library.name.replace("python", "cpython-").replace(".", "")
    for source in sources:
        compiled = source.parent / "__pycache__" / f"{source.stem}.{tag}.pyc"
        assert compiled.read_bytes()[4:8] == b"\1\0\0\0", source


def test_it_has_no_time_but_the_one_it_was_given(built: Image) -> None:
    """Nor the name of a temporary directory, in what is compiled: so that two builds are alike."""
    layout = release.image.layout(built.layout)
    with tarfile.open(layout.layer) as files:
        assert {member.mtime for member in files} == {EPOCH}
    assert layout.config["created"] == f"{datetime.fromtimestamp(EPOCH, UTC):%Y-%m-%dT%H:%M:%SZ}"
    for library in built.files.glob("opt/**/*.so"):
        assert b"/tmp/" not in library.read_bytes(), library


def test_it_tells_nothing_of_where_it_was_built(built: Image) -> None:
    left = ("etc/pip.conf", "etc/apt/", "var/lib/apt/", "run/secrets/", "root/.cache/", "src/")
    assert [name for name in built.names if name.startswith(left)] == []
    assert "usr/sbin/ipset" in built.names
    assert not any(entry.startswith("PIP_") for entry in built.config["Env"])


@pytest.fixture(scope="session")
def deployed(built: Image) -> Iterator[ImageCluster]:
    with ImageCluster() as made:
        made.kubelet = made.kubelet._replace(image=built)
        yield made


@pytest.fixture(scope="session")
def nodes(deployed: ImageCluster) -> Iterator[tuple[Node, Node]]:
    """One node of each layout and mode: the image has to do with either."""
    near = deployed.node("near", Layout.ROUTED, Mode.NFT)
    far = deployed.node("far", Layout.BRIDGE, Mode.LEGACY)
    deployed.wait_ready()
    yield near, far
    for node in (near, far):
        deployed.remove_node(node)


@pytest.fixture
def scene(deployed: ImageCluster, nodes: tuple[Node, Node]) -> Iterator[Scene]:
    with deployed.workspace() as workspace:
        yield Scene(workspace, *nodes)


def test_it_finds_each_nodes_own_iptables(deployed: ImageCluster, nodes: tuple[Node, Node]) -> None:
    for node in nodes:
        assert f'iptables_mode": "{node.mode}' in deployed.agents[node.name].log.read_text()


def test_it_runs_as_the_pod_says(deployed: ImageCluster, nodes: tuple[Node, Node]) -> None:
    agent = deployed.agents[nodes[0].name]
    assert isinstance(agent, ImageAgent)
    process = Path(f"/proc/{agent.pid}")
    assert b"/opt/netpol-agent/bin/netpol-agent\0run\0" in (process / "cmdline").read_bytes()
    (only,) = deployed.pod["containers"]
    bits = {"NET_BROADCAST": 11, "NET_ADMIN": 12, "NET_RAW": 13}
    wanted = sum(1 << bits[name] for name in only["securityContext"]["capabilities"]["add"])
    status = dict(line.split(":\t", 1) for line in (process / "status").read_text().splitlines())
    for name in ("CapPrm", "CapEff", "CapBnd"):
        assert int(status[name], 16) == wanted, name
    assert status["CapInh"].strip("0") == ""
    assert status["NoNewPrivs"] == "1"
    # A filter of system calls, as RuntimeDefault asks for.
    assert status["Seccomp"] == "2"
    assert json.dumps(deployed.pod).count("RuntimeDefault") == 1
    places = {line.split()[4]: line.split()[5] for line in (process / "mountinfo").read_text().splitlines()}
    assert places["/"].startswith("ro")
    assert places["/proc/sys"].startswith("ro")


def test_how_soon_it_is_ready(deployed: ImageCluster, nodes: tuple[Node, Node], measured: Measured) -> None:
    """It stops when it is told to, leaving its rules, and another takes over."""
    near, _ = nodes
    deployed.agents[near.name].stop()
    assert deployed.agents[near.name].process.returncode == 0
    assert "KUBE-NETPOL" in near.iptables(Family.V4, "-S")
    begin = time.monotonic()
    agent = deployed.agents[near.name] = ImageAgent(near, deployed.pod, deployed.kubelet)
    agent.wait_ready()
    measured(f"image: ready {time.monotonic() - begin:.2f} s after its container was started")
