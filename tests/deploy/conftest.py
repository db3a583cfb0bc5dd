"""One cluster on which deploy/ is installed."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.deploy.stage import DeployedCluster
from tests.lab.kube_build import kube_apiserver, kubectl


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
