"""Pods that are asked for by name: each once, not too many at a time, and again when there was no answer."""

from __future__ import annotations

import queue
from collections.abc import Iterator

import pytest

from agent.kube.model import Key, Pod
from agent.sources.cni import asking
from agent.sources.cni.asking import BURST, MOST, Asking
from tests.patience import PATIENCE

WEB = Key("shop", "web")


class Stage:
    """An API server that answers, or fails as often as it is told to."""

    def __init__(self) -> None:
        self.asked: queue.Queue[Key] = queue.Queue()
        self.answers: queue.Queue[tuple[Key, Pod | None]] = queue.Queue()
        self.failures = 0
        self.untold: tuple[Key, ...] = ()
        self.asking = Asking(self._ask, lambda *answer: self.answers.put(answer), lambda: self.untold)

    def _ask(self, key: Key) -> Pod | None:
        self.asked.put(key)
        if self.failures:
            self.failures -= 1
            raise OSError("no answer")
        return Pod(*key)


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    monkeypatch.setattr(asking, "PAUSE", 0.01)
    made = Stage()
    yield made
    made.asking.stop()


def test_a_pod_is_asked_for_once_and_the_thread_comes_with_the_first(stage: Stage) -> None:
    assert stage.asking.threads() == {}
    stage.asking.want(WEB)
    assert stage.answers.get(timeout=PATIENCE) == (WEB, Pod(*WEB))
    assert stage.asking.threads() == {"cni-asks": True}
    assert stage.asked.qsize() == 1


def test_where_there_is_no_answer_it_is_asked_again_and_told(stage: Stage) -> None:
    stage.failures = 2
    stage.asking.want(WEB)
    assert stage.answers.get(timeout=PATIENCE) == (WEB, Pod(*WEB))
    assert [stage.asked.get(timeout=PATIENCE) for _ in range(3)] == [WEB] * 3
    assert stage.asking.fault == ""
    stage.failures = 1_000_000
    stage.asking.want(WEB)
    for _ in range(3):
        stage.asked.get(timeout=PATIENCE)
    assert stage.asking.fault == "no answer"
    stage.failures = 0


def test_pods_that_the_watch_has_not_told_are_asked_for_again(
    stage: Stage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(asking, "AGAIN", 0.01)
    stage.untold = (WEB,)
    stage.asking.want(WEB)
    for _ in range(3):
        stage.answers.get(timeout=PATIENCE)
    stage.untold = ()


def test_only_so_many_are_asked_for_at_once(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "PER_SECOND", 0.001)
    for number in range(int(BURST) + 5):
        stage.asking.want(Key("shop", f"web-{number}"))
    for _ in range(int(BURST)):
        stage.answers.get(timeout=PATIENCE)
    assert stage.answers.empty()


def test_what_waits_is_bounded(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(asking, "PER_SECOND", 0.001)
    for number in range(3 * MOST):
        stage.asking.want(Key("shop", f"web-{number}"))
    assert len(stage.asking._waiting) <= MOST
