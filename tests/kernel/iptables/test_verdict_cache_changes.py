"""The verdict cache while the backend changes rules and members: closed before anything could be denied."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
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
from agent.dataplane.iptables.verdict_cache import Flusher
from agent.kernel import ipset_members, membarrier
from agent.kernel.ipset import CMD_DEL, CMD_FLUSH
from agent.kernel.netlink import Message, NetlinkSocket
from agent.kube.model import Rule
from agent.net import Family
from agent.policy.engine import Engine
from agent.policy.lower.lowered import Delta, LoweredProgram
from tests.build import labelled
from tests.kernel.iptables.test_verdict_cache import Cache, no_thread
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
from tests.patience import PATIENCE


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
    monkeypatch.setattr(membarrier, "grace_period", lambda: slow.wait(PATIENCE))
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

    wait_until(finished)


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
