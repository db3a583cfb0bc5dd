"""``kubectl netpol``: it finds the agent of the right node on a real API server, and runs the command there.

``kubectl exec`` needs a kubelet, which the lab has not. So a stand-in for kubectl notes what it is asked to
run there, and hands everything else to the real one.
"""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.cluster.scene import Scene
from tests.lab.cluster import ROOT
from tests.lab.kube_build import kubectl

PLUGIN = ROOT / "deploy/kubectl-netpol"
STAND_IN = """#!/bin/sh
for word in "$@"; do
    if [ "$word" = exec ]; then
        echo "ran: $*"
        exit ${EXIT_CODE:-0}
    fi
done
exec "$REAL" --kubeconfig="$CONFIG" --cache-dir="$CACHE" "$@"
"""


class Ran(NamedTuple):
    code: int
    out: str
    err: str


class Plugin:
    """The plugin on the path beside a kubectl, on a machine that reaches the API server."""

    def __init__(self, scene: Scene, directory: Path) -> None:
        self.scene = scene
        self.directory = directory
        for name, text in (("kubectl", STAND_IN), ("kubectl-netpol", PLUGIN.read_text())):
            (directory / name).write_text(text)
            (directory / name).chmod(0o755)

    def __call__(self, *arguments: str, **environment: str) -> Ran:
        with self.scene.cluster.api.netns.entered():
            done = subprocess.run(
                ["kubectl-netpol", *arguments],
                capture_output=True,
                text=True,
                check=False,
                stdin=subprocess.DEVNULL,
                cwd=self.directory,
                env={
                    **os.environ,
                    "PATH": f"{self.directory}:{os.environ['PATH']}",
                    "REAL": str(kubectl()),
                    "CONFIG": str(self.scene.cluster.api.kubeconfig("admin")),
                    "CACHE": str(self.directory / "cache"),
                    **environment,
                },
            )
        return Ran(done.returncode, done.stdout, done.stderr)


def set_ready(scene: Scene, agent: str, ready: str) -> None:
    status = {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}
    scene.cluster.client.set_pod_status("kube-system", agent, status)


@pytest.fixture
def plugin(scene: Scene, tmp_path: Path) -> Iterator[Plugin]:
    client = scene.cluster.client
    labels = {"app.kubernetes.io/name": "netpol-agent"}
    agents = {f"netpol-agent-{place}": node for place, node in (("near", scene.near), ("far", scene.far))}
    for name, node in agents.items():
        client.create_pod(
            "kube-system", name, node=node.name, addresses=[node.v4], labels=labels, hostNetwork=True
        )
        set_ready(scene, name, "True")
    yield Plugin(scene, tmp_path)
    for name in agents:
        client.delete_pod("kube-system", name)


def test_explain_runs_where_the_destination_is_enforced(scene: Scene, plugin: Plugin) -> None:
    namespace = scene.namespace("a")
    near = scene.pod(scene.near, namespace, "near")
    far = scene.pod(scene.far, namespace, "far")
    ran = plugin("explain", near.name, far.name, "80/udp", "--json")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == (
        "ran: exec -n kube-system pod/netpol-agent-far -c agent -- "
        f"netpol-agent explain {near.name} {far.name} 80/udp --json\n"
    )
    # The destination is no pod: the source's node enforces what there is to enforce.
    assert "pod/netpol-agent-near -c" in plugin("explain", near.name, "192.0.2.1", "80").out
    assert "pod/netpol-agent-near -c" in plugin("explain", far.name, near.name, "80").out
    assert "ran: exec" in plugin("explain", "192.0.2.1", f"{namespace}/deployment/web", "80").out
    assert plugin("explain", near.name, far.name, "80", EXIT_CODE="1").code == 1


def test_explain_says_when_the_agent_of_the_other_half_is_not_there(scene: Scene, plugin: Plugin) -> None:
    namespace = scene.namespace("a")
    near = scene.pod(scene.near, namespace, "near")
    far = scene.pod(scene.far, namespace, "far")
    set_ready(scene, "netpol-agent-near", "False")
    half = f"which enforces the half of {near.name}: that half is said from the objects"
    ran = plugin("explain", near.name, far.name, "80")
    assert (ran.code, "pod/netpol-agent-far -c" in ran.out) == (0, True)
    assert f"the agent on node {scene.near.name} is not ready, {half}" in ran.err
    scene.cluster.client.set_pod_status("kube-system", "netpol-agent-near", {"phase": "Failed"})
    assert (
        f"no agent runs on node {scene.near.name}, {half}" in plugin("explain", near.name, far.name, "80").err
    )


def test_other_commands_run_on_the_node_of_a_pod_or_one_that_is_named(scene: Scene, plugin: Plugin) -> None:
    namespace = scene.namespace("a")
    far = scene.pod(scene.far, namespace, "far")
    assert plugin("status", "--pod", far.name).out == (
        f"ran: exec -n kube-system pod/netpol-agent-far -c agent -- netpol-agent status --pod {far.name}\n"
    )
    assert "pod/netpol-agent-far -c" in plugin("history", f"--pod={far.name}").out
    named = plugin("--node", scene.near.name, "--context", "lab", "status")
    assert named.out == (
        "ran: --context=lab exec -n kube-system pod/netpol-agent-near -c agent -- netpol-agent status\n"
    )


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["status"], "which node? name it by --node NODE"),
        (["status", "--pod", "kube-system/nobody"], "there is no pod kube-system/nobody"),
        (["--node", "nowhere", "status"], "no agent runs on node nowhere in namespace kube-system"),
        (["--agent-namespace", "default", "explain", "a", "b", "80"], "no agent runs in namespace default"),
        (["--nod", "x", "status"], "unknown option --nod"),
        (["--node"], "--node needs a value"),
        ([], "usage: kubectl netpol"),
    ],
)
def test_what_it_cannot_do_is_told(plugin: Plugin, arguments: list[str], words: str) -> None:
    ran = plugin(*arguments)
    assert ran.code == 2
    assert words in ran.err
    assert "ran:" not in ran.out


def test_a_report_is_written_here(scene: Scene, plugin: Plugin, tmp_path: Path) -> None:
    ran = plugin("--node", scene.near.name, "report", "--output", "here.tar.gz")
    assert ran.code == 0
    assert "written here: here.tar.gz; the log: kubectl -n kube-system logs pod/netpol-agent-near" in ran.err
    written = (tmp_path / "here.tar.gz").read_text()
    assert written.endswith("-c agent -- netpol-agent report --output -\n")
    assert plugin("--node", scene.near.name, "report", "--output", "here.tar.gz").code == 2
    named = plugin("--node", scene.near.name, "report", EXIT_CODE="1")
    assert named.code == 1
    assert len(list(tmp_path.glob(f"netpol-agent-report-{scene.near.name}-*.tar.gz"))) == 1


def test_help_is_the_head_of_the_script(plugin: Plugin) -> None:
    ran = plugin("--help")
    assert ran.code == 0
    assert ran.out.startswith("Runs netpol-agent where it has the answer")
    assert "kubectl netpol explain shop/web shop/db 5432" in ran.out
