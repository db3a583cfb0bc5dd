"""The features on a cluster: the one that TEST_KUBECTL reaches, such as ``kubectl --context=NAME``.

Without TEST_KUBECTL there is nothing to collect here: ``make test`` must not write to whatever cluster a
kubeconfig happens to name.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator

import pytest

from tests.conformance.kubectl import Kubectl
from tests.conformance.scene import ClusterScene, Ground, survey

TEST_KUBECTL = os.environ.get("TEST_KUBECTL", "")
TEST_IMAGE = os.environ.get("TEST_IMAGE", "")

collect_ignore = [] if TEST_KUBECTL else ["test_features.py"]


@pytest.fixture(scope="session")
def ground() -> Ground:
    return survey(Kubectl(shlex.split(TEST_KUBECTL)), TEST_IMAGE)


@pytest.fixture
def scene(ground: Ground) -> Iterator[ClusterScene]:
    with ClusterScene(ground) as made:
        yield made
