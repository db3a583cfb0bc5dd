"""What tests of policies share."""

from __future__ import annotations

import pytest

from agent.policy.engine import Engine


@pytest.fixture
def engine() -> Engine:
    return Engine("here")
