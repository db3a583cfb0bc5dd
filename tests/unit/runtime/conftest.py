"""Agents whose loop a test turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from agent.settings import resolve
from tests.unit.runtime.rig import Rig


@pytest.fixture(autouse=True)
def _garbage(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave it to Python to look for garbage: an agent is not alone here, and may not be ended."""
    for name in ("collect", "disable", "freeze", "unfreeze"):
        monkeypatch.setattr(f"gc.{name}", lambda: 0)


@pytest.fixture
def make() -> Iterator[Callable[..., Rig]]:
    """Make rigs; ``fresh``: on a node whose kernel holds nothing of the agent's."""
    made: list[Rig] = []

    def rig(*, fresh: bool = False, **settings: str) -> Rig:
        made.append(Rig(resolve({"node_name": "here", "verify_interval": "0", **settings}, {}), fresh=fresh))
        return made[-1]

    yield rig
    for one in made:
        one.agent.end()


@pytest.fixture
def rig(make: Callable[..., Rig]) -> Rig:
    return make()


@pytest.fixture
def fresh(make: Callable[..., Rig]) -> Rig:
    """A rig on a node whose kernel holds nothing of the agent's."""
    return make(fresh=True)
