"""One cluster on which deploy/ is installed, with two nodes that run it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.cluster.scene import Scene
from tests.deploy.stage import DeployedCluster
from tests.lab.kube_build import kube_apiserver, kubectl
from tests.lab.node import Layout, Mode, Node

Nodes = tuple[Node, Node]


@pytest.fixture(scope="session")
def deployed(request: pytest.FixtureRequest) -> Iterator[DeployedCluster]:
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces")
    # The first build takes minutes: who waits should see that.
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        kube_apiserver()
        kubectl()
    with DeployedCluster() as made:
        yield made


@pytest.fixture(
    scope="session", params=[pytest.param(None, marks=pytest.mark.xdist_group("deploy"), id="deployed")]
)
def nodes(deployed: DeployedCluster) -> Iterator[Nodes]:
    # What asks most of an agent: a bridge to set up, and the iptables that wants more than netlink.
    near, far = (deployed.node(name, Layout.BRIDGE, Mode.LEGACY) for name in ("near", "far"))
    deployed.wait_ready()
    yield near, far
    for node in (near, far):
        deployed.remove_node(node)


@pytest.fixture
def scene(deployed: DeployedCluster, nodes: Nodes) -> Iterator[Scene]:
    with deployed.workspace() as workspace:
        yield Scene(workspace, *nodes)
