"""What makes clusters and tests them, kind/test and vagrant/test, from beginning to end in the lab.

The cluster is there already: kind, k3s and Docker are stood in for, and so are kubelets and what is behind
``kubectl exec``. kubectl, the API server, the agents and the packets are real.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from tests.conformance.test_in_the_lab import LabKubectl, deployed, lab_kubectl
from tests.deploy.stage import DAEMONSETS, DEPLOY, DeployedCluster
from tests.lab.beside import Beside
from tests.lab.client import Json
from tests.lab.cluster import ROOT
from tests.lab.kube_build import kubectl

__all__ = ["deployed", "lab_kubectl"]

ONE = "test_traffic_from_pods_within_the_servers_namespace_by_pod_selector"
"""The one that changes least, since each change takes kubectl as long as a test elsewhere."""

# Everything but exec is kubectl's own to do.
_KUBECTL = """#!{python}
import os, pathlib, sys
words = sys.argv[1:]
if "exec" in words[:5]:
    at = words.index("exec")
    pod = words[words.index("--namespace") + 1] + "_" + words[at + 1]
    netns = (pathlib.Path("{pods}") / pod).read_text()
    assert words[at + 2 : at + 4] == ["--", "python3"], words
    os.execvp("nsenter", ["nsenter", "--net=" + netns, "{python}", *words[at + 4 :]])
os.execv("{kubectl}", ["kubectl", *words])
"""


@contextlib.contextmanager
def rolled_out(cluster: DeployedCluster) -> Iterator[None]:
    """Say of each new DaemonSet that it is rolled out, as its controller would once pods are ready."""
    client = cluster.client.another()

    def work() -> None:
        found = client.get(f"{DAEMONSETS}/netpol-agent")
        generation = found["metadata"]["generation"]
        if found.get("status", {}).get("observedGeneration") != generation:
            numbers = ("currentNumberScheduled", "desiredNumberScheduled", "updatedNumberScheduled")
            status: Json = dict.fromkeys([*numbers, "numberReady", "numberAvailable"], 2)
            status |= {"observedGeneration": generation, "numberMisscheduled": 0}
            client.patch(f"{DAEMONSETS}/netpol-agent/status", {"status": status})

    try:
        with Beside(work, lambda: 0.2, "rollout of the DaemonSet"):
            yield
    finally:
        client.close()
        # As other tests of this cluster want it.
        cluster.kubectl("apply", "-k", str(DEPLOY))


def program(path: Path, text: str) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)


def run(cluster: LabKubectl, script: str, tmp_path: Path, *arguments: str) -> tuple[int, str, list[str]]:
    """Run a script where the API server is; return its exit code, what it said, and whom it called."""
    kubectl_here = _KUBECTL.format(python=sys.executable, pods=cluster.kubelets.directory, kubectl=kubectl())
    program(tmp_path / "bin/kubectl", kubectl_here)
    calls = tmp_path / "calls"
    with cluster.netns.entered():
        done = subprocess.run(
            [str(ROOT / script), *arguments],
            capture_output=True,
            text=True,
            check=False,
            env={
                "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
                "HOME": str(tmp_path),
                "KUBECONFIG": str(cluster.kubeconfig),
                "CALLS": str(calls),
            },
        )
    return done.returncode, done.stdout + done.stderr, calls.read_text().splitlines()


def run_kind_test(cluster: LabKubectl, tmp_path: Path, feature: str) -> tuple[int, str, list[str]]:
    record = '#!/bin/sh\necho "${0##*/} $1" >>"$CALLS"\n'
    program(tmp_path / "bin/docker", record)
    made = f'[ "$1 $2" != "create cluster" ] || cp {cluster.kubeconfig} "${{8}}"\n'
    program(tmp_path / "bin/kind", record + made)
    return run(cluster, "kind/test", tmp_path, "-q", "-k", feature)


def image_of(cluster: DeployedCluster) -> str:
    pod = cluster.client.get(f"{DAEMONSETS}/netpol-agent")["spec"]["template"]["spec"]
    return str(pod["containers"][0]["image"])


def test_kind_test(deployed: DeployedCluster, lab_kubectl: LabKubectl, tmp_path: Path) -> None:
    with rolled_out(deployed):
        code, said, calls = run_kind_test(lab_kubectl, tmp_path, ONE)
        assert image_of(deployed) == "localhost/netpol-agent:test"
    assert code == 0, said
    assert "1 passed" in said
    assert calls[-2:] == ["kind load", "kind delete"]


def test_kind_test_without_success(
    deployed: DeployedCluster, lab_kubectl: LabKubectl, tmp_path: Path
) -> None:
    """Whatever exit code pytest has: it finds no test of this name."""
    with rolled_out(deployed):
        code, said, calls = run_kind_test(lab_kubectl, tmp_path, "no_such_feature")
    assert code == 1, said
    assert "What there is, and what the agents say:" in said
    assert calls[-1] == "kind delete"


def test_vagrant_test(deployed: DeployedCluster, lab_kubectl: LabKubectl, tmp_path: Path) -> None:
    passed_on = '[ "$1" = kubectl ] && shift && exec kubectl "$@"\n'
    program(tmp_path / "bin/k3s", '#!/bin/sh\necho "k3s $1" >>"$CALLS"\n' + passed_on)
    with rolled_out(deployed):
        code, said, calls = run(lab_kubectl, "vagrant/test", tmp_path, "-q", "-k", ONE)
        assert image_of(deployed) == "localhost/netpol-agent:test"
    assert code == 0, said
    assert "1 passed" in said
    assert set(calls) == {"k3s kubectl"}
