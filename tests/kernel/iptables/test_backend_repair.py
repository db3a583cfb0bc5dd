"""The iptables backend when somebody interferes, and when the kernel does not take what it is given."""

from __future__ import annotations

import pytest

from agent.dataplane.iptables.rules import names
from agent.dataplane.iptables.tables.tables import Table, TableError, Tables
from agent.dataplane.iptables.variant import MODES, PROGRAMS
from agent.kube.events import Event
from agent.kube.model import Key, Rule
from agent.net import Direction, Family
from agent.policy.engine import Engine
from agent.policy.program import PodId, PolicyId
from tests.build import labelled
from tests.kernel.kernel_state import (
    HERE,
    TwoPods,
    block,
    break_policy,
    gone,
    iptables,
    make_backend,
    our_chains,
    our_sets,
    pod_event,
    policy,
)
from tests.lab.backends import FAMILIES
from tests.lab.netns import Netns

pytestmark = pytest.mark.usefixtures("netns", "lock_file")
EACH_MODE = pytest.mark.parametrize("mode", MODES)


# Drift


@pytest.mark.parametrize("with_rules", [False, True])
def test_what_others_write_is_noticed_whatever_is_applied_after_it(node: TwoPods, with_rules: bool) -> None:
    more = [pod_event(f"more-{n}", n, node="there", app="b") for n in (8, 9)]
    added = [policy(f"added-{n}", selector=labelled(app="a"), ingress=[]) for n in (8, 9)]
    for number in range(2):
        if number == 1:
            assert not node.backend.disturbed()
            iptables(node.mode, Family.V4, "-I", "FORWARD", "-j", "ACCEPT")
        events: list[Event] = [more[number], *([added[number]] if with_rules else [])]
        writes = node.backend._rules.writes
        assert not node.backend.apply(node.program, node.engine.apply(events, 1.0)).faults
        assert (node.backend._rules.writes > writes) is with_rules
        node.backend.tidy(node.program)
    assert node.backend.disturbed()
    assert any("could let packets pass" in difference for difference in node.differences())
    assert not node.backend.disturbed()


def test_writes_of_ours_that_are_refused_are_no_disturbance(
    node: TwoPods, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as broken:
        break_policy(broken, lambda found: found.policy == Key("default", "added"))
        added = policy("added", selector=labelled(app="a"), ingress=[])
        assert node.backend.apply(node.program, node.engine.apply([added], 1.0)).pending
        assert not node.backend.disturbed()


def test_a_deleted_rule_is_told_and_put_back(node: TwoPods) -> None:
    iptables(node.mode, Family.V6, "-D", node.chain("a"), "1")
    node.assert_repaired(f"IPv6: chain {node.chain('a')} is not as it was left")


def test_an_inserted_rule_is_told_and_taken_out(node: TwoPods) -> None:
    iptables(node.mode, Family.V4, "-I", node.chain("a"), "-j", "ACCEPT")
    node.assert_repaired(f"IPv4: chain {node.chain('a')} is not as it was left")


def test_a_flushed_and_a_missing_chain_are_put_back(node: TwoPods) -> None:
    pod_chain = names.pod_chain(PodId(Direction.INGRESS, Key("default", "a")))
    iptables(node.mode, Family.V4, "-F", pod_chain)
    iptables(node.mode, Family.V4, "-F", node.chain("a"))
    iptables(node.mode, Family.V4, "-X", node.chain("a"))
    assert f"IPv4: chain {node.chain('a')} is gone" in node.differences()
    node.assert_repaired(f"IPv4: chain {pod_chain} is not as it was left")


def test_everything_flushed_is_put_back(node: TwoPods) -> None:
    for family in FAMILIES:
        iptables(node.mode, family, "-F")
        iptables(node.mode, family, "-X")
    node.assert_repaired("FORWARD: its rule is missing")


def test_a_chain_of_ours_that_nobody_asked_for_is_removed(node: TwoPods) -> None:
    stranger = "KUBE-POD-FW-" + "a" * 16
    iptables(node.mode, Family.V4, "-N", stranger)
    node.assert_repaired(f"chain {stranger}")


def test_members_taken_from_sets_are_put_back(node: TwoPods, netns: Netns) -> None:
    netns.run(["ipset", "del", node.peers("b"), "10.0.0.2"])
    node.assert_repaired(f"set {node.peers('b')} has 0 members, not 1")
    netns.run(["ipset", "flush", names.isolated_set(Direction.INGRESS, Family.V4)])
    node.assert_repaired("has 0 members, not 2")
    netns.run(["ipset", "add", node.peers("a"), "10.9.9.9"])
    node.assert_repaired("has 2 members, not 1")


def test_a_member_in_anothers_place_is_told_and_put_right(node: TwoPods, netns: Netns) -> None:
    isolated = names.isolated_set(Direction.INGRESS, Family.V4)
    for name, member in ((node.peers("b"), "10.0.0.2"), (isolated, "10.0.0.1")):
        netns.run(["ipset", "add", name, "10.9.9.9"])
        netns.run(["ipset", "del", name, member])
        node.assert_repaired(f"set {name} lacks 1 member")


def test_a_set_that_is_gone_and_all_sets_gone_are_made_again(node: TwoPods, netns: Netns) -> None:
    iptables(node.mode, Family.V4, "-F", node.chain("a"))
    netns.run(["ipset", "destroy", node.peers("b")])
    node.assert_repaired(f"set {node.peers('b')} is gone")
    for family in FAMILIES:
        iptables(node.mode, family, "-F")
        iptables(node.mode, family, "-X")
    netns.run(["ipset", "flush"])
    netns.run(["ipset", "destroy"])
    node.assert_repaired("is gone")


def test_a_set_that_has_another_type_is_made_anew(node: TwoPods, netns: Netns) -> None:
    iptables(node.mode, Family.V4, "-F", node.chain("a"))
    netns.run(["ipset", "destroy", node.peers("b")])
    netns.run(["ipset", "create", node.peers("b"), "hash:net"])
    report = node.backend.sync(node.program)
    assert report.faults == ()
    assert (our_chains(node.mode), our_sets()) == node.whole


def test_a_sync_says_which_rules_it_has_put_back(node: TwoPods) -> None:
    assert node.backend.sync(node.program).found == ()
    iptables(node.mode, Family.V4, "-F", node.chain("a"))
    iptables(node.mode, Family.V6, "-F", "OUTPUT")
    told = [str(difference) for difference in node.backend.sync(node.program).found]
    assert told == [
        f"IPv4: chain {node.chain('a')} is not as it was left",
        "IPv6: OUTPUT: its rule is missing",
    ]
    assert node.backend.sync(node.program).found == ()
    added = policy("added", selector=labelled(app="a"), ingress=[])
    assert not node.backend.apply(node.program, node.engine.apply([added, gone(policy("b"))], 1.0)).faults
    assert node.backend.sync(node.program).found == ()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_family_that_cannot_be_read_does_not_stop_the_other(
    node: TwoPods, family: Family, netns: Netns, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = Tables.read

    def failing(tables: Tables, wanted: Family) -> Table:
        if wanted is family:
            raise TableError("iptables-save", "no answer", refused=False)
        return read(tables, wanted)

    other = next(f for f in FAMILIES if f is not family)
    chain = names.policy_chain(PolicyId(Direction.INGRESS, Key("default", "added")))
    for each in FAMILIES:
        iptables(node.mode, each, "-F", node.chain("a"))
    added = policy("added", selector=labelled(app="a"), ingress=[])
    with monkeypatch.context() as broken:
        broken.setattr(Tables, "read", failing)
        assert node.differences()[0].startswith(f"IPv{int(family)}: the rules cannot be read")
        report = node.backend.sync(node.program)
        assert report.pending
        assert [fault.what[:4] for fault in report.faults if fault.blocking] == [f"IPv{int(family)}"]
        assert iptables(node.mode, family, "-S", node.chain("a")).count("\n") == 1
        assert iptables(node.mode, other, "-S", node.chain("a")).count("\n") > 1
        report = node.backend.apply(node.program, node.engine.apply([added], 1.0))
        assert report.pending
        assert iptables(node.mode, other, "-S", chain)
        assert f":{chain} " not in netns.run([f"{PROGRAMS[family]}-{node.mode}-save", "-t", "filter"])
    assert node.backend.sync(node.program).faults == ()
    assert chain in our_chains(node.mode)[family]


def test_a_change_seen_by_a_look_that_was_overtaken_is_seen_by_the_next(node: TwoPods) -> None:
    assert node.backend.audit(node.program) == []
    iptables(node.mode, Family.V4, "-D", "FORWARD", "1")
    reading = node.backend.read()
    reading.run()
    added = policy("added", selector=labelled(app="a"), ingress=[])
    node.backend.apply(node.program, node.engine.apply([added], 1.0))
    assert node.backend.overtaken(reading)
    assert node.differences() == ["IPv4: FORWARD: its rule is missing"]


def test_what_is_known_does_not_outlive_a_sync_that_came_in_between(node: TwoPods) -> None:
    assert node.backend.audit(node.program) == []
    reading = node.backend.read()
    reading.run()
    assert node.backend.sync(node.program).faults == ()
    node.backend.audit(node.program, reading)
    assert not node.backend._audit._foreign_seen or node.mode == "legacy"


def test_a_look_is_not_taken_in_that_is_older_than_a_sync(node: TwoPods) -> None:
    reading = node.backend.read()
    reading.run()
    iptables(node.mode, Family.V4, "-A", "FORWARD", "-j", "DROP")
    assert node.backend.sync(node.program).writes == 0
    assert node.backend.audit(node.program, reading) == []
    assert not node.backend._audit._foreign_seen
    assert node.differences() == []


@pytest.mark.parametrize("written_between", [False, True])
def test_a_repair_goes_by_what_the_look_has_read_unless_somebody_wrote_since(
    node: TwoPods, written_between: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Family] = []
    tables_read = Tables.read

    def counted(tables: Tables, family: Family) -> Table:
        read.append(family)
        return tables_read(tables, family)

    monkeypatch.setattr(Tables, "read", counted)
    iptables(node.mode, Family.V4, "-F", node.chain("a"))
    reading = node.backend.read()
    reading.run()
    if written_between:
        iptables(node.mode, Family.V6, "-F", node.chain("a"))
    assert node.backend.audit(node.program, reading)
    read.clear()
    report = node.backend.sync(node.program, reading=reading)
    assert not report.pending
    assert bool(read) is (written_between or node.mode == "legacy")
    assert node.differences() == []
    assert (our_chains(node.mode), our_sets()) == node.whole


def test_a_look_before_a_write_of_this_agent_is_nothing_to_repair_by(node: TwoPods) -> None:
    reading = node.backend.read()
    reading.run()
    added = policy("added", selector=labelled(app="a"), ingress=[])
    assert not node.backend.apply(node.program, node.engine.apply([added], 1.0)).faults
    iptables(node.mode, Family.V4, "-F", node.chain("added"))
    assert not node.backend.sync(node.program, reading=reading).pending
    assert node.differences() == []


def test_blocks_are_written_as_the_kernel_prints_them(node: TwoPods) -> None:
    peer = block("::2:0/112", "::2:100/120")
    added = policy("added", selector=labelled(app="a"), ingress=[Rule((peer,))])
    report = node.backend.apply(node.program, node.engine.apply([added], 1.0))
    assert report.faults == ()
    node.backend.tidy(node.program)
    node.backend._audit._foreign_seen = False
    assert node.backend.audit(node.program) == []


def test_tidying_stops_between_writes_when_something_else_has_come_and_goes_on_later() -> None:
    engine, backend = Engine(HERE), make_backend("nft")
    local = [pod_event(f"p{number}", number, app="a") for number in range(1, 4)]
    engine.apply([*local, policy("a", selector=labelled(app="a"), ingress=[])], 0.0)
    backend.sync(engine.lowered)
    for event in (gone(policy("a")), policy("b", selector=labelled(app="a"), egress=[])):
        backend.apply(engine.lowered, engine.apply([event], 1.0))
    calls = 0
    while (report := backend.tidy(engine.lowered, lambda: True)).unfinished:
        assert report.writes
        calls += 1
        assert calls < 10
    assert calls > 1
    assert not backend.untidy()
    assert backend.audit(engine.lowered) == []
