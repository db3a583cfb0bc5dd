"""Clusters for tests: one API server per worker, and two nodes at a time of one layout and backend."""

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

_VARIANTS = [
    pytest.param(
        (layout, kind),
        id=f"{layout}-{kind.name}",
        marks=pytest.mark.xdist_group(f"cluster-{layout}-{kind.name}"),
    )
    for layout in Layout
    for kind in BACKENDS.values()
]


class Pair(NamedTuple):
    """Two nodes with an agent each, of one layout and backend."""

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
    with Cluster() as made:
        yield made


@pytest.fixture(scope="session", params=_VARIANTS)
def pair(request: pytest.FixtureRequest, cluster: Cluster) -> Iterator[Pair]:
    layout, kind = request.param
    near, far = (
        cluster.node(f"{which}-{layout}-{kind.name}", layout, kind.mode, *kind.arguments)
        for which in ("near", "far")
    )
    cluster.wait_ready()
    yield Pair(cluster, near, far)
    for node in (near, far):
        cluster.remove_node(node)


@pytest.fixture
def scene(pair: Pair) -> Iterator[Scene]:
    with pair.cluster.workspace() as workspace:
        yield Scene(workspace, pair.near, pair.far)
