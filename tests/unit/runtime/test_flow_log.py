"""The thread that reads logged packets: turn by turn, with a clock that stands still."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest

from agent.dataplane.logged import Decided, Judged, LogCount
from agent.kernel.nflog import Logged
from agent.kube.logging import logging_of
from agent.net import Direction
from agent.observe.flows.flow import Flow, Report, Unlogged
from agent.observe.flows.hub import Flows
from agent.observe.flows.inventory import Inventory
from agent.policy.engine import Engine
from agent.runtime.flow_log import GATHER, IDLE, RETRY, Counted, FlowLog, make_flow_log
from agent.runtime.inbox import Inbox
from agent.settings import resolve
from tests.build import pod, upsert
from tests.clock import FakeClock
from tests.lab import packets
from tests.unit.observe.flows.test_digest import DB, DENY, SHOP, WEB

WINDOW, BURST = 30.0, 5


def syn(port: int) -> Logged:
    prefix = Judged(Decided.DENIED, Direction.INGRESS).prefix
    return Logged(2, 2, prefix, packets.tcp_syn("10.244.1.10", "10.244.1.11", port))


class Group:
    """What the kernel has logged, lot by lot; without more, reading takes as long as it may."""

    def __init__(self, clock: FakeClock, *lots: list[Logged]) -> None:
        self.lost = self.overruns = 0
        self.lots = list(lots)
        self.clock = clock
        self.ends: FlowLog | None = None
        """What is to stop when it next reads."""

    def __enter__(self) -> Group:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, seconds: float) -> list[Logged]:
        if self.ends is not None:
            self.ends.stop()
            return []
        if self.lots:
            return self.lots.pop(0)
        self.clock.sleep(seconds)
        return []


class Thread:
    def is_alive(self) -> bool:
        return True

    def join(self, timeout: float) -> None:
        pass


class Rig:
    def __init__(self, *lots: list[Logged], wanted: Callable[[], bool] = lambda: True) -> None:
        self.clock = FakeClock()
        self.group = Group(self.clock, *lots)
        self.engine = Engine("here")
        self.engine.apply(upsert(WEB, DB, SHOP, DENY), 0.0)
        self.flows = Flows()
        self.told: list[Report] = []
        self.counted: Counted = {}
        self.counts = 0
        self.refusals: list[OSError] = []
        self.runs: list[Callable[[], None]] = []
        self.log = FlowLog(
            Inventory(self.engine.extract, self.engine.all_pods),
            self.flows,
            (self.told.append,),
            self.clock,
            self.start_thread,
            self.listen,
            wanted=wanted,
            window=WINDOW,
            burst=BURST,
            count=self.count,
        )

    def start_thread(self, name: str, run: Callable[[], None]) -> Thread:
        assert name == "flows"
        self.runs.append(run)
        return Thread()

    def listen(self) -> Group:
        if self.refusals:
            raise self.refusals.pop(0)
        return self.group

    def count(self) -> Counted:
        self.counts += 1
        return self.counted

    def pass_window(self) -> None:
        end = self.clock.now + WINDOW + IDLE
        while self.clock.now < end:
            self.log.turn(self.group)


def test_what_comes_is_gathered_told_and_kept() -> None:
    rig = Rig([syn(80)], [syn(81)], [syn(80)])
    began = rig.clock.now
    rig.log.turn(rig.group)
    assert [report.destination.port for report in rig.told if isinstance(report, Flow)] == [80, 81]
    assert rig.flows.recent() == rig.told
    # More is gathered for a moment, and not longer.
    assert rig.clock.now - began <= GATHER + 0.01
    rig.pass_window()
    assert [report.count for report in rig.told if isinstance(report, Flow)] == [1, 1, 1]


def test_nothing_to_do_is_an_idle_second() -> None:
    rig = Rig()
    began = rig.clock.now
    rig.log.turn(rig.group)
    assert (rig.clock.now - began, rig.told, rig.counts) == (IDLE, [], 0)


def test_what_the_kernel_could_not_hand_over_is_told() -> None:
    rig = Rig([syn(80)])
    rig.group.lost = 9
    rig.log.turn(rig.group)
    rig.pass_window()
    (told,) = [report for report in rig.told if isinstance(report, Unlogged)]
    assert (told.packets, told.why) == (9, "they came faster than they were read")
    assert rig.log.unlogged == {"not_read": 9}


def test_what_the_limit_left_out_is_told_by_the_rules_counters() -> None:
    rig = Rig([syn(80)] * BURST)
    rig.counted = {(Direction.INGRESS, "shop/db"): LogCount(1000, 20)}
    rig.log.turn(rig.group)
    rig.pass_window()
    unlogged = [report for report in rig.told if isinstance(report, Unlogged)]
    assert [(told.packets, told.pod, told.direction) for told in unlogged] == [
        (980, "shop/db", Direction.INGRESS)
    ]
    assert rig.log.unlogged == {"limit": 980}
    # Next time what is new of it; a count that begins anew is all new.
    for counted, expected in ((LogCount(1100, 30), 90), (LogCount(50, 10), 40), (LogCount(60, 20), 0)):
        rig.told.clear()
        rig.counted = {(Direction.INGRESS, "shop/db"): counted}
        rig.group.lots = [[syn(80)] * BURST]
        rig.log.turn(rig.group)
        rig.pass_window()
        assert sum(report.packets for report in rig.told if isinstance(report, Unlogged)) == expected


def test_counters_are_not_read_where_the_limit_cannot_have_held() -> None:
    rig = Rig([syn(80)] * (BURST - 1))
    rig.log.turn(rig.group)
    rig.pass_window()
    assert rig.counts == 0


def test_addresses_that_a_pod_forges_take_no_memory_and_their_packets_are_counted() -> None:
    prefix = Judged(Decided.DENIED, Direction.EGRESS).prefix
    forged = [
        Logged(2, 2, prefix, packets.tcp_syn(f"10.{n >> 8}.{n & 255}.9", "10.244.1.11", 80))
        for n in range(900)
    ]
    rig = Rig(forged)
    rig.counted = {(Direction.EGRESS, "shop/web"): LogCount(5000, 900)}
    rig.log.turn(rig.group)
    assert len(rig.log._came) <= 256
    rig.pass_window()
    assert rig.log.unlogged["limit"] == 4100


def test_a_flood_is_read_at_a_pace_that_leaves_the_processor_to_the_loop() -> None:
    rig = Rig(*([syn(80)] * 8 for _ in range(2000)))
    began = rig.clock.now
    for _ in range(4):
        rig.log.turn(rig.group)
    read = 8 * (2000 - len(rig.group.lots))
    assert read / (rig.clock.now - began) == pytest.approx(4096, rel=0.01)


def test_a_group_that_cannot_be_had_is_told_and_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    rig = Rig([syn(80)])
    rig.refusals = [PermissionError(1, "Operation not permitted")]
    waited: list[float] = []
    faults = []

    def wait(seconds: float) -> bool:
        waited.append(seconds)
        faults.append(rig.log.faults())
        return False

    monkeypatch.setattr(rig.log._stopping, "wait", wait)
    rig.group.ends = rig.log
    rig.log.start()
    rig.runs[0]()
    assert waited == [RETRY]
    assert "--log-group" in faults[0][0].remedy
    assert not faults[0][0].blocking
    assert rig.log.faults() == ()


def test_nobody_listens_until_a_pod_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = [False, False, True]
    rig = Rig(wanted=lambda: answers.pop(0))
    waited: list[float] = []
    monkeypatch.setattr(rig.log._stopping, "wait", lambda seconds: waited.append(seconds))
    rig.group.ends = rig.log
    rig.log.start()
    rig.runs[0]()
    assert waited == [IDLE, IDLE]
    assert answers == []


def test_it_ends_though_nobody_was_ever_logged() -> None:
    rig = Rig(wanted=lambda: False)
    rig.log.start()
    rig.log.stop()
    rig.runs[0]()


def test_an_annotation_that_is_not_known_is_a_warning() -> None:
    settings = resolve({"node_name": "here"}, {})
    engine = Engine("here")
    wrong = logging_of("yes", None)
    engine.apply(upsert(*(msgspec.structs.replace(pod(name), logging=wrong) for name in ("a", "b"))), 0.0)
    made = make_flow_log(settings, engine, Inbox(), Flows(), dict, dict, FakeClock(), lambda *_: Thread())
    (fault,) = made.faults()
    assert fault.what == (
        "the annotation netpol-agent.io/log-denied=yes of Pod shop/a, and of 1 other object, is not known, "
        "and counts as none"
    )
    assert (fault.remedy, fault.blocking) == ("give one of off, sampled, all", False)
