"""While a command hangs: what is taken away is gone all the same, and nobody else is held up."""

from __future__ import annotations

import contextlib
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.dataplane.iptables.tables import tables
from agent.dataplane.iptables.tables.foreign import Listing
from agent.dataplane.iptables.tables.tables import Tables
from agent.kube.events import Delete, Event
from agent.kube.model import Key, Kind, Object
from agent.net import Family
from tests.kernel.semantics.stage import Stage
from tests.kernel.semantics.test_unwritten import sync, tell
from tests.kernel.semantics.written import labels, pods, policy, port

pytestmark = [pytest.mark.iptables, pytest.mark.both_modes]

S, T = labels(pod="s"), labels(pod="t")
AB = policy("s", S, ingress=[{"from": [pods(role="client")]}])
TO_A = policy("t", T, ingress=[{"from": [pods(pod="a")]}])
PATIENCE = 0.05
LONG = 600


@pytest.fixture
def held(stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Have each command that restores wait for as long as a file is there."""
    hold = tmp_path / "hold"
    whole = Tables.command

    def command(which: Tables, family: Family, action: str) -> str:
        found = whole(which, family, action)
        if action != "restore":
            return found
        wrapper = tmp_path / Path(found).name
        if not wrapper.exists():
            wrapper.write_text(f'#!/bin/sh\nwhile test -e {hold}; do sleep 0.02; done\nexec {found} "$@"\n')
            wrapper.chmod(0o755)
        return str(wrapper)

    monkeypatch.setattr(Tables, "command", command)
    # None ends for having waited, however long a busy machine takes meanwhile.
    for limit in ("COMMAND_SECONDS", "WAIT_SECONDS"):
        monkeypatch.setattr(tables, limit, LONG)
    yield hold
    hold.unlink(missing_ok=True)
    monkeypatch.undo()
    stage.given()


def given(stage: Stage, *told: Object, patience: float = PATIENCE) -> None:
    clients = [stage.pod(name, labels={"pod": name, "role": "client"}) for name in "ab"]
    stage.given(*clients, AB, TO_A, *told, patience=patience)


def sound(stage: Stage) -> None:
    assert stage.backend is not None
    reports = stage.finish()
    assert all(report.faults == () for report in reports)
    assert all(report.standing == () for report in reports[-1:])
    with stage.kernel():
        assert stage.backend.audit(stage.engine.lowered) == []


_CHANGES: dict[str, tuple[Object | Event, ...]] = {
    "a peer leaves a set": (),
    "a policy's rules": (policy("s", S, ingress=[{"from": [pods(pod="a")]}]),),
    "a policy goes, another stays": (
        policy("other", S, ingress=[{"from": [pods(pod="a")]}]),
        Delete(Kind.POLICY, Key("x", "s")),
    ),
}


@pytest.mark.parametrize("change", _CHANGES)
def test_a_revocation_takes_effect_while_another_tenants_command_hangs(
    stage: Stage, held: Path, change: str
) -> None:
    given(stage)
    stage.expect("a b -> s", "a -> t")
    held.touch()
    report = tell(stage, policy("t", T, ingress=[{"from": [pods(pod="a")], "ports": [port(80)]}]))
    assert report.waiting
    assert [fault for fault in report.standing if "x/t" in fault.what]
    changed = _CHANGES[change] or (stage.pod("b", labels={"pod": "b"}),)
    report = tell(stage, *changed)
    # It was not waited for.
    assert stage.backend is not None
    assert stage.backend.busy
    closed = bool(_CHANGES[change])
    assert report.waiting is closed
    assert bool([fault for fault in report.standing if "x/s" in fault.what and fault.remedy]) is closed
    stage.expect(
        *(() if closed else ("a -> s",)),
        "s -> a",
        denied=["b -> s", "a -> t", *(["a -> s"] if closed else [])],
    )
    held.unlink()
    sound(stage)
    stage.expect("a -> s", "a -> t: tcp/80", denied=["b -> s", "a -> t: tcp/81"])


def test_peers_leave_and_come_beside_a_command_that_is_waited_for_and_nobody_is_closed(
    stage: Stage, held: Path
) -> None:
    given(stage, patience=90.0)
    reads, writes = os.pipe2(os.O_CLOEXEC)
    assert stage.backend is not None
    stage.backend.heed((reads,))
    os.write(writes, b".")
    held.touch()
    report = tell(stage, policy("t", T, ingress=[{"from": [pods(pod="a")], "ports": [port(80)]}]))
    assert report.waiting
    assert stage.backend.waits().soon > time.monotonic() + 30
    left = tell(stage, stage.pod("b", labels={"pod": "b"}))
    # The rules are those of before.
    stage.expect("a -> s", "a -> t: tcp/80 tcp/81", denied="b -> s")
    came = tell(stage, stage.pod("b", labels={"pod": "b", "role": "client"}))
    stage.expect("a b -> s", "a -> t: tcp/80 tcp/81")
    assert stage.backend.busy
    assert report.standing == left.standing == came.standing == ()
    assert not left.waiting
    assert not came.waiting
    held.unlink()
    sound(stage)
    stage.expect("a b -> s", "a -> t: tcp/80", denied="a -> t: tcp/81")
    os.close(reads)
    os.close(writes)


def test_a_pod_that_is_no_peer_any_more_when_its_policy_comes_again_is_not_let_in(
    stage: Stage, held: Path
) -> None:
    given(stage, policy("other", S, ingress=[{"from": [pods(pod="nobody")]}]))
    stage.expect("a b -> s")
    held.touch()
    tell(stage, Delete(Kind.POLICY, Key("x", "s")))
    stage.expect(denied="a b -> s")
    # The rules in the kernel are what they are to be, and look at a set of before.
    tell(stage, AB, stage.pod("b", labels={"pod": "b"}))
    stage.expect(denied="b -> s")
    held.unlink()
    sound(stage)
    stage.expect("a -> s", denied="b -> s")


def test_a_pod_that_is_newly_isolated_is_closed_while_a_command_hangs(stage: Stage, held: Path) -> None:
    given(stage)
    stage.expect("a -> b")
    held.touch()
    assert tell(stage, policy("t", T, ingress=[{"from": [pods(pod="b")]}])).waiting
    assert tell(stage, policy("b", labels(pod="b"), ingress=[{"from": [pods(pod="a")]}])).waiting
    stage.expect("a b -> s", denied=["a s -> b"])
    held.unlink()
    sound(stage)
    stage.expect("a -> b", "b -> t", denied=["s -> b", "a -> t"])


def test_what_comes_and_goes_while_a_command_hangs_ends_as_it_was_last(stage: Stage, held: Path) -> None:
    given(stage)
    held.touch()
    wide = policy("t", T, ingress=[{"from": [pods()]}])
    assert tell(stage, wide).waiting
    # The command may write at any time what was wanted when it began.
    assert [fault for fault in tell(stage, TO_A).standing if "x/t" in fault.what]
    for told in (
        policy("more", T, ingress=[{"from": [pods(pod="b")]}]),
        Delete(Kind.POLICY, Key("x", "more")),
        stage.pod("b", labels={"pod": "b"}),
        stage.pod("b", labels={"pod": "b", "role": "client"}),
        stage.pod("c", ns="x", labels={"pod": "c", "role": "client"}),
        stage.pod("c", ns="x", labels={"pod": "c"}),
    ):
        assert tell(stage, told).waiting
    stage.expect("a -> s", denied=["a b c -> t", "c -> s"])
    held.unlink()
    sound(stage)
    stage.expect("a b -> s", "a -> t", denied=["b c -> t", "c -> s"])


def test_a_command_that_never_ends_is_killed_and_the_next_sync_writes(
    stage: Stage, held: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(stage)
    held.touch()
    monkeypatch.setattr(tables, "COMMAND_SECONDS", 0.3)
    report = tell(stage, policy("s", S, ingress=[{"from": [pods(pod="a")]}]))
    # On a busy machine its time may be over before anybody has looked at it.
    report = stage.finish()[-1] if report.waiting else report
    assert report.pending
    assert any("no answer in time" in fault.what for fault in report.faults)
    assert any("x/s" in fault.what for fault in report.standing)
    stage.expect("a -> t", denied=["a b -> s"])
    monkeypatch.setattr(tables, "COMMAND_SECONDS", LONG)
    held.unlink()
    sync(stage)
    sound(stage)
    stage.expect("a -> s", "a -> t", denied="b -> s")


def test_a_pod_that_comes_and_goes_while_its_former_chain_is_swept_holds_up_nobody(
    stage: Stage, held: Path
) -> None:
    only_a = policy("b", labels(pod="b"), ingress=[{"from": [pods(pod="a")]}])
    given(stage, only_a)
    tell(stage, Delete(Kind.POLICY, Key("x", "b")))
    assert all(report.faults == () for report in stage.finish())
    assert stage.backend is not None
    held.touch()
    with stage.kernel():
        assert stage.backend.tidy(stage.engine.lowered).waiting
    assert tell(stage, only_a).waiting
    assert tell(stage, Delete(Kind.POLICY, Key("x", "b"))).waiting
    held.unlink()
    sound(stage)
    stage.expect("a s -> b", "a b -> s", denied="b -> t")


def test_of_a_command_that_was_killed_it_is_not_taken_for_granted_that_it_wrote_nothing(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when there is no memory: it may have been about to end."""
    at_80 = {"from": [pods(pod="a")], "ports": [port(80)]}
    stage.given(policy("s", S, ingress=[at_80]))
    marker = tmp_path / "kill"
    whole = Tables.command

    def command(which: Tables, family: Family, action: str) -> str:
        found = whole(which, family, action)
        if action != "restore":
            return found
        wrapper = tmp_path / Path(found).name
        once = f"if rm {marker}-{int(family)} 2>/dev/null; then kill -KILL $$; fi"
        wrapper.write_text(f'#!/bin/sh\n{found} "$@"; code=$?\n{once}\nexit $code\n')
        wrapper.chmod(0o755)
        return str(wrapper)

    monkeypatch.setattr(Tables, "command", command)
    for family in Family:
        Path(f"{marker}-{int(family)}").touch()
    tell(stage, policy("s", S, ingress=[at_80, {"ports": [port(81)]}]))
    assert not list(tmp_path.glob("kill*"))
    assert stage.backend is not None
    with stage.kernel():
        assert stage.backend.audit(stage.engine.lowered) == []
    stage.expect("a -> s: tcp/80 tcp/81", "b -> s: tcp/81", denied=["b -> s: tcp/80", "a -> s: tcp/8000"])


@pytest.mark.nft
def test_where_the_command_that_shows_rules_never_ends_they_are_read_otherwise(
    stage: Stage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stage.given(policy("s", S, ingress=[{"from": [pods(pod="a")]}]))
    wrapper, whole = tmp_path / "save", Tables.command
    wrapper.write_text("#!/bin/sh\nexec sleep 60\n")
    wrapper.chmod(0o755)

    def command(which: Tables, family: Family, action: str) -> str:
        return str(wrapper) if action == "save" else whole(which, family, action)

    run = Tables._run

    def running(which: Tables, command: list[str], text: str = "") -> Listing:
        with pytest.MonkeyPatch.context() as little:
            if command[0] == str(wrapper):
                little.setattr(tables, "COMMAND_SECONDS", 0.5)
            return run(which, command, text)

    monkeypatch.setattr(Tables, "command", command)
    monkeypatch.setattr(Tables, "_run", running)
    stage.given(policy("t", T, ingress=[{"from": [pods(pod="a")]}]))
    stage.expect("a b -> s", "a -> t", denied="b -> t")


@contextlib.contextmanager
def locked(stage: Stage) -> Iterator[None]:
    with Path(stage.near.netns.environment["XTABLES_LOCKFILE"]).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.mark.legacy
@pytest.mark.usefixtures("held")
def test_who_holds_the_lock_of_the_legacy_tables_holds_up_no_revocation(stage: Stage) -> None:
    given(stage)
    stage.expect("a b -> s")
    stage.prove_open("b -> s", "a -> t")  # it takes the lock
    with locked(stage):
        assert tell(stage, policy("t", T, ingress=[])).waiting
        tell(stage, stage.pod("b", labels={"pod": "b"}))
        stage.expect("a -> s", denied=["b -> s", "a -> t"])
    sound(stage)
    stage.expect("a -> s", denied=["b -> s", "a -> t"])
