"""These tests use the real kernel, in network namespaces of their own: they need root."""

from __future__ import annotations

import os

import pytest


@pytest.fixture
def root() -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root: it makes network namespaces")
