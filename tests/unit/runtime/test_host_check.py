"""The host: which families are enforced, and when the backend is told of what changed."""

from __future__ import annotations

from agent.host.check import HostState
from agent.net import Family
from agent.runtime.host_check import chosen_families
from agent.setting_values import Families
from tests.unit.runtime.rig import Rig

ONLY4 = HostState((), frozenset({Family.V4}), False, False)


def test_families_that_come_later_make_another_backend_but_no_early_sync(rig: Rig) -> None:
    rig.host = ONLY4
    rig.start()
    rig.until(lambda: len(rig.made) == 2)
    assert rig.made == [(Family.V4, Family.V6), (Family.V4,)]
    assert rig.agent.families == (Family.V4,)
    assert rig.backend.calls == []
    rig.source.synced()
    rig.until(lambda: rig.ready)


def test_a_family_whose_chains_are_in_the_kernel_stays_enforced_when_the_host_loses_it(rig: Rig) -> None:
    rig.synced()
    rig.until(lambda: rig.ready)
    rig.host = ONLY4
    rig.rest(30.0)
    assert rig.made == [(Family.V4, Family.V6)]
    assert chosen_families(Families.AUTO, ONLY4) == (Family.V4,)
    assert chosen_families(Families.AUTO, ONLY4, {Family.V6}) == (Family.V4, Family.V6)
    assert chosen_families(Families.IPV4, ONLY4, {Family.V6}) == (Family.V4,)


def test_a_family_that_comes_while_enforcing_is_written_by_another_backend_at_once(rig: Rig) -> None:
    rig.host = ONLY4
    rig.start()
    rig.until(lambda: len(rig.made) == 2)
    rig.source.synced()
    rig.until(lambda: rig.ready)
    rig.host = HostState((), frozenset(Family), False, False)
    rig.rest(11.0)
    assert rig.made[-1] == (Family.V4, Family.V6)
    assert [name for name in rig.backend.names if name in ("sync", "expect")] == ["sync", "expect", "sync"]


def test_a_host_that_begins_to_send_packets_of_others_has_everything_written_again(rig: Rig) -> None:
    rig.synced()
    rig.until(lambda: rig.ready)
    rig.host = HostState((), frozenset(Family), False, True)
    rig.rest(31.0)
    assert len(rig.backend.named("judge_transit")) == 3
    assert len(rig.backend.named("sync")) == 2


def test_interfaces_that_change_are_looked_at_at_once(rig: Rig) -> None:
    rig.synced()
    rig.until(lambda: rig.ready)
    rig.backend.moves = [True]
    rig.agent.host_check.interfaces_changed()
    now = rig.clock.now
    rig.turn()
    assert len(rig.backend.named("sync")) == 2
    assert rig.clock.now == now
