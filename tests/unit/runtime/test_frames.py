"""When the table that guards frames is written, and what is told of it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from typing import cast

import pytest

from agent.dataplane.differences import What
from agent.dataplane.frames.guard import FrameGuard, Guarding
from agent.dataplane.podlinks import PodLink
from agent.fault import Fault
from agent.kube.model import Key
from agent.observe.health import HealthCheck, State, readyz
from agent.proof.difference import Difference, Kind, Result
from agent.runtime.frames import ASK_EVERY, RETRY, Kernel
from agent.runtime.linked_pods import _Found
from agent.settings import resolve
from tests.patience import PATIENCE
from tests.unit.runtime.events import pod
from tests.unit.runtime.rig import Rig

NOWHERE = Fault("frames of pods are not guarded: Operation not supported", "another kernel", reason="rules")
LEFT = Fault("nftables table netdev netpol-agent-frames is left", "nft delete", blocking=False)
INTERVAL = 10.0


class _Guard:
    """Stands in for what writes the table."""

    def __init__(self, rig: Guarded) -> None:
        self._rig = rig
        self.held = {1: frozenset({b"\2\0\0\0\0\1"})}

    def follow(self, links: Iterable[PodLink]) -> Guarding:
        return self._rig.follow(links)

    def forget(self) -> None:
        self._rig.forgotten += 1

    def close(self) -> None:
        self._rig.closed.append(self._rig.writing)


class Guarded(Rig):
    """A rig with a guard that writes down the links it is given, and answers as it is told."""

    def __init__(self, *, wanted: bool = True) -> None:
        self.followed: list[tuple[str, ...]] = []
        self.at: list[float] = []
        self.answers: list[Guarding] = []
        self.let_go = 0
        self.forgotten = 0
        self.closed: list[bool] = []
        """Whether the table was being written, each time that it was let go of."""
        self.writing = False
        self.version = 1
        settings = resolve({"node_name": "here", "guard_frames": str(wanted).lower()}, {})
        kernel = Kernel(
            lambda: cast(FrameGuard, _Guard(self)), self._let_go, lambda: self.version, lambda: {"kind": 3}
        )
        super().__init__(settings, frames=kernel)

    def follow(self, links: Iterable[PodLink]) -> Guarding:
        """Write down whose frames are to be guarded."""
        names = frozenset(link.name for link in links)
        self.followed.append(tuple(sorted(names)))
        self.at.append(self.clock.monotonic())
        return self.answers.pop(0) if self.answers else Guarding(1, names)

    def _let_go(self) -> tuple[Fault, ...]:
        self.let_go += 1
        return (LEFT,)

    def found(self, *numbers: int) -> None:
        """Have the thread that looks for links find those of some pods."""
        linked = self.agent._linked_pods
        links = [
            PodLink(f"veth{number}", "", False, Key("default", f"p{number}"), (bytes((10, 0, 0, number)),))
            for number in numbers
        ]
        linked._found(_Found(tuple(links), linked._owners()))

    def check(self) -> HealthCheck | None:
        return next((check for check in readyz(self.agent.health()).checks if check.name == "frames"), None)


@pytest.fixture
def guarded() -> Guarded:
    rig = Guarded()
    rig.synced()
    rig.source.sink([pod(1), pod(2)])
    rig.rest(5.0)
    return rig


def test_nothing_is_written_before_the_links_of_this_run_are_known(guarded: Guarded) -> None:
    """What an earlier run left stays meanwhile."""
    assert guarded.followed == []
    assert guarded.check() == HealthCheck("frames", State.WARNING, "not guarded yet")
    guarded.found(1, 2)
    guarded.rest(ASK_EVERY)
    assert guarded.followed == [("veth1", "veth2")]
    assert guarded.backend.authors.beside == 1
    assert guarded.check() == HealthCheck("frames", State.OK, "guarded for all 2 pods")
    assert guarded.agent.figures().frames_dropped == {"kind": 3}
    assert guarded.ready


def test_links_are_followed_as_they_change(guarded: Guarded) -> None:
    guarded.found(1, 2)
    guarded.rest(ASK_EVERY)
    guarded.found(1)
    guarded.turn()
    assert guarded.followed[1:] == [("veth1",)]
    told = "guarded for 1 of 2 pods; no link is known of default/p2"
    assert guarded.check() == HealthCheck("frames", State.WARNING, told)
    assert guarded.ready


def test_links_that_cannot_be_looked_for_let_go_of_nothing(guarded: Guarded) -> None:
    guarded.found(1, 2)
    guarded.rest(ASK_EVERY)
    guarded.agent._linked_pods._found(_Found((), None))
    guarded.rest(3 * INTERVAL)
    assert guarded.followed == [("veth1", "veth2")]
    guarded.found(2)
    guarded.turn()
    assert guarded.followed[1:] == [("veth2",)]


def test_it_looks_each_interval_and_when_somebody_wrote(guarded: Guarded) -> None:
    guarded.found(1)
    guarded.rest(ASK_EVERY)
    guarded.rest(INTERVAL + ASK_EVERY)
    assert len(guarded.followed) == 2
    guarded.version = 2
    guarded.rest(ASK_EVERY * 1.1)
    assert len(guarded.followed) == 3
    guarded.rest(ASK_EVERY * 2)
    assert len(guarded.followed) == 3


def test_what_others_changed_is_counted_and_told(guarded: Guarded) -> None:
    guarded.found(1)
    guarded.answers = [Guarding(1, frozenset({"veth1"}), drift=("the table is gone",))]
    guarded.rest(ASK_EVERY)
    assert guarded.agent.drift.found[What.FRAMES] == 1
    assert guarded.agent.drift.repairs == 1


def test_a_proof_is_told_whose_frames_are_guarded(guarded: Guarded) -> None:
    proving = guarded.agent.proving
    assert proving.frames() is None
    guarded.found(1)
    guarded.rest(ASK_EVERY)
    settled = proving.frames()
    assert settled is not None
    assert settled.commits == 1
    assert [link.name for link in settled.links or ()] == ["veth1"]
    guarded.proofs = [Result()]
    guarded.beside(proving.verify)
    (given,) = guarded.given
    assert given.frames == settled.links
    assert given.holders == {1: (b"\2\0\0\0\0\1",)}
    guarded.found(1, 2)
    assert proving.frames() is None


def test_what_a_proof_finds_has_the_whole_table_written_anew(guarded: Guarded) -> None:
    guarded.found(1)
    guarded.rest(ASK_EVERY)
    followed = len(guarded.followed)
    wrong = Difference(Kind.OPEN, 4, "pod default/p1 may send", pod="default/p1", frames=True)
    guarded.proofs = [Result((wrong,)), Result()]
    guarded.beside(guarded.agent.proving.verify)
    guarded.rest(ASK_EVERY)
    assert guarded.forgotten == 1
    assert len(guarded.followed) == followed + 1
    assert guarded.agent.drift.found[What.UNPROVED] == 1


def test_what_cannot_be_written_is_told_and_tried_again(guarded: Guarded) -> None:
    guarded.found(1)
    guarded.answers = [Guarding(0, frozenset(), (NOWHERE,), pending=True)]
    guarded.until(lambda: guarded.followed)
    guarded.turn()
    assert NOWHERE in guarded.agent.health().faults
    assert not guarded.ready
    guarded.rest(RETRY * 1.5)
    assert len(guarded.followed) == 2
    assert guarded.at[1] - guarded.at[0] >= RETRY * 0.9
    assert guarded.ready


def test_at_the_end_the_table_is_let_go_of_for_another_agent_of_the_process(guarded: Guarded) -> None:
    guarded.found(1)
    guarded.rest(ASK_EVERY)
    assert guarded.closed == []
    guarded.agent.end()
    assert guarded.closed == [False]


def test_what_is_being_written_at_the_end_is_waited_for(guarded: Guarded) -> None:
    begun, goes_on = threading.Event(), threading.Event()

    def follow(links: Iterable[PodLink]) -> Guarding:
        del links
        guarded.writing = True
        begun.set()
        goes_on.wait(PATIENCE)
        guarded.writing = False
        return Guarding(1, frozenset())

    threads: list[threading.Thread] = []

    def start(name: str, target: Callable[[], None]) -> threading.Thread:
        threads.append(threading.Thread(target=target, name=name, daemon=True))
        threads[-1].start()
        return threads[-1]

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(guarded, "follow", follow)
        patched.setattr(guarded.agent.frames, "_start_thread", start)
        guarded.found(1)
        guarded.rest(ASK_EVERY)
        assert begun.wait(PATIENCE)
        threading.Timer(0.1, goes_on.set).start()
        guarded.agent.end()
    threads[0].join(PATIENCE)
    assert guarded.closed
    assert True not in guarded.closed


def test_a_defect_is_told_and_ends_nothing(guarded: Guarded, monkeypatch: pytest.MonkeyPatch) -> None:
    guarded.found(1)
    broken = iter([True])

    def follow(links: Iterable[PodLink]) -> Guarding:
        if next(broken, False):
            raise KeyError("a field")
        return Guarding(1, frozenset(link.name for link in links))

    monkeypatch.setattr(guarded, "follow", follow)
    guarded.rest(ASK_EVERY)
    (fault,) = (fault for fault in guarded.agent.health().faults if fault.reason == "defect")
    assert "KeyError" in fault.what
    guarded.rest(RETRY * 2)
    assert guarded.ready


def test_without_it_what_an_earlier_run_left_is_removed_once() -> None:
    rig = Guarded(wanted=False)
    rig.synced()
    rig.rest(30.0)
    assert (rig.let_go, rig.followed) == (1, [])
    assert rig.check() is None
    assert LEFT in rig.agent.health().faults


def test_where_the_system_has_no_thread_for_it_it_is_tried_again(
    guarded: Guarded, monkeypatch: pytest.MonkeyPatch
) -> None:
    def none(*_: object) -> None:
        raise RuntimeError("can't start new thread")

    guarded.synced()
    some = guarded.agent.frames._start_thread
    monkeypatch.setattr(guarded.agent.frames, "_start_thread", none)
    guarded.found(1)
    guarded.until(lambda: guarded.agent.frames.faults)
    assert "can't start new thread" in guarded.agent.frames.faults[0].what
    monkeypatch.setattr(guarded.agent.frames, "_start_thread", some)
    guarded.until(lambda: not guarded.agent.frames.faults)
    assert guarded.followed == [("veth1",)]
