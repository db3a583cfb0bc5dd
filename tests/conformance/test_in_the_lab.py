"""What runs the features on a cluster, run itself: real agents and packets, pods without kubelet and exec."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator

import pytest

from tests.cluster import test_features as features
from tests.cluster.scene import Stage, Way
from tests.conformance.kubectl import Kubectl, KubectlError
from tests.conformance.scene import ClusterScene, Ground, survey
from tests.deploy.conftest import deployed
from tests.deploy.stage import DeployedCluster, run_kubectl
from tests.lab.cluster import ROOT
from tests.lab.kube_build import kubectl
from tests.lab.kubelet import Kubelets
from tests.lab.netns import CommandError
from tests.lab.node import Layout, Mode
from tests.lab.place import LabError

__all__ = ["deployed"]


class LabKubectl(Kubectl):
    """kubectl, started beside the lab's API server; what it would have a kubelet execute runs at once."""

    def __init__(self, cluster: DeployedCluster, kubelets: Kubelets) -> None:
        super().__init__([str(kubectl())])
        self.kubelets = kubelets
        self.netns = cluster.api.netns
        self.kubeconfig = cluster.api.kubeconfig("admin")

    def run(self, *arguments: str, stdin: str = "") -> str:
        try:
            return run_kubectl(self.netns, self.kubeconfig, *arguments, stdin=stdin)
        except CommandError as error:
            raise KubectlError(str(error)) from error

    def execute(self, namespace: str, pod: str, *command: str) -> str:
        return self.kubelets.execute(namespace, pod, *command)


@pytest.fixture(
    scope="session", params=[pytest.param(None, marks=pytest.mark.xdist_group("conformance"), id="lab")]
)
def lab_kubectl(deployed: DeployedCluster) -> Iterator[LabKubectl]:
    ready = {"conditions": [{"type": "Ready", "status": "True"}]}
    for name, layout, mode in (("near", Layout.BRIDGE, Mode.NFT), ("far", Layout.ROUTED, Mode.LEGACY)):
        deployed.node(name, layout, mode)
        deployed.client.patch(f"/api/v1/nodes/{name}/status", {"status": ready})
    deployed.wait_ready()
    with Kubelets(deployed) as kubelets:
        yield LabKubectl(deployed, kubelets)


@pytest.fixture(scope="session")
def ground(lab_kubectl: LabKubectl) -> Ground:
    return survey(lab_kubectl)


@pytest.fixture
def scene(ground: Ground) -> Iterator[ClusterScene]:
    with ClusterScene(ground) as made:
        yield made


@pytest.mark.parametrize(
    "feature",
    [
        # Between them: both directions, labels set, a policy replaced, a host that is no pod.
        features.test_updated_pod_denied,
        features.test_egress_to_a_cidr_block,
    ],
)
def test_a_feature(scene: ClusterScene, feature: Callable[[Stage], None]) -> None:
    feature(scene)


def test_what_is_not_so_is_told(scene: ClusterScene) -> None:
    namespace = scene.namespace("a")
    client = scene.pod(scene.near, namespace, "client", {"app": "client"})
    server = scene.pod(scene.far, namespace, "server", {"app": "server"})
    way, closed = Way(client, server), Way(client, server, 81)
    with pytest.raises(LabError, match=r"never seen open.*a/client to 10\.244"):
        scene.expect(denied=[way])
    scene.are_open([way])
    with pytest.raises(
        AssertionError, match=r"a/client → 10\..* 80 is allowed, not denied; .*a/client → fd00:"
    ):
        scene.expect(denied=[way], timeout=0)
    scene.patience = 0
    with pytest.raises(LabError, match=r"not open without policy: .* 81 is rejected, not allowed"):
        scene.are_open([closed])
    scene.policy(namespace, "closed", {"matchLabels": {"app": "server"}}, policyTypes=["Ingress"])
    scene.expect(denied=[way], timeout=20)
    with pytest.raises(AssertionError, match="80 is denied, not allowed"):
        scene.expect(allowed=[way], timeout=0)


def test_the_agents_own_image_makes_the_pods(ground: Ground, deployed: DeployedCluster) -> None:
    assert ground.image == deployed.pod["containers"][0]["image"]
    assert {ground.near, ground.far} == {"near", "far"}
    assert [int(family) for family in ground.families] == [4, 6]


def test_exec_gets_as_far_as_the_kubelet(lab_kubectl: LabKubectl, scene: ClusterScene) -> None:
    """The API server has let it through, and dials the node's kubelet, of which there is none here."""
    pod = scene.pod(scene.near, scene.namespace("a"), "pod")
    assert pod.addresses
    with pytest.raises(KubectlError, match=r"dial tcp 172\.18\..*:10250: connect: connection refused"):
        Kubectl.execute(lab_kubectl, *pod.name.split("/"), "python3", "-c", "")


def test_a_command_that_is_not_there_is_named() -> None:
    with pytest.raises(KubectlError, match=r"no-such-kubectl cannot be run: No such file"):
        survey(Kubectl(["no-such-kubectl"]))


@pytest.mark.parametrize(("told", "collected"), [("", False), ("no-such-kubectl", True)])
def test_no_cluster_is_touched_unless_it_is_named(told: str, collected: bool) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "--collect-only", "-q", "tests/conformance"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TEST_KUBECTL": told},
    )
    assert "test_in_the_lab.py::" in done.stdout, done.stdout + done.stderr
    assert ("tests/conformance/test_features.py::test_default_deny" in done.stdout) == collected
