"""What passed is forgotten for good: also what a packet adds that was on its way when something changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable

import pytest

from agent.dataplane import ipset_members
from agent.dataplane.ipset import IpSets, SetChange
from agent.dataplane.ipset_errors import SetError
from agent.dataplane.iptables import names, passed
from agent.dataplane.iptables.passed import Emptier, Passed, packets_judged
from agent.dataplane.mode import MODES, Mode
from agent.kube.model import Family
from agent.policy.engine import Engine
from tests.kernel.kernel_state import HERE, make_backend, namespace, our_chains, pod, policy
from tests.lab.netns import Netns

NAME = names.passed_set("nft", Family.V4)
MEMBER = "10.0.0.1,tcp:80,10.0.0.2"


@pytest.fixture
def held(netns: Netns) -> Netns:
    """A namespace with the set, and one member in it."""
    with IpSets() as ipsets:
        ipsets.create(NAME, Passed("nft", [Family.V4], 300).shape(Family.V4), hashsize=passed.BUCKETS)
    add(netns)
    return netns


def add(netns: Netns) -> None:
    """Do as a packet does that passed."""
    netns.run(["ipset", "add", NAME, MEMBER])


def members(netns: Netns) -> int:
    return netns.run(["ipset", "list", NAME]).count("10.0.0.1")


def await_empty(netns: Netns) -> None:
    end = time.monotonic() + 20
    while members(netns):
        assert time.monotonic() < end, "not emptied"
        time.sleep(0.01)


def test_sets_are_emptied_when_what_was_on_its_way_has_arrived(held: Netns) -> None:
    asked, arrived = threading.Event(), threading.Event()

    def wait() -> None:
        asked.set()
        assert arrived.wait(20)

    emptier = Emptier([NAME], wait)
    emptier.follow()
    assert asked.wait(20)
    assert members(held) == 1
    arrived.set()
    await_empty(held)
    emptier.close()


def test_what_is_asked_for_meanwhile_is_done_after_it(held: Netns) -> None:
    rounds = threading.Semaphore(0)
    emptier = Emptier([NAME], rounds.release)
    emptier.follow()
    assert rounds.acquire(timeout=20)
    await_empty(held)
    add(held)
    emptier.follow()
    assert rounds.acquire(timeout=20)
    await_empty(held)
    emptier.close()


def test_its_thread_ends_when_nothing_is_asked_for_and_begins_again(
    held: Netns, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(passed, "IDLE", 0.01)
    emptier = Emptier([NAME])
    for _ in range(3):
        add_if_none(held)
        emptier.follow()
        await_empty(held)
        end = time.monotonic() + 20
        while any(thread.name == "emptier" for thread in threading.enumerate()):
            assert time.monotonic() < end, "the thread stays"
            time.sleep(0.01)


def add_if_none(netns: Netns) -> None:
    netns.run(["ipset", "add", NAME, MEMBER, "-exist"])


def test_closing_does_what_is_still_to_do(held: Netns) -> None:
    emptier = Emptier([NAME])
    emptier.follow()
    emptier.close()
    assert members(held) == 0


def test_a_set_that_cannot_be_emptied_is_tried_again(held: Netns, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(passed, "_RETRY", 0.01)
    refusals = [SetError(NAME, "out of luck"), SetError(NAME, "out of luck")]

    class Unlucky(IpSets):
        def change(self, changes: Iterable[SetChange], emptied: Iterable[str] = ()) -> list[SetError]:
            return [refusals.pop()] if refusals else super().change(changes, emptied)

    emptier = Emptier([NAME], ipsets=Unlucky)
    emptier.follow()
    await_empty(held)
    assert refusals == []
    emptier.close()


def test_the_kernel_says_when_packets_have_been_judged() -> None:
    assert passed.grace_period()
    packets_judged()


def test_where_the_kernel_does_not_say_time_has_to_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(passed, "_MEMBARRIER", {})
    monkeypatch.setattr(time, "sleep", waited.append)
    packets_judged()
    assert waited == [1.0]


@pytest.mark.usefixtures("netns", "lock_file")
@pytest.mark.parametrize("mode", MODES)
def test_without_the_type_in_the_kernel_every_packet_is_judged(
    mode: Mode, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(HERE)
    engine.apply([namespace("default"), pod("a", 1), policy("a", ingress=[])], 0.0)
    monkeypatch.setitem(ipset_members.TYPE_REVISION, "hash:none", 0)
    with monkeypatch.context() as lacking:
        lacking.setattr(passed, "TYPE", "hash:none")
        backend = make_backend(mode)
        report = backend.sync(engine.program)
        assert not report.pending
        assert [fault.blocking for fault in report.faults] == [False, False]
        assert all("every packet is judged" in fault.what for fault in report.faults)
        assert "KUBE-PASSED" not in str(our_chains(mode))
    assert backend.sync(engine.program).faults == ()
    assert "KUBE-PASSED" in str(our_chains(mode)[Family.V4][names.FORWARD])
    assert backend.drift(engine.program) == []
    backend.close()
