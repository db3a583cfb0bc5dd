"""What the documents' commands are run on: a cluster with the examples, and a checkout of their own."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path

import yaml

from agent.net import Family
from tests.demo.examples import read
from tests.deploy.stage import (
    DAEMONSETS,
    DEPLOY,
    KUBE_ROUTER,
    DeployedCluster,
    PodAgent,
    do_jobs,
    reach_api_server,
    run_to_the_end,
)
from tests.docs.commands import ROOT
from tests.kernel import kube_router
from tests.kernel.kube_router import KnownPod, KnownPolicy
from tests.lab.client import ApiError, Json
from tests.lab.kube_build import kubectl
from tests.lab.lab import flows
from tests.lab.node import Layout, Mode, Node, Pod
from tests.lab.service import install_kube_proxy

SECONDS = 600.0
"""How long a block of commands may take where others work, too. All of pip's downloads are in one."""

_ATTENTION = 0.2
"""Seconds from one look at what controllers have to do to the next."""

_PORT = 5432
_DAEMONSET = f"{DAEMONSETS}/netpol-agent"
_IGNORED = {line.rstrip("/") for line in (ROOT / ".gitignore").read_text().splitlines()}
_NOT_COPIED = {".git", *_IGNORED, "*.pyc.*"} - {"__pycache__"}
"""What is not of the checkout; what Python has compiled of it is as good there, and what it is writing just
then may be gone."""
_NOT_KNOWN = ("KUBECONFIG", "NODE_NAME", "ARGS", "MAKEFLAGS", "MAKELEVEL")
"""What a reader's environment has not: settings of the agent, and what make was told that runs the tests."""


class Stage(DeployedCluster):
    """The node worker-1, in the cluster, and the node ``alone``, which has only the agents it is told to run.

    Both see this machine's files, which cannot be written, but for what :meth:`run` names. While
    commands run, this does what the controllers of DaemonSets and Jobs and a kubelet would.
    """

    def __init__(self) -> None:
        super().__init__()
        try:
            self._examples = read(ROOT / "examples")
            self.worker = self._node("worker-1")
            self.alone = self._node("alone")
            self.client.create_node("worker-1", [self.worker.v4, self.worker.v6], [self.worker.cidr4])
            labels = {"kubernetes.io/os": "linux", "kubernetes.io/hostname": "worker-1"}
            self.client.patch("/api/v1/nodes/worker-1", {"metadata": {"labels": labels}})
            self.pods = dict(self._pods())
            self.lab.serve(self.pods["db"], tcp=[_PORT])
            for step in self._examples.steps:
                self.kubectl("apply", "-f", str(step.path))
            self.files = self._files()
            self._runs: Json | None = None
            self._jobs_done: dict[str, Json] = {}
        except BaseException:
            self.close()
            raise

    def _node(self, name: str) -> Node:
        node = self.lab.node(name, Layout.BRIDGE, Mode.NFT)
        install_kube_proxy(node)
        reach_api_server(node, self.api.address)
        return node

    def _pods(self) -> Iterable[tuple[str, Pod]]:
        """Make the examples' pods, in the lab and in the API."""
        for document in yaml.safe_load_all(self._examples.cluster.read_text()):
            metadata = document["metadata"]
            if document["kind"] == "Namespace" and metadata["name"] not in ("default", "kube-system"):
                self.client.create_namespace(metadata["name"], metadata.get("labels"))
            if document["kind"] != "Pod":
                continue
            v4, v6 = (address["ip"] for address in document["status"]["podIPs"])
            ports = [
                (port["name"], port.get("protocol", "TCP"), port["containerPort"])
                for container in document["spec"]["containers"]
                for port in container.get("ports", ())
            ]
            yield metadata["name"], self.lab.pod(self.worker, metadata["name"], (v4, v6))
            self.client.create_pod(
                metadata["namespace"],
                metadata["name"],
                node="worker-1",
                addresses=[v4, v6],
                labels=metadata.get("labels"),
                ports=ports,
            )

    def _files(self) -> Path:
        """Make what the commands may write: a checkout, /etc, /opt, /tmp and /var/lib."""
        files = self.lab.directory / "files"
        checkout = files / "checkout"
        shutil.copytree(ROOT, checkout, ignore=shutil.ignore_patterns(*_NOT_COPIED), symlinks=True)
        (checkout / ".venv").mkdir()
        for name in ("opt", "tmp", "state"):
            (files / name).mkdir()
        subprocess.run(["cp", "-a", "/etc", str(files / "etc")], check=True)
        for name in ("kubernetes", "modules-load.d", "default", "systemd/system", "netpol-agent/manifests"):
            (files / "etc" / name).mkdir(parents=True, exist_ok=True)
        (files / "tmp/bin").mkdir()
        (files / "tmp/bin/kubectl").symlink_to(kubectl())
        (files / "tmp/home/.kube").mkdir(parents=True)
        shutil.copy(self.api.kubeconfig("admin"), files / "tmp/home/.kube/config")
        shutil.copytree(ROOT / "examples", files / "tmp/manifests")
        for name in ("new.yaml", "policy.yaml"):
            shutil.copy(ROOT / "examples/01-default-deny.yaml", checkout / name)
        return files

    # Commands

    def run(self, script: str, *, on: Node | None = None, allowed_to_fail: bool = False) -> str:
        """Run a script on a node, or where it needs the machine's own network; return what it printed.

        Files are this machine's, read-only; but the checkout, /etc, /opt, /tmp, /run and /var/lib are the
        stage's own. On the machine's own network it has no privilege over the network.
        Raises AssertionError when it fails or takes too long.
        """
        # Of its own: what a script leaves behind may go on writing.
        with tempfile.NamedTemporaryFile(prefix="output-", dir=self.lab.directory, delete=False) as output:
            log = Path(output.name)
            command = [*self._sandbox(own_network=on is None), "sh", "-euc", script]
            if on is None:
                process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True
                )
            else:
                process = on.popen(command, output=output)
        deadline = time.monotonic() + SECONDS
        while True:
            try:
                process.wait(_ATTENTION)
                break
            except subprocess.TimeoutExpired:
                self.tend()
            if time.monotonic() > deadline:
                # With all that it has started: it would disturb what comes next.
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                printed = log.read_text(errors="replace")
                raise AssertionError(f"{script}\ntakes more than {SECONDS:.0f} s:\n{printed}")
        self.tend()
        printed = log.read_text(errors="replace")
        assert process.returncode == 0 or allowed_to_fail, (
            f"{script}\nends with code {process.returncode}:\n{printed}"
        )
        return printed

    def _sandbox(self, *, own_network: bool) -> list[str]:
        root, files = str(ROOT), self.files
        pip = Path(os.environ.get("PIP_CACHE_DIR") or Path.home() / ".cache/pip")
        run = ["--tmpfs", "/run"] if own_network else ["--bind", "/run", "/run"]
        privileges = ["--cap-drop", "CAP_NET_ADMIN", "--cap-drop", "CAP_NET_RAW"] if own_network else []
        environment = {
            # kubectl ends before its memory is worth collecting.
            "GOGC": "off",
            "HOME": "/tmp/home",
            "KUBECACHEDIR": "/tmp/home/kubectl",
            "PATH": f"/tmp/bin:{root}/.venv/bin:{os.environ['PATH']}:/usr/sbin:/sbin",
            "PIP_CACHE_DIR": str(pip),
            # What pip would fetch is there, as the tests' own: it installs the agent alone.
            "PYTHONPATH": sysconfig.get_path("purelib"),
            "TMPDIR": "/tmp",
            "XTABLES_LOCKFILE": "/run/xtables.lock",
        }
        return [
            *("bwrap", "--die-with-parent", "--cap-add", "ALL", *privileges, "--ro-bind", "/", "/"),
            *("--dev-bind", "/dev", "/dev", "--bind", "/proc", "/proc", *run),
            *("--bind", str(files / "tmp"), "/tmp", "--bind", str(files / "state"), "/var/lib"),
            *("--bind", str(files / "etc"), "/etc", "--bind", str(files / "opt"), "/opt"),
            *("--bind-try", str(pip), str(pip)),
            *("--bind", str(files / "checkout"), root, "--ro-bind", f"{root}/.venv", f"{root}/.venv"),
            *("--unshare-uts", "--hostname", "worker-1", "--chdir", root),
            *(word for name, value in environment.items() for word in ("--setenv", name, value)),
            *(word for name in _NOT_KNOWN for word in ("--unsetenv", name)),
            "--",
        ]

    # How the cluster is when a document begins

    def with_agent(self) -> None:
        """Have the agent installed, and two connections tried, of which the policies allow one."""
        self.kubectl("apply", "-k", str(DEPLOY))
        self.tend()
        self._give_credentials()
        self.settle()
        for source in ("api", "web"):
            self.lab.probe(flows(self.pods[source], self.pods["db"], tcp=[_PORT], families=[Family.V4]))

    def with_kube_router(self) -> None:
        """Have kube-router's DaemonSet and its rules on worker-1, and no agent."""
        self.without_agent()
        self.kubectl("apply", "-f", "-", stdin=json.dumps(KUBE_ROUTER))
        known = KnownPod("web", {family: self.pods["web"].address(family) for family in Family})
        policies = [KnownPolicy("closed", "dst", [known], [])]
        self.worker.run("ipset", "restore", stdin=kube_router.sets(policies))
        for family, text in kube_router.filter_tables([known], policies).items():
            self.worker.iptables_restore(family, text)

    def _give_credentials(self) -> None:
        """Write the kubeconfig of the agent's account, which may have been made anew."""
        config = json.loads(self.api.kubeconfig("admin").read_text())
        config["users"][0]["user"]["token"] = self.api.agent_token()
        (self.files / "etc/kubernetes/agent.conf").write_text(json.dumps(config))

    def without_agent(self) -> None:
        """Have nothing installed; kube-router is there as an object."""
        self.kubectl("delete", "--ignore-not-found", "-k", str(DEPLOY))
        self.kubectl("apply", "-f", "-", stdin=json.dumps(KUBE_ROUTER))
        self.tend()

    # What controllers and kubelets do

    def tend(self) -> None:
        """Do once what is to be done for the DaemonSet and for Jobs."""
        daemonset = self._daemonset()
        template = daemonset["spec"]["template"]["spec"] if daemonset and self._is_for(daemonset) else None
        if template != self._runs:
            if running := self.agents.pop("worker-1", None):
                running.stop()
            self._runs = None
            if template is not None:
                self._start(template)
            self._runs = template
        if daemonset is not None:
            self._report(daemonset)
        do_jobs(self, {"worker-1": self.worker}, self._jobs_done)

    def _daemonset(self) -> Json | None:
        try:
            return self.client.get(_DAEMONSET)
        except ApiError as error:
            if error.status != 404:
                raise
            return None

    def _is_for(self, daemonset: Json) -> bool:
        labels = self.client.get("/api/v1/nodes/worker-1")["metadata"]["labels"]
        selector = daemonset["spec"]["template"]["spec"].get("nodeSelector", {})
        return bool(selector.items() <= labels.items())

    def _start(self, pod: Json) -> None:
        # The account may have been deleted and made anew.
        self.kubelet = self.kubelet_of(self.api.agent_token(), self.account)
        for container in pod.get("initContainers", ()):
            code, said = run_to_the_end(self.worker, pod, container, self.kubelet)
            assert code == 0, said
        agent = self.agents["worker-1"] = PodAgent(self.worker, pod, self.kubelet)
        agent.wait_ready()

    def _report(self, daemonset: Json) -> None:
        here = int(self._runs is not None)
        names = ("currentNumberScheduled", "desiredNumberScheduled", "updatedNumberScheduled")
        status = dict.fromkeys((*names, "numberReady", "numberAvailable"), here)
        status |= {"numberMisscheduled": 0, "observedGeneration": daemonset["metadata"]["generation"]}
        if not status.items() <= daemonset["status"].items():
            # Zeros are left out of what is stored.
            self.client.patch(f"{_DAEMONSET}/status", {"status": status})
