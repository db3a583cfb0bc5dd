"""Agents whose loop a test turns."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from agent.settings import resolve
from tests.unit.runtime.rig import Rig


@pytest.fixture
def make(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Rig]]:
    """Make rigs; ``fresh``: on a node whose kernel holds nothing of the agent's."""
    # Of tests' own objects a collection has to see.
    monkeypatch.setattr("gc.freeze", lambda: None)
    monkeypatch.setattr("gc.collect", lambda: 0)
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
