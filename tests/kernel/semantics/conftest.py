"""One stage for each layout and mode, made when a test first asks for it and shared by all."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from agent.net import Family
from tests.kernel.semantics.stage import Stage
from tests.lab.node import Layout, Mode

_MARKS = {
    "bridge": "only where pods are on a bridge",
    "routed": "only where pods are routed",
    "both_modes": "with the legacy tables too",
    "nft": "with nft alone, whatever its file says",
    "legacy": "with the legacy tables alone",
}

Stages = Callable[[Layout, Mode], Stage]


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in _MARKS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


@pytest.fixture(scope="session")
def stages(_root: None) -> Iterator[Stages]:
    made: dict[tuple[Layout, Mode], Stage] = {}

    def get(layout: Layout, mode: Mode) -> Stage:
        if (layout, mode) not in made:
            made[layout, mode] = Stage(layout, mode)
        return made[layout, mode]

    yield get
    for stage in made.values():
        stage.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test its stages: both layouts, unless a mark says which; so with the modes."""
    if "stage" not in metafunc.fixturenames:
        return
    marks = {mark.name for mark in metafunc.definition.iter_markers()}
    layouts = [layout for layout in Layout if layout in marks] or list(Layout)
    both = list(Mode) if "both_modes" in marks else [Mode.NFT]
    modes = [mode for mode in Mode if mode in marks] or both
    metafunc.parametrize(
        "stage",
        [
            pytest.param(
                (layout, mode), id=f"{layout}-{mode}", marks=pytest.mark.xdist_group(f"semantics-{layout}")
            )
            for layout in layouts
            for mode in modes
        ],
        indirect=True,
    )


@pytest.fixture
def stage(stages: Stages, request: pytest.FixtureRequest) -> Stage:
    """The stage, as the last test left it: begin with ``stage.given``."""
    return stages(*request.param)


@pytest.fixture(params=list(Family), ids=lambda family: f"IPv{int(family)}")
def family(request: pytest.FixtureRequest) -> Family:
    return Family(request.param)
