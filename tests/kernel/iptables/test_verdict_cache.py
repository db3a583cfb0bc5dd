"""The verdict cache is closed before any change that could deny, and opened when no old packet is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.dataplane.iptables import verdict_cache
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.verdict_cache import Flusher, VerdictCache
from agent.kernel import membarrier
from agent.kernel.ipset import IpSets
from agent.kernel.ipset_errors import SetError
from agent.kernel.ipset_shapes import LIST, SetChange, SetShape
from agent.net import Family
from tests.kernel.kernel_state import (
    await_opened,
)
from tests.lab.cluster import wait_until
from tests.lab.netns import Netns
from tests.patience import PATIENCE

CACHE = names.cache("nft", Family.V4)
MEMBER = "10.0.0.1,tcp:80,10.0.0.2"


@dataclass
class Cache:
    """A cache in a namespace."""

    netns: Netns
    cache: names.Cache = CACHE

    def add(self) -> None:
        """Do as a packet does that was allowed."""
        self.netns.run(["ipset", "add", self.cache.entries, MEMBER, "-exist"])

    def is_open(self) -> bool:
        return self.cache.entries in self.netns.run(["ipset", "list", self.cache.lookup])

    def has_member(self) -> bool:
        return MEMBER in self.netns.run(["ipset", "list", self.cache.entries])

    def answers(self) -> bool:
        """Whether a packet that looks the member up is let through."""
        return self.is_open() and self.has_member()

    def await_open(self) -> None:
        wait_until(self.is_open)


@pytest.fixture
def held(netns: Netns) -> Cache:
    """A closed cache with a member."""
    with IpSets() as ipsets:
        for name, shape in VerdictCache("nft", [Family.V4], 300).shapes(Family.V4).items():
            ipsets.create(name, shape)
    cache = Cache(netns)
    cache.add()
    return cache


def flusher(judged: Callable[[], None] | None = None, **options: Any) -> Flusher:
    made = Flusher(judged, **options)
    made.caches = (CACHE,)
    return made


def change(flusher: Flusher) -> None:
    flusher.hold()
    flusher.release()


def test_a_list_that_names_a_set_is_made_read_and_emptied(held: Cache) -> None:
    with IpSets() as ipsets:
        assert ipsets.header(CACHE.lookup).shape == SetShape(LIST, Family.V4, 0)
        ipsets.enlist(CACHE.lookup, CACHE.entries)
        ipsets.enlist(CACHE.lookup, CACHE.entries)
        assert held.answers()
        assert ipsets.header(CACHE.lookup).size == 1
        assert ipsets.change((), [CACHE.lookup, "KUBE-LOOKUP-nft-6"]) == []
        assert not held.is_open()
        assert held.has_member()
        with pytest.raises(SetError):
            ipsets.enlist("KUBE-LOOKUP-nft-6", CACHE.entries)


def test_it_is_emptied_and_then_opened_when_old_packets_have_been_judged(held: Cache) -> None:
    asked, judged = threading.Event(), threading.Event()

    def wait() -> None:
        asked.set()
        assert judged.wait(PATIENCE)

    opening = flusher(wait)
    change(opening)
    assert asked.wait(PATIENCE)
    assert not held.is_open()
    judged.set()
    held.await_open()
    assert not held.has_member()
    opening.close()


def test_nothing_is_opened_while_something_is_changed(held: Cache) -> None:
    rounds = threading.Semaphore(0)
    opening = flusher(rounds.release)
    opening.hold()
    change(opening)
    time.sleep(0.05)
    assert not held.is_open()
    opening.release()
    assert rounds.acquire(timeout=PATIENCE)
    held.await_open()
    opening.close()


def test_what_is_closed_meanwhile_is_opened_after_another_round(held: Cache) -> None:
    turns: list[str] = []

    def judged() -> None:
        if not turns:
            # Another change, begun and ended while old packets are waited for.
            change(opening)
        else:
            assert not held.is_open()
        turns.append("judged")

    opening = flusher(judged)
    change(opening)
    held.await_open()
    assert len(turns) == 2
    opening.close()


def test_its_thread_ends_when_nothing_is_asked_for_and_begins_again(
    held: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict_cache, "IDLE", 0.01)
    opening = flusher()
    for _ in range(3):
        held.add()
        change(opening)
        wait_until(lambda: not held.has_member())
        await_opened()
    assert held.is_open()


def test_closing_does_what_is_still_to_do(held: Cache) -> None:
    opening = flusher()
    change(opening)
    opening.close()
    assert held.is_open()
    assert not held.has_member()


def test_what_is_held_when_the_agent_ends_stays_closed(held: Cache) -> None:
    opening = flusher()
    opening.hold()
    opening.close()
    opening.release()
    assert not any(thread.name == "flusher" for thread in threading.enumerate())
    assert not held.is_open()


def test_a_set_that_cannot_be_emptied_is_tried_again_before_it_is_looked_into(
    held: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdict_cache, "_RETRY", 0.01)
    refusals = [SetError(CACHE.entries, "out of luck"), SetError(CACHE.entries, "out of luck")]

    class Unlucky(IpSets):
        def change(self, changes: Iterable[SetChange], emptied: Iterable[str] = ()) -> list[SetError]:
            assert not held.is_open()
            return [refusals.pop()] if refusals else super().change(changes, emptied)

    opening = flusher(ipsets=Unlucky)
    change(opening)
    held.await_open()
    assert not held.has_member()
    assert refusals == []
    opening.close()
    assert opening.trouble == ""


def test_a_thread_that_cannot_be_had_holds_up_nothing_and_is_asked_for_again(
    held: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", no_thread)
        opening = flusher()
        change(opening)
        opening.resume()
        assert "no thread" in opening.trouble
        assert not held.is_open()
    opening.resume()
    held.await_open()
    opening.close()
    assert opening.trouble == ""


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("no thread")


def test_what_fails_on_the_thread_is_asked_for_again(held: Cache) -> None:
    failures = [OSError("no descriptor")]

    def made() -> IpSets:
        if failures:
            raise failures.pop()
        return IpSets()

    opening = flusher(ipsets=made)
    change(opening)
    wait_until(lambda: bool(opening.trouble))
    assert not held.is_open()
    wait_until(lambda: not any(t.name == "flusher" for t in threading.enumerate()))
    opening.resume()
    held.await_open()
    opening.close()


def test_the_kernel_says_when_packets_have_been_judged() -> None:
    assert membarrier.grace_period()
    membarrier.packets_judged()


@pytest.mark.parametrize(
    "case", ["the kernel does not say", "one processor", "realtime file", "realtime name"]
)
def test_where_the_kernel_does_not_say_time_has_to_pass(
    case: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    monkeypatch.setattr(membarrier, "_has_several_processors", lambda: True)
    monkeypatch.setattr(membarrier, "_is_realtime", lambda: False)
    membarrier.packets_judged()
    assert waited == []
    if case == "the kernel does not say":
        monkeypatch.setattr(membarrier, "_NUMBER", {})
    elif case == "one processor":
        # One that is taken away meanwhile counts, too.
        several = iter((True, False))
        monkeypatch.setattr(membarrier, "_has_several_processors", lambda: next(several))
    else:
        monkeypatch.undo()
        monkeypatch.setattr(time, "sleep", waited.append)
        monkeypatch.setattr(membarrier, "_has_several_processors", lambda: True)
        realtime = tmp_path / "realtime"
        if case == "realtime file":
            realtime.write_text("1\n")
        else:
            monkeypatch.setattr(membarrier, "_version", lambda: "#1 SMP PREEMPT_RT Debian")
        monkeypatch.setattr(membarrier, "_REALTIME", realtime)
    membarrier.packets_judged()
    assert waited == [membarrier.LONG]
