"""Clusters for tests: one API server per worker, and two nodes at a time of one layout."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from tests.cluster.scene import Scene
from tests.lab.backends import BACKENDS
from tests.lab.cluster import Cluster
from tests.lab.kube_build import kube_apiserver
from tests.lab.node import Layout, Node

_BACKENDS = {
    Layout.BRIDGE: (BACKENDS["nft"], BACKENDS["legacy"]),
    Layout.ROUTED: (BACKENDS["legacy"], BACKENDS["nft"]),
}
"""The near node's and the far one's: so each layout has both, and each backend is on both sides.

What depends on layout and backend at once is shown in tests/kernel."""

_LAYOUTS = [
    pytest.param(layout, id=str(layout), marks=pytest.mark.xdist_group(f"cluster-{layout}"))
    for layout in Layout
]


class Pair(NamedTuple):
    """Two nodes with an agent each, of one layout, and each with another backend."""

    cluster: Cluster
    near: Node
    far: Node


@pytest.fixture(scope="session")
def cluster(request: pytest.FixtureRequest) -> Iterator[Cluster]:
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces")
    # The first build takes minutes: who waits should see that.
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        kube_apiserver()
    with Cluster(forked=True) as made:
        yield made


@pytest.fixture(scope="session", params=_LAYOUTS)
def pair(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Pair]:
    layout = request.param
    near, far = (
        cluster.node(f"{which}-{layout}", layout, kind.mode, *kind.arguments)
        for which, kind in zip(("near", "far"), _BACKENDS[layout], strict=True)
    )
    cluster.wait_ready()
    yield Pair(cluster, near, far)
    for node in (near, far):
        cluster.remove_node(node)


@pytest.fixture
def scene(pair: Pair) -> Iterator[Scene]:
    with pair.cluster.workspace() as workspace:
        yield Scene(workspace, pair.near, pair.far)
