"""Audited policies deny nothing, and what they would deny is logged and counted; disabled ones do nothing."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec
import pytest

from agent.dataplane.iptables.counters import read
from agent.dataplane.iptables.options import LogRules, Options
from agent.dataplane.iptables.rules import names
from agent.dataplane.logged import Decided
from agent.dataplane.traffic import Subject, Told
from agent.kernel.nflog import NflogSocket
from agent.kube.logging import Amount, Logging
from agent.kube.mode import Mode, ModeSaid
from agent.kube.model import NetworkPolicy
from agent.net import Direction, Family
from agent.observe.flows.flow import Flow
from tests.kernel.semantics.stage import Stage, serial
from tests.kernel.semantics.test_logging import Reader, told_of_a_flood
from tests.kernel.semantics.written import isolated, labels, pods, policy, port
from tests.lab import packets

pytestmark = pytest.mark.both_modes

GROUP = 41
LOG = Options(log=LogRules(GROUP))
ALL = Logging(Amount.ALL)


def staged(found: NetworkPolicy, mode: Mode = Mode.AUDIT) -> NetworkPolicy:
    return msgspec.structs.replace(found, staging=ModeSaid(mode))


WEB = policy("web", labels(pod="s"), ingress=[{"from": [pods(pod="a")], "ports": [port(80)]}])


@contextlib.contextmanager
def reading(stage: Stage) -> Iterator[Reader]:
    with stage.kernel(), NflogSocket(GROUP) as log:
        yield Reader(stage, log)


def would(told: list[Flow]) -> set[tuple[Direction, str, str, int | None]]:
    assert {report.verdict for report in told} <= {Decided.WOULD_DENY}
    return {(r.direction, r.source.pod, r.destination.pod, r.destination.port) for r in told}


def counted(stage: Stage) -> int:
    """Return how many packets the rules have counted as ones that would be denied."""
    found = 0
    with stage.kernel():
        for one in read(stage.mode.value, tuple(Family), policies=False):
            if one.subject == Subject(Told.WOULD_DENY, "ingress", "x"):
                found += one.amount.packets
    return found


def test_an_audited_policy_denies_nothing_and_what_it_would_deny_is_told(stage: Stage) -> None:
    stage.given(
        stage.pod("s", logging=ALL), staged(WEB), staged(isolated("t", types=["Egress"])), options=LOG
    )
    with reading(stage) as reader:
        stage.expect("a b c -> s: tcp/80 tcp/81", "t -> c: udp/53", "a -> t")
        told = reader.packets(12)
    assert would(told) == {
        (Direction.INGRESS, "x/a", "x/s", 81),
        (Direction.INGRESS, "x/b", "x/s", 80),
        (Direction.INGRESS, "x/b", "x/s", 81),
        (Direction.INGRESS, "y/c", "x/s", 80),
        (Direction.INGRESS, "y/c", "x/s", 81),
        (Direction.EGRESS, "x/t", "y/c", 53),
    }
    found = next(r for r in told if (r.source.pod, r.destination.port) == ("x/b", 80))
    assert found.policies == ("x/web",)
    assert found.why == (
        "audited: rule 0 of x/web comes nearest: its port matches, its peer does not "
        "(x/b does not match pod=a: it has pod=b)"
    )


def test_beside_an_enforced_policy_an_audited_one_changes_nothing(stage: Stage) -> None:
    stage.given(
        stage.pod("s", logging=ALL),
        isolated("s"),
        policy("some", labels(pod="s"), ingress=[{"from": [pods(pod="b")]}]),
        staged(WEB),
        options=LOG,
    )
    with reading(stage) as reader:
        stage.expect("b -> s: tcp/80", denied=["a -> s: tcp/80", "c -> s: tcp/80"])
        told = reader.packets(4)
    assert {report.verdict for report in told} == {Decided.DENIED}
    found = next(r for r in told if r.source.pod == "x/a")
    assert found.why.endswith("; rule 0 of x/web, which is audited, would allow it")


def test_a_disabled_policy_is_as_good_as_gone(stage: Stage) -> None:
    stage.given(
        staged(isolated("s"), Mode.DISABLED),
        isolated("t"),
        staged(policy("open", labels(pod="t"), ingress=[{}]), Mode.DISABLED),
    )
    stage.expect("a b c -> s", denied="a b c -> t")


def test_each_packet_that_would_be_denied_counts_though_its_like_is_let_through(stage: Stage) -> None:
    # Of an isolated source: what it may is cached.
    stage.given(policy("out", labels(pod="a"), egress=[{}]), staged(isolated("s")), options=LOG)
    before = counted(stage)
    for _ in range(20):
        source, destination = stage.pods["a"].v4, stage.pods["s"].v4
        packets.send_ip(stage.pods["a"], packets.udp(source, destination, 53, b"", source_port=serial()))
    stage.lab.settle()
    assert counted(stage) - before == 20


def test_it_is_logged_by_the_limit_though_denied_packets_are_not(stage: Stage) -> None:
    options = Options(log=LogRules(GROUP, rate=1, burst=3))
    stage.given(stage.pod("s", logging=Logging(Amount.OFF)), staged(isolated("s")), options=options)
    with reading(stage) as reader:
        told = told_of_a_flood(stage, reader, 100, burst=3)
    assert told.verdict is Decided.WOULD_DENY


def test_from_mode_to_mode_and_back_each_holds_at_once_and_rules_are_as_the_kernel_prints_them(
    stage: Stage,
) -> None:
    stage.given(stage.namespace("x"), WEB, options=LOG)
    for mode in (Mode.AUDIT, Mode.ENFORCE, Mode.DISABLED, Mode.AUDIT, Mode.DISABLED, Mode.ENFORCE):
        stage.then(staged(WEB, mode))
        with stage.kernel():
            assert stage.backend is not None
            assert stage.backend.audit(stage.engine.lowered) == []
        if mode is Mode.ENFORCE:
            stage.expect("a -> s: tcp/80", denied=["b -> s: tcp/80", "a -> s: tcp/81"])
        else:
            stage.expect("a b -> s: tcp/80 tcp/81")
    # Of a namespace, for all that do not say it themselves.
    stage.then(WEB, isolated("t"), stage.namespace("x", staging=ModeSaid(Mode.AUDIT)))
    stage.expect("b -> s t: tcp/81")
    stage.then(staged(WEB, Mode.ENFORCE))
    stage.expect("b -> t: tcp/81", denied="b -> s: tcp/81")


def test_nothing_of_it_is_in_the_kernel_where_nothing_is_audited(stage: Stage) -> None:
    stage.given(WEB, options=LOG)
    with stage.kernel():
        before = stage.near.netns.run([f"iptables-{stage.mode}-save", "-t", "filter"])
    assert "AUDIT" not in before
    assert "NFLOG" not in before
    stage.then(staged(isolated("t")))
    stage.then(staged(isolated("t"), Mode.DISABLED))
    stage.tidy()
    with stage.kernel():
        after = stage.near.netns.run([f"iptables-{stage.mode}-save", "-t", "filter"])
    assert not any(part in after for part in ("AUDIT", names.AUDIT_POD_PREFIX, names.AUDIT_TREE_PREFIX))
