"""What an agent that runs does not use is not loaded: it costs each start, and memory on every node."""

from __future__ import annotations

import subprocess
import sys

import pytest

PACKAGES = ("rich", "pyroute2", "kubernetes", "iptc", "yaml", "watchfiles", "jinja2")
WITH_THE_FIRST_QUESTION = ("netaddr", "prometheus_client")
WHO_ASKS = ("agent.observe.explain.live", "agent.observe.page.pages", "agent.spec")


@pytest.mark.parametrize("package", [*PACKAGES, *WITH_THE_FIRST_QUESTION, *WHO_ASKS])
def test_running_loads_only_what_is_used(package: str) -> None:
    code = f"import agent.runtime.start, sys; sys.exit({package!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


HEAVY = (*PACKAGES, *WITH_THE_FIRST_QUESTION, "click", "structlog", "msgspec", "agent.log", "agent.settings")


@pytest.mark.parametrize("package", [*HEAVY, "agent.dataplane", "agent.runtime.start"])
def test_what_holds_a_guard_loads_nearly_nothing(package: str) -> None:
    code = f"import agent.runtime.holding, sys; sys.exit({package!r} in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
