"""vagrant/: what the Vagrantfile asks for, and each step as far as it goes on another machine.

No machine is started here: docs/clusters.md says what that leaves.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from tests.deploy.stage import built, of_kind
from tests.lab.client import Json
from tests.lab.cluster import ROOT
from tests.lab.debian import run
from tests.lab.image import debian
from tests.lab.netns import CommandError, Netns

VAGRANT = ROOT / "vagrant"

# Stands in for Vagrant: takes any call that the Vagrantfile makes, and writes a JSON line for each.
RECORDER = """
require "json"
class Recorder < BasicObject
  def initialize(path)
    @path = path
  end

  def method_missing(name, *words, **named)
    ::STDOUT.puts ::JSON.generate([[*@path, name], words, named])
    inner = ::Recorder.new([*@path, name, *words.grep(::String)])
    yield inner if ::Kernel.block_given?
    inner
  end

  def respond_to_missing?(*)
    true
  end
end

module Vagrant
  def self.configure(version, &block)
    raise "version #{version}" unless version == "2"
    block.call(Recorder.new([]))
  end
end
load ARGV.fetch(0)
"""


def calls(environment: dict[str, str]) -> list[tuple[str, list[object], Json]]:
    """Return what the Vagrantfile says: the names on the way to each call, its arguments and named ones."""
    try:
        done = subprocess.run(
            ["ruby", "-w", "-e", RECORDER, str(VAGRANT / "Vagrantfile")],
            capture_output=True,
            text=True,
            check=False,
            env={"PATH": os.environ["PATH"], "LANG": "C.UTF-8", **environment},
        )
    except FileNotFoundError:
        pytest.skip("needs ruby: .ci/packages python3 machines")
    assert done.returncode == 0, done.stderr
    lines = map(json.loads, done.stdout.splitlines())
    return [(" ".join(path), words, named) for path, words, named in lines]


def provisioned(said: list[tuple[str, list[object], Json]], machine: str) -> dict[str, Json]:
    return {
        str(words[0]): named for path, words, named in said if path == f"vm define {machine} vm provision"
    }


def test_two_machines_of_one_private_network() -> None:
    said = calls({})
    addresses = {
        path.split()[2]: named["ip"]
        for path, words, named in said
        if path.endswith("vm network") and words == ["private_network"]
    }
    assert addresses == {"server": "192.168.56.10", "worker": "192.168.56.11"}
    assert ("vm box=", ["debian/bookworm64"], {}) in said


def test_each_step_is_a_script_that_is_there() -> None:
    said = calls({"K3S_INSTALLER": "https://k3s.example", "INSTALL_K3S_VERSION": "v1", "OTHER": "x"})
    settings = {"K3S_INSTALLER": "https://k3s.example", "INSTALL_K3S_VERSION": "v1"}
    for machine, role in (("server", "server"), ("worker", "agent")):
        steps = provisioned(said, machine)
        assert list(steps) == ["packages", "k3s", "image"]
        assert all(os.access(VAGRANT / step["path"], os.X_OK) for step in steps.values())
        assert all(step["type"] == "shell" for step in steps.values())
        assert steps["k3s"]["args"] == [role]
        assert steps["k3s"]["env"].items() >= settings.items()
        assert steps["k3s"]["env"]["SERVER_ADDRESS"] == "192.168.56.10"
        assert "OTHER" not in steps["image"]["env"]


def test_what_is_installed_is_the_image_that_is_built() -> None:
    (container,) = of_kind(built(VAGRANT), "DaemonSet")["spec"]["template"]["spec"]["containers"]
    assert f"image={container['image']}\n" in (VAGRANT / "image").read_text()
    assert container["imagePullPolicy"] == "Never"


@pytest.fixture(params=[pytest.param(None, marks=pytest.mark.xdist_group("image"))])
def machine(tmp_path: Path) -> Path:
    """The files of a fresh Debian, as small as they come."""
    if os.geteuid() != 0:
        pytest.skip("needs root: it unpacks a Debian")
    files = tmp_path / "machine"
    files.mkdir()
    run(["tar", "--extract", "--file", str(debian()), "--directory", str(files)])
    return files


def test_a_fresh_debian_has_every_package(machine: Path) -> None:
    """apt looks each one up, and what it depends on, and installs nothing."""
    (machine / "etc/apt/apt.conf.d/99-simulate").write_text('APT::Get::Simulate "true";\n')
    shutil.copy("/etc/resolv.conf", machine / "etc/resolv.conf")
    shutil.copy(VAGRANT / "packages", machine / "packages")
    said = run(["unshare", "--mount", "chroot", str(machine), "/packages"])
    installed = {line.split()[1] for line in said.splitlines() if line.startswith("Inst ")}
    assert {"buildah", "curl", "iptables", "make", "python3-venv"} <= installed


class Machine:
    """Somewhere to run vagrant/k3s: two networks, as Vagrant's machines have, and an /etc of its own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.netns = Netns("machine")
        self.netns.ip(
            "link add nat type veth peer name nat-end",
            "link add private type veth peer name private-end",
            "addr add 10.0.2.15/24 dev nat",
            "addr add 192.168.56.11/24 dev private",
            "link set nat up",
            "link set private up",
        )
        # Which awk there is, and the like.
        shutil.copytree("/etc/alternatives", directory / "etc/alternatives", symlinks=True)
        # What stands in for k3s's installer says what it was told.
        (directory / "installer").write_text('echo "$*" "${INSTALL_K3S_VERSION-}" >>"$INSTALLED"\n')

    def run(self, *arguments: str, **environment: str) -> None:
        mounted = 'mount --bind "$0" /etc && exec "$@"'
        told = {
            "NODE_ADDRESS": "192.168.56.11",
            "SERVER_ADDRESS": "192.168.56.10",
            "K3S_INSTALLER": f"file://{self.directory / 'installer'}",
            "INSTALLED": str(self.directory / "installed"),
            **environment,
        }
        self.netns.run(
            [
                *("unshare", "--mount", "sh", "-c", mounted, str(self.directory / "etc")),
                *(str(VAGRANT / "k3s"), *arguments),
            ],
            environment=told,
        )

    @property
    def configuration(self) -> Json:
        (only,) = (self.directory / "etc/rancher/k3s").iterdir()
        found: Json = yaml.safe_load(only.read_text())
        return found


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Machine]:
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces")
    made = Machine(tmp_path)
    yield made
    made.netns.close()


def test_k3s_uses_the_private_network_and_enforces_nothing(node: Machine) -> None:
    for _ in range(2):
        node.run("server", INSTALL_K3S_VERSION="v1.2.3+k3s1")
    assert (node.directory / "installed").read_text() == 2 * "server v1.2.3+k3s1\n"
    configuration = node.configuration
    assert configuration.items() >= {"node-ip": "192.168.56.11", "flannel-iface": "private"}.items()
    assert configuration["disable-network-policy"] is True
    assert "flannel-backend" not in configuration
    assert "server" not in configuration


def test_a_worker_joins_the_server(node: Machine) -> None:
    node.run("server")
    token = node.configuration["token"]
    node.run("agent")
    assert node.configuration == {
        "token": token,
        "node-ip": "192.168.56.11",
        "flannel-iface": "private",
        "server": "https://192.168.56.10:6443",
    }


def test_what_cannot_be_is_said(node: Machine) -> None:
    with pytest.raises(CommandError, match=r"No network here has the address 192\.168\.56\.99"):
        node.run("server", NODE_ADDRESS="192.168.56.99")
    with pytest.raises(CommandError, match=r"usage: .*k3s server\|agent"):
        node.run("neither")
    with pytest.raises(CommandError, match=r"(?i)couldn't open file|could not"):
        node.run("server", K3S_INSTALLER="file:///nowhere")
    assert not (node.directory / "installed").exists()
