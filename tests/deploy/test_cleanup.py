"""Removal: rules outlive the DaemonSet, and on-every-node removes them by a Job for each node."""

from __future__ import annotations

import itertools
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import __version__
from agent.commands.cli import main
from agent.net import Family
from tests.deploy.stage import (
    DEPLOY,
    JOBS,
    DeployedCluster,
    PodAgent,
    built,
    do_jobs,
    of_kind,
    reach_api_server,
)
from tests.deploy.test_privileges import CONTAINER
from tests.lab.client import Json
from tests.lab.kube_build import kubectl
from tests.lab.node import Layout, Mode, Node
from tests.lab.service import install_kube_proxy
from tests.patience import PATIENCE

SCRIPT = DEPLOY / "cleanup/on-every-node"
NO_NODES = {"type": "virtual-kubelet", "eks.amazonaws.com/compute-type": "fargate"}
"""Labels of what some clouds call a node, where no pod can be on a node's network."""


@pytest.fixture(params=[pytest.param(None, marks=pytest.mark.xdist_group("deploy"), id="deployed")])
def emptied(deployed: DeployedCluster) -> Iterator[dict[str, Node]]:
    """Two Linux nodes of the cluster that had an agent each, and no DaemonSet."""
    found = {}
    for name, layout, mode in (
        ("tainted", Layout.BRIDGE, Mode.LEGACY),
        ("cordoned", Layout.ROUTED, Mode.NFT),
    ):
        node = found[name] = deployed.lab.node(name, layout, mode)
        install_kube_proxy(node)
        reach_api_server(node, deployed.api.address)
        deployed.client.create_node(name, [node.v4, node.v6], [node.cidr4, node.cidr6])
        label(deployed, name, {})
        agent = PodAgent(node, deployed.pod, deployed.kubelet)
        agent.wait_ready()
        agent.stop()
        assert "KUBE-NETPOL" in node.iptables(Family.V4, "-S")
    deployed.kubectl("-n", "kube-system", "delete", "daemonset", "netpol-agent")
    yield found
    deployed.kubectl("apply", "--validate=strict", "-k", str(DEPLOY))
    for name, node in found.items():
        deployed.client.delete_node(name)
        deployed.lab.remove_node(node)


def label(cluster: DeployedCluster, node: str, labels: dict[str, str]) -> None:
    """Give a Linux node labels."""
    cluster.client.patch(
        f"/api/v1/nodes/{node}", {"metadata": {"labels": {"kubernetes.io/os": "linux", **labels}}}
    )


def start_script(cluster: DeployedCluster, *nodes: str) -> subprocess.Popen[str]:
    command = f"{kubectl()} --kubeconfig={cluster.api.kubeconfig('admin')}"
    with cluster.api.netns.entered():
        return subprocess.Popen(
            [str(SCRIPT), *nodes],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "KUBECTL": command,
                "KUBECACHEDIR": str(cluster.lab.directory / "kubectl-cache"),
            },
        )


def do_jobs_of(cluster: DeployedCluster, nodes: dict[str, Node], script: subprocess.Popen[str]) -> list[Json]:
    """Do what the Job controller and kubelets do, until the script ends; return the Jobs, in no order."""
    done: dict[str, Json] = {}
    while script.poll() is None:
        do_jobs(cluster, nodes, done)
        time.sleep(0.05)
    for name in done:
        cluster.client.text("DELETE", f"{JOBS}/{name}", {"propagationPolicy": "Background"})
    return [*done.values()]


def test_every_node_is_cleaned_by_a_job_of_its_own(
    deployed: DeployedCluster, emptied: dict[str, Node]
) -> None:
    for number, (key, value) in enumerate(NO_NODES.items()):
        deployed.client.create_node(f"virtual-{number}", [], ["10.99.0.0/24"])
        label(deployed, f"virtual-{number}", {key: value})
    script = start_script(deployed)
    jobs = do_jobs_of(deployed, emptied, script)
    output, errors = script.communicate()
    for number in range(len(NO_NODES)):
        deployed.client.delete_node(f"virtual-{number}")
    assert script.returncode == 0, output + errors
    assert sorted(output.splitlines()) == ["cordoned: clean", "tainted: clean"]
    assert sorted(job["spec"]["template"]["spec"]["nodeName"] for job in jobs) == ["cordoned", "tainted"]
    for family, node in itertools.product(Family, emptied.values()):
        assert "KUBE-NETPOL" not in node.iptables(family, "-S")
        assert "KUBE-SRC" not in node.run("ipset", "list", "-name")


def test_a_node_where_an_agent_runs_is_named(deployed: DeployedCluster, emptied: dict[str, Node]) -> None:
    agent = PodAgent(emptied["tainted"], deployed.pod, deployed.kubelet)
    agent.wait_ready()
    try:
        script = start_script(deployed, "tainted", "cordoned")
        do_jobs_of(deployed, emptied, script)
        output, _ = script.communicate()
    finally:
        agent.stop()
    assert script.returncode == 1
    clean, unclean = sorted(output.splitlines())
    assert clean == "cordoned: clean"
    assert unclean.startswith(
        "tainted: NOT CLEAN; why: kubectl -n kube-system logs job/netpol-agent-cleanup-"
    )


def test_a_name_that_no_node_has_is_named_at_once(
    deployed: DeployedCluster, emptied: dict[str, Node]
) -> None:
    script = start_script(deployed, "tainted", "taintde")
    output, errors = script.communicate(timeout=PATIENCE)
    assert (script.returncode, output) == (1, "")
    assert 'nodes "taintde" not found' in errors
    assert deployed.client.get(JOBS)["items"] == []
    assert "KUBE-NETPOL" in emptied["tainted"].iptables(Family.V4, "-S")


@pytest.mark.xdist_group("deploy")
def test_it_is_refused_while_the_daemonset_is_there(deployed: DeployedCluster) -> None:
    script = start_script(deployed)
    output, errors = script.communicate(timeout=PATIENCE)
    assert (script.returncode, output) == (1, "")
    assert "kubectl -n kube-system delete daemonset netpol-agent" in errors
    assert deployed.client.get(JOBS)["items"] == []


def test_the_daemonset_leaves_out_the_same() -> None:
    pod = of_kind(built(DEPLOY), "DaemonSet")["spec"]["template"]["spec"]
    (term,) = pod["affinity"]["nodeAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"][
        "nodeSelectorTerms"
    ]
    assert term["matchExpressions"] == [
        {"key": key, "operator": "NotIn", "values": [value]} for key, value in NO_NODES.items()
    ]


def test_the_job_reaches_every_node_and_may_do_no_more_than_the_agent() -> None:
    (job,) = built(DEPLOY / "cleanup")
    pod = job["spec"]["template"]["spec"]
    # A node's name decides: the scheduler, and with it taints and cordons, is not asked.
    assert pod["nodeName"]
    assert pod["tolerations"] == [{"operator": "Exists"}]
    assert pod["hostNetwork"]
    (only,) = pod["containers"]
    own, agents = only["securityContext"], CONTAINER["securityContext"]
    assert own == {**agents, "capabilities": own["capabilities"]}
    assert own["capabilities"]["drop"] == agents["capabilities"]["drop"] == ["ALL"]
    assert set(own["capabilities"]["add"]) < set(agents["capabilities"]["add"])
    assert only["image"] == f"netpol-agent:{__version__}"
    command, *flags = only["args"]
    main.commands[command].make_context(command, flags)
    labels = job["spec"]["template"]["metadata"]["labels"]
    assert labels["app.kubernetes.io/name"] != "netpol-agent", (
        "the agents' DaemonSet would take it for its own"
    )


def test_the_script_is_a_command() -> None:
    assert os.access(SCRIPT, os.X_OK)
    assert Path(SCRIPT).read_text().startswith("#!/bin/sh\n")
