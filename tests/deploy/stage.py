"""What deploy/ says, as kustomize puts it together, and clusters that run it."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import yaml

from agent.net import Family
from tests.lab import container
from tests.lab.client import Json
from tests.lab.cluster import ROOT, AgentProcess, Cluster
from tests.lab.kube_build import kubectl, kubectl_is_built
from tests.lab.netns import Netns
from tests.lab.node import Node
from tests.patience import PATIENCE

DEPLOY = ROOT / "deploy"
SERVICE = "10.96.0.1"
"""The first address of the API server's range of Services: its own, as pods reach it."""

CONFIGMAPS = "/api/v1/namespaces/kube-system/configmaps"
JOBS = "/apis/batch/v1/namespaces/kube-system/jobs"
DAEMONSETS = "/apis/apps/v1/namespaces/kube-system/daemonsets"

KUBE_ROUTER: Json = {
    "apiVersion": "apps/v1",
    "kind": "DaemonSet",
    "metadata": {"name": "kube-router", "namespace": "kube-system"},
    "spec": {
        "selector": {"matchLabels": {"k8s-app": "kube-router"}},
        "template": {
            "metadata": {"labels": {"k8s-app": "kube-router"}},
            "spec": {
                "containers": [
                    {
                        "name": "kube-router",
                        "image": "kube-router",
                        "args": ["--run-router=true", "--run-firewall=true", "--run-service-proxy=false"],
                    }
                ]
            },
        },
    },
}


def built(directory: Path | str) -> list[Json]:
    """Return the objects that ``kubectl kustomize`` makes of a directory.

    Skips the test where kubectl would have to be built first, which ``make test`` does for root.
    """
    if os.geteuid() != 0 and not kubectl_is_built():
        pytest.skip("needs kubectl: python -m tests.lab.kube_build")
    done = subprocess.run(
        [str(kubectl()), "kustomize", str(directory)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


def of_kind(objects: Sequence[Json], kind: str) -> Json:
    """Return the only object of a kind."""
    (only,) = (found for found in objects if found["kind"] == kind)
    return only


class PodAgent(AgentProcess):
    """An agent run as a pod's container: its arguments, environment, files and privileges are the pod's."""

    def __init__(self, node: Node, pod: Json, kubelet: container.Kubelet) -> None:
        self.node = node
        self.log = node.directory / "agent.log"
        (only,) = pod["containers"]
        with self.log.open("ab") as log:
            self.process = container.start(node, pod, only, kubelet, log)

    @property
    def pid(self) -> int:
        return container.main_process(self.process)

    def stop(self, number: int = 15) -> None:
        container.stop(self.process, number)


def run_to_the_end(
    node: Node, pod: Json, only: Json, kubelet: container.Kubelet, timeout: float = PATIENCE
) -> tuple[int, str]:
    """Run a container that ends by itself; return its exit code and what it printed."""
    log = node.directory / "container.log"
    with log.open("wb") as output:
        code = container.start(node, pod, only, kubelet, output).wait(timeout)
    return code, log.read_text(errors="replace")


class DeployedCluster(Cluster):
    """A cluster on which deploy/ is installed by kubectl, and whose nodes run the DaemonSet's pods."""

    def __init__(self) -> None:
        super().__init__()
        try:
            self.kubectl("apply", "--validate=strict", "-k", str(DEPLOY))
            self.pod: Json = self.client.get(f"{DAEMONSETS}/netpol-agent")["spec"]["template"]["spec"]
            self.account = self.lab.directory / "account"
            self.kubelet = self.kubelet_of(self.api.agent_token(), self.account)
        except BaseException:
            self.close()
            raise

    def kubectl(self, *arguments: str, stdin: str = "") -> str:
        """Run kubectl as the cluster's administrator; return what it printed. Raises CommandError."""
        return run_kubectl(self.api.netns, self.api.kubeconfig("admin"), *arguments, stdin=stdin)

    def kubelet_of(self, token: str, account: Path) -> container.Kubelet:
        """Return what kubelets know, with an account's token put into a directory."""
        account.mkdir(exist_ok=True)
        (account / "token").write_text(token)
        (account / "ca.crt").write_bytes(self.api.certificate.read_bytes())
        configmaps = self.client.get(CONFIGMAPS)["items"]
        data = {found["metadata"]["name"]: found.get("data", {}) for found in configmaps}
        return container.Kubelet(data, SERVICE, 443, account)

    def start_agent(self, node: Node, *arguments: str) -> AgentProcess:
        assert not arguments, "what a deployed agent is told is in deploy/"
        reach_api_server(node, self.api.address)
        agent = self.agents[node.name] = PodAgent(node, self.pod, self.kubelet)
        return agent


def run_kubectl(netns: Netns, kubeconfig: Path, *arguments: str, stdin: str = "") -> str:
    """Run kubectl in a namespace; return what it printed. Raises CommandError."""
    cache = kubeconfig.parent / "kubectl-cache"
    command = [str(kubectl()), f"--kubeconfig={kubeconfig}", f"--cache-dir={cache}", *arguments]
    # It ends before its memory is worth collecting.
    return netns.run(command, stdin=stdin, environment={"GOGC": "off"})


def reach_api_server(node: Node, address: str) -> None:
    """Let a node reach the API server by its Service, as kube-proxy does."""
    translated = ("-d", SERVICE, "-p", "tcp", "--dport", "443", "-j", "DNAT", "--to", f"{address}:6443")
    node.iptables(Family.V4, "-t", "nat", "-A", "OUTPUT", *translated)


def do_jobs(cluster: DeployedCluster, nodes: Mapping[str, Node], done: dict[str, Json]) -> None:
    """Do what the Job controller and kubelets do with each Job that is there, and enter it into ``done``."""
    for job in cluster.client.get(JOBS)["items"]:
        if job["metadata"]["name"] in done:
            continue
        pod = job["spec"]["template"]["spec"]
        (only,) = pod["containers"]
        code, _ = run_to_the_end(nodes[pod["nodeName"]], pod, only, cluster.kubelet)
        now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        ended = ["SuccessCriteriaMet", "Complete"] if code == 0 else ["FailureTarget", "Failed"]
        conditions = [{"type": kind, "status": "True", "lastTransitionTime": now} for kind in ended]
        status: Json = {"startTime": now, "conditions": conditions}
        status |= {"completionTime": now, "succeeded": 1} if code == 0 else {"failed": 1}
        cluster.client.patch(f"{JOBS}/{job['metadata']['name']}/status", {"status": status})
        done[job["metadata"]["name"]] = job
