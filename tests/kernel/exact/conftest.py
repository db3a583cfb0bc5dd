"""One arena for each layout, made when a test first asks for it and shared by all of its worker."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.kernel.exact.arena import Arena
from tests.lab.node import Layout


@pytest.fixture(scope="session")
def arenas(_root: None) -> Iterator[Callable[[Layout], Arena]]:
    made: dict[Layout, Arena] = {}

    def get(layout: Layout) -> Arena:
        if layout not in made:
            made[layout] = Arena(layout)
        return made[layout]

    yield get
    for arena in made.values():
        arena.close()


@pytest.fixture(
    params=[pytest.param(layout, marks=pytest.mark.xdist_group(f"exact-{layout}")) for layout in Layout]
)
def arena(arenas: Callable[[Layout], Arena], request: pytest.FixtureRequest) -> Arena:
    return arenas(request.param)
