"""What passed is forgotten for good: also what a packet adds that was on its way when something changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.dataplane import ipset_members
from agent.dataplane.backend import Report
from agent.dataplane.ipset import IpSets, SetChange
from agent.dataplane.ipset_errors import SetError
from agent.dataplane.iptables import names, passed
from agent.dataplane.iptables.backend import IptablesBackend
from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.passed import Emptier, Passed, packets_judged
from agent.dataplane.iptables.tables import TableError, Tables
from agent.dataplane.mode import MODES, Mode
from agent.kube.model import Family, Rule
from agent.policy.engine import Engine
from agent.policy.program import Delta
from tests.kernel.kernel_state import (
    HERE,
    await_emptied,
    gone,
    labelled,
    make_backend,
    namespace,
    our_chains,
    pod,
    pods_of,
    policy,
)
from tests.lab.cluster import wait_until
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
    wait_until(lambda: not members(netns), timeout=20)


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
        await_emptied()


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


def test_a_thread_that_cannot_be_had_holds_up_nothing_and_is_asked_for_again(
    held: Netns, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", no_thread)
        emptier = Emptier([NAME])
        emptier.follow()
        emptier.resume()
        assert "no thread" in emptier.trouble
        assert members(held) == 1
    emptier.resume()
    await_empty(held)
    emptier.close()
    assert emptier.trouble == ""


def no_thread(_: threading.Thread) -> None:
    raise RuntimeError("no thread")


def test_what_fails_on_the_thread_is_asked_for_again(held: Netns) -> None:
    failures = [OSError("no descriptor")]

    def opened() -> IpSets:
        if failures:
            raise failures.pop()
        return IpSets()

    emptier = Emptier([NAME], ipsets=opened)
    emptier.follow()
    wait_until(lambda: bool(emptier.trouble), timeout=20)
    assert members(held) == 1
    emptier.close()
    emptier.resume()
    await_empty(held)


def test_the_kernel_says_when_packets_have_been_judged() -> None:
    assert passed.grace_period()
    packets_judged()


def test_where_the_kernel_does_not_say_time_has_to_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(passed, "_MEMBARRIER", {})
    monkeypatch.setattr(time, "sleep", waited.append)
    packets_judged()
    assert waited == [1.0]


@dataclass
class Revocation:
    """Two pods, of which one may reach the other; that it did is remembered, and about to be revoked."""

    netns: Netns
    engine: Engine
    backend: IptablesBackend
    name: str

    def revoke(self, *, by_label: bool) -> Delta:
        told = [pod("b", 2, app="x")] if by_label else [gone(policy("a", ingress=[]))]
        return self.engine.apply(told, 1.0)

    def remember(self) -> None:
        """Do as a packet does that passed."""
        self.netns.run(["ipset", "add", self.name, MEMBER, "-exist"])

    def apply(self, delta: Delta) -> Report:
        return self.backend.apply(self.engine.program, delta)

    def remembered(self) -> bool:
        return MEMBER in self.netns.run(["ipset", "list", self.name])

    def await_forgotten(self) -> None:
        wait_until(lambda: not self.remembered(), timeout=20)


@pytest.fixture(params=MODES)
def revocation(
    request: pytest.FixtureRequest, netns: Netns, lock_file: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Revocation]:
    del lock_file
    monkeypatch.setattr(passed, "IDLE", 0.01)
    engine = Engine(HERE)
    engine.apply(
        [
            namespace("default"),
            pod("a", 1, app="a"),
            pod("b", 2, app="b"),
            policy("a", selector=labelled(app="a"), ingress=[Rule((pods_of(app="b"),))]),
            policy("none", selector=labelled(app="a"), ingress=[]),
        ],
        0.0,
    )
    backend = make_backend(request.param, Options(remember=300))
    assert backend.sync(engine.program).faults == ()
    found = Revocation(netns, engine, backend, names.passed_set(request.param, Family.V4))
    await_emptied()
    found.remember()
    yield found
    backend.close()


@pytest.mark.parametrize("by_label", [True, False])
def test_a_revocation_forgets_at_once(
    revocation: Revocation, by_label: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Emptier, "follow", lambda _: None)
    assert revocation.apply(revocation.revoke(by_label=by_label)).faults == ()
    assert not revocation.remembered()


@pytest.mark.parametrize("by_label", [True, False])
def test_a_revocation_forgets_also_what_was_on_its_way(
    revocation: Revocation, by_label: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = threading.Event()
    monkeypatch.setattr(passed, "grace_period", lambda: slow.wait(20))
    assert revocation.apply(revocation.revoke(by_label=by_label)).faults == ()
    revocation.remember()
    slow.set()
    revocation.await_forgotten()


def test_it_is_emptied_again_after_the_change_not_before(
    revocation: Revocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = IpSets.change

    def slowly(self: IpSets, changes: Iterable[SetChange], emptied: Iterable[str] = ()) -> list[SetError]:
        changes = list(changes)
        if changes:
            time.sleep(0.2)
        errors = whole(self, changes, emptied)
        if changes:
            revocation.remember()
        return errors

    monkeypatch.setattr(IpSets, "change", slowly)
    assert revocation.apply(revocation.revoke(by_label=True)).faults == ()
    revocation.await_forgotten()


def test_rules_that_are_taken_in_parts_forget_too(
    revocation: Revocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Emptier, "follow", lambda _: None)
    whole = Tables.restore
    refused: list[Mapping[Family, list[str]]] = []

    def restore(tables: Tables, lines: Mapping[Family, list[str]], *others: Any) -> dict[Family, TableError]:
        if not refused:
            refused.append(lines)
            return {family: TableError("restore", "out of memory") for family in lines}
        return whole(tables, lines, *others)

    monkeypatch.setattr(Tables, "restore", restore)
    assert revocation.apply(revocation.revoke(by_label=False)).faults == ()
    assert refused
    assert not revocation.remembered()


def test_without_a_thread_a_revocation_is_made(
    revocation: Revocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", no_thread)
        report = revocation.apply(revocation.revoke(by_label=True))
    assert not revocation.remembered()
    assert [fault.blocking for fault in report.faults] == [False]
    assert not report.pending
    revocation.remember()
    revocation.backend.disturbed()
    revocation.await_forgotten()


def test_rules_of_a_run_that_remembered_are_no_way_around_one_that_does_not(
    revocation: Revocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Emptier, "follow", lambda _: None)
    revocation.revoke(by_label=True)
    backend = make_backend(revocation.backend.mode, Options(remember=0))
    monkeypatch.setattr(
        Tables,
        "restore",
        lambda _, lines, *__: {f: TableError("restore", "locked", refused=False) for f in lines},
    )
    assert backend.sync(revocation.engine.program).pending
    assert not revocation.remembered()
    backend.close()


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
