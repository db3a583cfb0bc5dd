"""The probe tells right flows from wrong ones: in a real kernel, and with records made by hand."""

from __future__ import annotations

import pytest

from agent.dataplane.iptables.rules import names
from agent.net import Direction, Family
from tests.chaos.judge import Allowance, Expected, Record, Since, judge
from tests.chaos.probe import Lane, Probe, both_families
from tests.chaos.stage import fresh_flows
from tests.lab.lab import Lab

ALLOWED, DENIED, EITHER = (Since(0, expected) for expected in Expected)


def record(*arrived: int, lanes: int = 2) -> Record:
    """Return packets a hundredth of a second apart, the first at 100 s."""
    return Record(lanes, [100 + n / 100 for n in range(len(arrived))], bytes(arrived))


def test_nothing_is_wrong() -> None:
    report = judge(record(1, 0, 1, 0), ["a", "d"], [[ALLOWED], [DENIED]])
    assert (report.flows, report.wrong, report.told()) == (4, 0, [])
    assert report.rate == pytest.approx(4 / 0.03)


def test_wrong_flows_are_told_with_their_times() -> None:
    report = judge(record(1, 0, 0, 1, 0, 1, 1, 0), ["a", "d"], [[ALLOWED], [DENIED]])
    lost, through = report.tallies
    assert lost.wrong == pytest.approx((0.02, 0.04))
    assert lost.longest == pytest.approx(0.04)
    assert through.wrong == pytest.approx((0.03, 0.05))
    assert report.told() == [
        "a: 2 of 4 flows wrong, the first at 0.020 s, the last at 0.040 s, at most 0.040 s long",
        "d: 2 of 4 flows wrong, the first at 0.030 s, the last at 0.050 s, at most 0.040 s long",
    ]


def test_what_is_expected_may_change() -> None:
    since = [Since(0, Expected.DENIED), Since(2, Expected.EITHER), Since(4, Expected.ALLOWED)]
    assert judge(record(0, 0, 1, 0, 1, 1, lanes=1), ["a"], [since]).wrong == 0
    assert judge(record(0, 1, 1, 0, 0, 1, lanes=1), ["a"], [since]).tallies[0].wrong == pytest.approx(
        (0.01, 0.04)
    )


def test_wrong_flows_within_the_promised_time_are_counted_apart() -> None:
    allowance = Allowance(100.01, 100.025)
    report = judge(record(0, 1, 1, 1, lanes=1), ["d"], [[DENIED]], [allowance])
    assert (report.wrong, report.in_time) == (1, 2)
    assert report.took == pytest.approx(0.01)
    assert report.tallies[0].wrong == pytest.approx((0.03,))


def test_a_loss_is_excused_while_the_machine_drops_packets_and_an_opening_never() -> None:
    found = record(0, 1)
    dropping = Record(found.lanes, found.times, found.arrived, [(100.05, 100.06)])
    report = judge(dropping, ["a", "d"], [[ALLOWED], [DENIED]])
    assert (report.excused, report.wrong) == (1, 1)
    assert [tally.excused for tally in report.tallies] == [1, 0]


def test_a_packet_that_was_not_sent_says_nothing() -> None:
    report = judge(record(2, 2, lanes=1), ["a"], [[ALLOWED]])
    assert (report.flows, report.wrong) == (0, 0)


def test_a_probe_that_has_sent_nothing() -> None:
    assert judge(record(), ["a", "d"], [[ALLOWED], [DENIED]]).flows == 0


@pytest.mark.usefixtures("root")
def test_the_probe_sees_a_rule_come_and_go() -> None:
    with Lab() as lab:
        node = lab.node("node", "routed")
        fresh_flows(node)
        client, web = lab.pod(node, "client"), lab.pod(node, "web")
        lanes = both_families(client, web, 5000, Expected.ALLOWED)
        rule = ("FORWARD", "-p", "udp", "--dport", "5000", "-j", "DROP")
        with Probe(lanes, 400) as probe:
            assert all(probe.passes(lane) for lane in lanes)
            node.iptables(Family.V4, "-A", *rule)
            assert [probe.passes(lane) for lane in lanes] == [False, True]
            node.iptables(Family.V4, "-D", *rule)
            probe.expect(Expected.DENIED, lambda lane: lane.family is Family.V6)
            assert all(probe.passes(lane) for lane in lanes)
    lost, through = probe.report.tallies
    # What other tests send may have the machine drop packets: these are excused.
    assert 24 <= len(lost.wrong) + lost.excused < lost.sent
    assert 0 < len(through.wrong) < through.sent
    assert lost.longest >= lost.wrong[-1] - lost.wrong[0]
    assert probe.report.flows == lost.sent + through.sent


@pytest.mark.usefixtures("root")
def test_an_allowed_time_begins_with_the_fault() -> None:
    with Lab() as lab:
        node = lab.node("node", "routed")
        fresh_flows(node)
        lane = Lane(lab.pod(node, "client"), lab.pod(node, "web"), 5000, Family.V4, Expected.DENIED)
        with Probe([lane], 400) as probe:
            probe.allow(60)
            assert probe.passes(lane)
            node.iptables(Family.V4, "-A", "FORWARD", "-j", "DROP")
            assert not probe.passes(lane)
    # The first packets were sent before anybody could say that they may be wrong.
    assert probe.report.in_time > 0
    assert 0 < probe.report.took < 60


def test_a_pod_that_is_closed_is_counted_apart() -> None:
    found = record(0, 1, 0, 1)
    closed = Record(found.lanes, found.times, found.arrived, closed=[[(99, 100.01)], [(99, 101)]])
    report = judge(closed, ["a", "d"], [[ALLOWED], [DENIED]])
    assert report.held_back == 1
    assert [len(tally.wrong) for tally in report.tallies] == [1, 2]


@pytest.mark.usefixtures("root")
def test_the_probe_sees_which_pods_are_closed() -> None:
    with Lab() as lab:
        node = lab.node("node", "routed")
        fresh_flows(node)
        lane = Lane(lab.pod(node, "client"), lab.pod(node, "web"), 5000, Family.V4, Expected.ALLOWED)
        name = names.closed_set(Direction.INGRESS, Family.V4)
        node.iptables(Family.V4, "-A", "FORWARD", "-j", "DROP")
        with Probe([lane], 400) as probe:
            assert not probe.passes(lane)
            node.run("ipset", "create", name, "hash:ip")
            node.run("ipset", "add", name, lane.destination.address(Family.V4))
            assert not probe.passes(lane)
    assert probe.report.held_back >= 24
    assert probe.report.wrong + probe.report.excused >= 24
