"""These tests use the real kernel, in network namespaces of their own: they need root."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.lab.netns import Netns


@pytest.fixture(autouse=True, scope="session")
def _root() -> None:
    if os.geteuid() != 0:
        reason = "needs root: it makes network namespaces"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


@pytest.fixture
def netns() -> Iterator[Netns]:
    """An empty network namespace, which the test's thread has entered."""
    namespace = Netns("test")
    try:
        with namespace.entered():
            yield namespace
    finally:
        namespace.close()
