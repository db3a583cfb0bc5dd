"""One cluster on which deploy/ is installed, and the image."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.deploy.stage import DeployedCluster
from tests.lab.image import Image, image
from tests.lab.kube_build import kube_apiserver, kubectl

ON_IMAGE = [pytest.param(None, marks=pytest.mark.xdist_group("image"), id="image")]


@pytest.fixture(scope="session", params=ON_IMAGE)
def built(request: pytest.FixtureRequest) -> Image:
    if os.geteuid() != 0:
        pytest.skip("needs root: it builds an image")
    # Minutes the first time: who waits should see that.
    with request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        return image()


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
