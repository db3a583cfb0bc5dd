"""kind/: kind takes the configuration, plugins connect the pods, the script does one thing after another.

No cluster is made here: docs/clusters.md says what that leaves.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from agent.net import Family
from tests.deploy.stage import built, of_kind
from tests.lab.client import Json
from tests.lab.cluster import ROOT, Cluster, wait_until
from tests.lab.kube_build import kind, kube_apiserver, kubectl
from tests.lab.lab import Lab
from tests.lab.netns import Netns
from tests.lab.node import Layout, Mode, Node

KIND = ROOT / "kind"
INSIDE = ROOT / "tests/conformance/inside.py"
PLUGINS = Path("/usr/lib/cni")

# What stands in for a container engine and for kind writes down each call in $CALLS, a line for each.
RECORD = """#!/bin/sh
echo "${0##*/} $*" >>"$CALLS"
"""


def program(directory: Path, name: str, text: str) -> None:
    directory.mkdir(exist_ok=True)
    (directory / name).write_text(text)
    (directory / name).chmod(0o755)


def create(configuration: Path, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    """Let kind make a cluster with an engine that has every image and runs no container."""
    engine = RECORD + 'case "$1 $2" in "info "*) echo "{}" ;; "run "*) exit 1 ;; esac\n'
    program(tmp_path / "bin", "docker", engine)
    asked = [str(kind()), "create", "cluster", "--config", str(configuration), "--retain"]
    return subprocess.run(
        [*asked, "--name", "n", "--kubeconfig", str(tmp_path / "kubeconfig")],
        capture_output=True,
        text=True,
        check=False,
        env={
            "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
            "CALLS": str(tmp_path / "calls"),
            "HOME": str(tmp_path),
            "KIND_EXPERIMENTAL_PROVIDER": "docker",
        },
    )


def test_kind_takes_the_configuration_up_to_the_first_container(tmp_path: Path) -> None:
    done = create(KIND / "cluster.yaml", tmp_path)
    assert 'command "docker run' in done.stderr, done.stderr
    runs = [line.split() for line in (tmp_path / "calls").read_text().splitlines() if "docker run" in line]
    names = {words[words.index("--name") + 1] for words in runs}
    assert names <= {"n-control-plane", "n-worker"}
    assert names


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("disableNetworkPolicies", True, "field disableNetworkPolicies not found"),
        ("ipFamily", "ipv4", "only one CIDR allowed for single-stack"),
    ],
)
def test_kind_would_refuse_what_is_wrong(tmp_path: Path, name: str, value: object, said: str) -> None:
    configuration = yaml.safe_load((KIND / "cluster.yaml").read_text())
    configuration["networking"][name] = value
    (tmp_path / "wrong.yaml").write_text(yaml.safe_dump(configuration))
    assert said in create(tmp_path / "wrong.yaml", tmp_path).stderr


def test_what_is_installed_is_the_image_that_was_loaded() -> None:
    (container,) = of_kind(built(KIND), "DaemonSet")["spec"]["template"]["spec"]["containers"]
    assert container["image"] in (KIND / "test").read_text()
    assert container["imagePullPolicy"] == "Never"
    assert of_kind(built(KIND), "ConfigMap")["data"]["NETPOL_AGENT_FIX_HOST"] == "false"


@pytest.fixture
def lab() -> Iterator[Lab]:
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces")
    with Lab() as made:
        yield made


def set_up(node: Node, *others: Node) -> Json:
    """Run kind/network on a node; return what it wrote."""
    ways = [
        f"{cidr}={address}"
        for other in others
        for cidr, address in ((other.cidr4, other.v4), (other.cidr6, other.v6))
    ]
    file = node.directory / "cni/10-routed.conflist"
    environment = {"CNI_CONFIG": str(file)}
    command = [str(KIND / "network"), f"{node.cidr4},{node.cidr6}", *ways]
    for _ in range(2):
        node.netns.run(command, environment=environment)
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    found: Json = json.loads(file.read_text())
    return found


def attach(node: Node, configuration: Json, name: str, pod: Netns) -> list[str]:
    """Run a list of plugins as a container runtime does (CNI specification, ADD); return the addresses."""
    run = node.directory / "run"
    run.mkdir(exist_ok=True)
    environment = {
        "CNI_COMMAND": "ADD",
        "CNI_CONTAINERID": name,
        "CNI_NETNS": pod.path,
        "CNI_IFNAME": "eth0",
        "CNI_PATH": str(PLUGINS),
    }
    result: Json = {}
    for plugin in configuration["plugins"]:
        told = {key: configuration[key] for key in ("cniVersion", "name")} | plugin
        if result:
            told |= {"prevResult": result, "runtimeConfig": {"portMappings": []}}
        mounted = ["sh", "-c", 'mount --bind "$0" /run && exec "$@"', str(run), str(PLUGINS / plugin["type"])]
        command = ["unshare", "--mount", *mounted]
        result = json.loads(node.netns.run(command, stdin=json.dumps(told), environment=environment))
    return [found["address"].split("/")[0] for found in result["ips"]]


def test_the_network_connects_pods_of_two_nodes_and_the_nodes(lab: Lab) -> None:
    assert (PLUGINS / "ptp").exists(), "needs Debian's containernetworking-plugins"
    here, there = (lab.node(name, Layout.ROUTED, Mode.NFT) for name in ("here", "there"))
    for node, other in ((here, there), (there, here)):
        # What the lab has set up itself is kind/network's to do.
        node.netns.ip(f"route del {other.cidr4}", f"route del {other.cidr6}")
    networks = {here: set_up(here, there), there: set_up(there, here)}
    pods = {name: (node, Netns(name)) for name, node in (("a", here), ("b", here), ("c", there))}
    addresses = {name: attach(node, networks[node], name, pod) for name, (node, pod) in pods.items()}
    assert all(len(found) == len(Family) for found in addresses.values())
    everyone = [*addresses.values(), *([node.address(family) for family in Family] for node in (here, there))]
    targets = json.dumps([[address, 80] for found in everyone for address in found])
    places = [*(pod for _, pod in pods.values()), here.netns, there.netns]
    servers = []
    try:
        for place in places:
            with place.entered():
                servers.append(subprocess.Popen([sys.executable, str(INSIDE), "serve", "80"]))
        probe = [sys.executable, str(INSIDE), "probe", "2", targets]
        everything = {"allowed"}
        wait_until(lambda: all(set(json.loads(pod.run(probe))) == everything for _, pod in pods.values()), 60)
    finally:
        for server in servers:
            server.kill()
            server.wait()
    for node in (here, there):
        assert all("MASQUERADE" not in node.iptables(family, "-t", "nat", "-S") for family in Family)
    for _, pod in pods.values():
        pod.close()


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces")
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        kube_apiserver()
        kubectl()
    with Cluster() as made:
        yield made


def run_script(
    bin_directory: Path, environment: dict[str, str], netns: Netns | None = None
) -> tuple[int, str]:
    """Run kind/test with no programs but the system's and those of a directory."""
    for name in ("docker", "podman", "kind", "kubectl"):
        if not (bin_directory / name).exists() and name in ("docker", "podman"):
            program(bin_directory, name, "#!/bin/sh\nexit 1\n")
    command = [str(KIND / "test")]
    path = f"{bin_directory}:/usr/bin:/bin"
    everything = {"PATH": path, "HOME": str(bin_directory), **environment}
    if netns is None:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=everything)
    else:
        with netns.entered():
            done = subprocess.run(command, capture_output=True, text=True, check=False, env=everything)
    return done.returncode, done.stdout + done.stderr


def test_what_is_missing_is_named_with_its_remedy(tmp_path: Path) -> None:
    assert shutil.which("kind", path="/usr/bin:/bin") is None
    code, said = run_script(tmp_path / "bin", {})
    assert code == 2
    assert "No container engine that answers: install Docker" in said
    assert "No kind here: " in said
    code, said = run_script(tmp_path / "bin", {"ENGINE": "podman"})
    assert code == 2
    assert "podman does not answer: 'podman info' says why" in said


def test_a_cluster_of_the_same_name_is_left_alone(tmp_path: Path) -> None:
    for name in ("docker", "kubectl"):
        program(tmp_path / "bin", name, RECORD)
    program(tmp_path / "bin", "kind", RECORD + '[ "$1" != get ] || echo netpol-agent\n')
    code, said = run_script(tmp_path / "bin", {"CALLS": str(tmp_path / "calls")})
    assert code == 2
    assert "kind delete cluster --name netpol-agent" in said
    assert "delete" not in (tmp_path / "calls").read_text()


@pytest.mark.parametrize("keep", ["", "1"])
def test_one_step_after_another_and_the_cluster_is_gone_when_one_fails(
    cluster: Cluster, tmp_path: Path, keep: str
) -> None:
    """With a real API server and kubectl: up to the image, which there is no runtime to load into."""
    addresses = {"n-control-plane": ["172.19.0.3", "fc00::3"], "n-worker": ["172.19.0.2", "fc00::2"]}
    ranges = {
        "n-control-plane": ["10.244.0.0/24", "fd00:10:244::/64"],
        "n-worker": ["10.244.1.0/24", "fd00:10:244:1::/64"],
    }
    for name in addresses:
        cluster.client.create_node(name, addresses[name], ranges[name])
        ready = {"conditions": [{"type": "Ready", "status": "True"}]}
        cluster.client.patch(f"/api/v1/nodes/{name}/status", {"status": ready})
    programs = tmp_path / "bin"
    kubeconfig = cluster.api.kubeconfig("admin")
    # docker exec NODE sh -s -- ...: what the node's shell would read is the script.
    program(programs, "docker", RECORD + '[ "$1" != exec ] || cmp -s /dev/stdin kind/network || exit 1\n')
    made = f'case "$1 $2" in "create cluster") cp {kubeconfig} "${{8}}" ;; "load "*) exit 1 ;; esac\n'
    program(programs, "kind", RECORD + made)
    (programs / "kubectl").symlink_to(kubectl())
    environment = {"CALLS": str(tmp_path / "calls"), "KEEP": keep, "KIND_NAME": "n"}
    code, said = run_script(programs, environment, cluster.api.netns)
    assert code == 1, said
    calls = [line.split(" ", 2) for line in (tmp_path / "calls").read_text().splitlines()]
    steps = [f"{name} {verb}" for name, verb, *_ in calls if verb != "info"]
    assert steps == [
        *(
            "kind get",
            "docker build",
            "docker save",
            "kind create",
            "docker exec",
            "docker exec",
            "kind load",
        ),
        *(["kind delete"] if not keep else []),
    ]
    executed = {
        rest.split()[1]: rest.split()[5:]
        for _, verb, rest in (c for c in calls if len(c) > 2)
        if verb == "exec"
    }
    assert executed == {
        "n-control-plane": [
            *("10.244.0.0/24,fd00:10:244::/64", "10.244.1.0/24=172.19.0.2", "fd00:10:244:1::/64=fc00::2")
        ],
        "n-worker": [
            *("10.244.1.0/24,fd00:10:244:1::/64", "10.244.0.0/24=172.19.0.3", "fd00:10:244::/64=fc00::3")
        ],
    }
    assert "n-worker" in said.partition("What there is, and what the agents say:")[2]
    assert ("The cluster is kept" in said) == bool(keep)
