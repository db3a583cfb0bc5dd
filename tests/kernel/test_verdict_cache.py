"""The verdict cache is closed before any change that could deny, and opened when no old packet is left."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from agent.dataplane.backend import Report
from agent.dataplane.iptables import cleanup, verdict_cache
from agent.dataplane.iptables.backend import IptablesBackend
from agent.dataplane.iptables.options import Options
from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.tables.tables import TableError, Tables
from agent.dataplane.iptables.variant import MODES, Mode
from agent.dataplane.iptables.verdict_cache import Flusher, VerdictCache
from agent.kernel import ipset_members, membarrier
from agent.kernel.ipset import CMD_DEL, CMD_FLUSH, IpSets
from agent.kernel.ipset_errors import SetError
from agent.kernel.ipset_shapes import LIST, SetChange, SetShape
from agent.kernel.netlink import Message, NetlinkSocket
from agent.kube.model import Rule
from agent.net import Family
from agent.policy.engine import Engine
from agent.policy.lower.lowered import Delta, LoweredProgram
from tests.build import labelled
from tests.kernel.kernel_state import (
    HERE,
    await_opened,
    gone,
    make_backend,
    namespace,
    our_chains,
    pod_event,
    pods_of,
    policy,
)
from tests.lab.backends import IPTABLES
from tests.lab.cluster import wait_until
from tests.lab.netns import Netns

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
        wait_until(self.is_open, timeout=20)


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
        assert judged.wait(20)

    opening = flusher(wait)
    change(opening)
    assert asked.wait(20)
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
    assert rounds.acquire(timeout=20)
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
        wait_until(lambda: not held.has_member(), timeout=20)
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
    wait_until(lambda: bool(opening.trouble), timeout=20)
    assert not held.is_open()
    wait_until(lambda: not any(t.name == "flusher" for t in threading.enumerate()), timeout=20)
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


@dataclass
class Revocation:
    """Two pods, of which one may reach the other; that is cached, and about to be revoked."""

    engine: Engine
    backend: IptablesBackend
    cache: Cache

    def revoke(self, *, by_label: bool) -> Delta:
        told = [pod_event("b", 2, app="x")] if by_label else [gone(policy("a", ingress=[]))]
        return self.engine.apply(told, 1.0)

    def apply(self, delta: Delta) -> Report:
        return self.backend.apply(self.engine.lowered, delta)


@pytest.fixture(params=MODES)
def revocation(
    request: pytest.FixtureRequest, netns: Netns, lock_file: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Revocation]:
    del lock_file
    monkeypatch.setattr(verdict_cache, "IDLE", 0.01)
    engine = Engine(HERE)
    engine.apply(
        [
            namespace("default"),
            pod_event("a", 1, app="a"),
            pod_event("b", 2, app="b"),
            policy("a", selector=labelled(app="a"), ingress=[Rule((pods_of(app="b"),))]),
            policy("none", selector=labelled(app="a"), ingress=[]),
        ],
        0.0,
    )
    backend = make_backend(request.param, Options(cache=300))
    assert backend.sync(engine.lowered).faults == ()
    cache = Cache(netns, names.cache(request.param, Family.V4))
    await_opened()
    cache.add()
    assert cache.answers()
    yield Revocation(engine, backend, cache)
    backend.close()


@pytest.mark.parametrize("by_label", [True, False])
def test_a_revocation_closes_it_and_an_agent_killed_then_leaves_it_closed(
    revocation: Revocation, by_label: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Flusher, "_follow", lambda _: None)
    assert revocation.apply(revocation.revoke(by_label=by_label)).faults == ()
    assert not revocation.cache.is_open()


@pytest.mark.parametrize("by_label", [True, False])
def test_what_was_on_its_way_is_not_in_it_when_it_opens(
    revocation: Revocation, by_label: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = threading.Event()
    monkeypatch.setattr(membarrier, "grace_period", lambda: slow.wait(20))
    assert revocation.apply(revocation.revoke(by_label=by_label)).faults == ()
    revocation.cache.add()
    assert not revocation.cache.is_open()
    slow.set()
    revocation.cache.await_open()
    assert not revocation.cache.has_member()


def test_rules_are_rewritten_while_it_is_closed(
    revocation: Revocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    restore = Tables.restore
    seen: list[str] = []

    def restored(tables: Tables, lines: Mapping[Family, list[str]], *others: Any) -> dict[Family, TableError]:
        assert not revocation.cache.is_open()
        failed = restore(tables, lines, *others)
        assert not revocation.cache.is_open()
        seen.append("rules")
        return failed

    monkeypatch.setattr(Tables, "restore", restored)
    assert revocation.apply(revocation.revoke(by_label=False)).faults == ()
    assert seen == ["rules"]


def test_members_are_taken_away_after_it_is_closed_in_one_message(
    revocation: Revocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = NetlinkSocket.request
    sent: list[list[int]] = []

    def request(self: NetlinkSocket, messages: Sequence[Message]) -> list[tuple[int, int]]:
        sent.append([message.kind & 0xFF for message in messages])
        return whole(self, messages)

    monkeypatch.setattr(Flusher, "_follow", lambda _: None)
    monkeypatch.setattr(NetlinkSocket, "request", request)
    assert revocation.apply(revocation.revoke(by_label=True)).faults == ()
    assert sent == [[CMD_FLUSH, CMD_FLUSH, CMD_DEL, CMD_DEL]]


def finish(backend: IptablesBackend, program: LoweredProgram) -> None:
    """Go on with what is being written until it is."""

    def finished() -> bool:
        if backend.busy:
            backend.resume(program)
        return not backend.busy

    wait_until(finished, timeout=20)


def test_it_stays_closed_for_as_long_as_a_command_runs_that_nobody_waits_for(
    revocation: Revocation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hold = tmp_path / "hold"
    whole = Tables.command

    def command(tables: Tables, family: Family, action: str) -> str:
        found = whole(tables, family, action)
        if action != "restore":
            return found
        slow = tmp_path / Path(found).name
        slow.write_text(f'#!/bin/sh\nwhile test -e {hold}; do sleep 0.02; done\nexec {found} "$@"\n')
        slow.chmod(0o755)
        return str(slow)

    program = revocation.engine.lowered
    backend = IPTABLES[revocation.backend.mode].make(Options(cache=300), patience=0.05)
    assert backend.sync(program).faults == ()
    finish(backend, program)
    revocation.cache.await_open()
    hold.touch()
    monkeypatch.setattr(Tables, "command", command)
    backend.apply(program, revocation.revoke(by_label=False))
    assert backend.busy
    # Another revocation comes and goes meanwhile, and old packets are all through.
    backend.apply(program, revocation.revoke(by_label=True))
    membarrier.packets_judged()
    await_opened()
    assert not revocation.cache.is_open()
    hold.unlink()
    finish(backend, program)
    revocation.cache.await_open()
    backend.close()


def test_what_cannot_deny_leaves_it_open(revocation: Revocation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flusher, "hold", lambda _: pytest.fail("closed"))
    one_more = [
        pod_event("c", 3, app="b"),
        pod_event("d", 4),
        policy("c", selector=labelled(app="c"), ingress=[]),
    ]
    assert revocation.apply(revocation.engine.apply(one_more, 1.0)).faults == ()
    assert revocation.cache.answers()


def test_rules_that_are_taken_in_parts_are_taken_while_it_is_closed(
    revocation: Revocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = Tables.restore
    refused: list[Mapping[Family, list[str]]] = []

    def restore(tables: Tables, lines: Mapping[Family, list[str]], *others: Any) -> dict[Family, TableError]:
        assert not revocation.cache.is_open()
        if not refused:
            refused.append(lines)
            return {family: TableError("restore", "out of memory") for family in lines}
        return whole(tables, lines, *others)

    monkeypatch.setattr(Tables, "restore", restore)
    assert revocation.apply(revocation.revoke(by_label=False)).faults == ()
    assert refused


def test_without_a_thread_a_revocation_is_made(
    revocation: Revocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as short:
        short.setattr(threading.Thread, "start", no_thread)
        report = revocation.apply(revocation.revoke(by_label=True))
    assert not revocation.cache.is_open()
    assert [fault.blocking for fault in report.faults] == [False]
    assert not report.pending
    revocation.backend.upkeep()
    revocation.cache.await_open()
    assert not revocation.cache.has_member()


def test_rules_of_a_run_that_cached_are_no_way_around_one_that_does_not(
    revocation: Revocation, monkeypatch: pytest.MonkeyPatch
) -> None:
    revocation.revoke(by_label=True)
    backend = make_backend(revocation.backend.mode, Options(cache=0))
    with monkeypatch.context() as locked:
        locked.setattr(
            Tables,
            "restore",
            lambda _, lines, *__: {f: TableError("restore", "locked", refused=False) for f in lines},
        )
        assert backend.sync(revocation.engine.lowered).pending
    assert not revocation.cache.is_open()
    assert backend.sync(revocation.engine.lowered).faults == ()
    for _ in range(3):
        backend.tidy(revocation.engine.lowered)
    assert "KUBE-LOOKUP" not in revocation.cache.netns.run(["ipset", "list", "-n"])
    assert "KUBE-CACHE" not in revocation.cache.netns.run(["ipset", "list", "-n"])
    backend.close()


def test_an_open_cache_is_removed_with_everything_else(revocation: Revocation) -> None:
    revocation.backend.close()
    assert cleanup.remove(revocation.backend.mode, tuple(Family)) == []
    assert revocation.cache.is_open()
    assert cleanup.remove_sets() == []
    assert cleanup.is_clean()


@pytest.mark.usefixtures("netns", "lock_file")
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("missing", ["TYPE", "LIST"])
def test_without_the_types_in_the_kernel_every_packet_is_judged(
    mode: Mode, missing: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine(HERE)
    engine.apply([namespace("default"), pod_event("a", 1), policy("a", ingress=[])], 0.0)
    monkeypatch.setitem(ipset_members.TYPE_REVISION, "hash:none", 0)
    with monkeypatch.context() as lacking:
        lacking.setattr(verdict_cache, missing, "hash:none")
        backend = make_backend(mode)
        report = backend.sync(engine.lowered)
        assert not report.pending
        assert [fault.blocking for fault in report.faults] == [False, False]
        assert all("every packet is judged" in fault.what for fault in report.faults)
        assert "KUBE-LOOKUP" not in str(our_chains(mode))
    assert backend.sync(engine.lowered).faults == ()
    assert "KUBE-LOOKUP" in str(our_chains(mode)[Family.V4][names.FORWARD])
    assert backend.audit(engine.lowered) == []
    backend.close()
