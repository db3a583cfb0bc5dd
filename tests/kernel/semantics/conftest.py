"""One stage for each layout and backend, made when a test first asks for it and shared by all."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from agent.dataplane.frames.guard import remove
from agent.dataplane.podlinks import LinkFinder
from agent.net import Family
from tests.kernel.semantics.framed import OnStage
from tests.kernel.semantics.stage import Stage
from tests.lab.backends import BACKENDS, IPTABLES, USUAL, BackendKind
from tests.lab.node import Layout

_MARKS = {
    "bridge": "only where pods are on a bridge",
    "routed": "only where pods are routed",
    "both_modes": "with the legacy tables too",
    "nft": "with iptables by nft alone, whatever its file says",
    "legacy": "with the legacy tables alone",
    "iptables": "about iptables itself: with no other backend",
}

Stages = Callable[[Layout, BackendKind], Stage]


def pytest_configure(config: pytest.Config) -> None:
    for name, meaning in _MARKS.items():
        config.addinivalue_line("markers", f"{name}: {meaning}")


@pytest.fixture(scope="session")
def stages(_root: None) -> Iterator[Stages]:
    made: dict[tuple[Layout, str], Stage] = {}

    def get(layout: Layout, kind: BackendKind) -> Stage:
        if (layout, kind.name) not in made:
            made[layout, kind.name] = Stage(layout, kind)
        return made[layout, kind.name]

    yield get
    for stage in made.values():
        stage.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Give each test its stages: both layouts, unless a mark says which; so with the backends."""
    if "stage" not in metafunc.fixturenames:
        return
    marks = {mark.name for mark in metafunc.definition.iter_markers()}
    layouts = [layout for layout in Layout if layout in marks] or list(Layout)
    usual = [kind for kind in USUAL if "iptables" not in marks or kind.name in IPTABLES]
    both = [*usual, IPTABLES["legacy"]] if "both_modes" in marks else usual
    kinds = [kind for kind in BACKENDS.values() if kind.name in marks] or both
    metafunc.parametrize(
        "stage",
        [
            pytest.param(
                (layout, kind),
                id=f"{layout}-{kind.name}",
                marks=pytest.mark.xdist_group(f"semantics-{layout}"),
            )
            for layout in layouts
            for kind in kinds
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


@pytest.fixture
def finder(stage: Stage) -> Iterator[LinkFinder]:
    """What finds links; afterwards the stage's backend knows of none, as other tests have it."""
    yield LinkFinder()
    stage.unlink()


@pytest.fixture
def guarded(stage: Stage) -> Iterator[OnStage]:
    """What guards the frames of the stage's pods; afterwards nothing does."""
    on_stage = OnStage(stage)
    try:
        yield on_stage
    finally:
        on_stage.guard.close()
        with stage.kernel():
            assert remove() == ()
